"""Airflow around the lakehouse: DAGs that are built from the contracts' index and call the program.

Only this package imports Airflow. It decides nothing about data: every task runs a command that works without Airflow,
and no state lives here, so that run history, XCom and the metadata database can all be lost.
"""
