"""The command line. Heavy imports stay inside the commands, so that `--help` and light commands answer at once."""
