"""Definitions that every layer shares: errors, settings, names, time, types and the canonical encoding.

Nothing here may import pyspark, airflow, boto3 or a database driver.
"""
