"""What Airflow sees: the only place of the package that imports it."""
