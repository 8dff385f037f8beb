"""The engine: the only importer of pyspark. DataFrames and SQL only, so that a job runs on any kind of session."""
