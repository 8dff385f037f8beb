"""The Lakehouse page: what every table is, how fresh, how good and what is held, as HTML. Knows nothing of Airflow.

It reads metadata, the logs of batches, the records of runs and the contracts' compiled index; no JVM, and never a row
of a table of data. It asks the servers as the reader, and changes nothing.
"""
