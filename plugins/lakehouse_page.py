"""The Lakehouse page in Airflow's UI."""

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class LakehousePage(AirflowPlugin):
    """A page with every table of the lake. Built when the API server asks for it; other processes import nothing."""

    name = "lakehouse_page"

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        from lakehouse.orchestration.page import fastapi_app

        return [fastapi_app()]

    @cached_property
    def external_views(self) -> list[Any]:  # type: ignore[override]
        from lakehouse.orchestration.page import external_view

        return [external_view()]
