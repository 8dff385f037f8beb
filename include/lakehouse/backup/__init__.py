"""Backup sets: every file that the lake refers to, in another bucket; checked, signed, readable in place. No JVM."""
