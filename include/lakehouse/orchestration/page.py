"""The Lakehouse page in Airflow's UI: who may see it, where it is mounted, and what it links to.

Airflow does not protect what a plugin serves. Every route here asks for a person who is logged in to Airflow (401) and
whom the auth manager lets read assets (403), since the tables are Airflow's assets. Links go only to DAGs that the
person may see.
"""

# FastAPI reads annotations when a dependency is declared, and these name what is imported late: none is lazy here.

from functools import cache
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI

from lakehouse.core.clock import SystemClock
from lakehouse.core.settings import load_settings
from lakehouse.page.app import make_app
from lakehouse.page.declared import Declarations
from lakehouse.page.html import asset
from lakehouse.page.links import DagLink, FindDags
from lakehouse.page.refresh import Refresher
from lakehouse.page.servers import Servers
from lakehouse.page.view import LakeView

NAME = "Lakehouse"
ROUTE = "lakehouse"
PREFIX = f"/{ROUTE}"


def external_view() -> dict[str, Any]:
    """The page's entry in Airflow's navigation; Airflow shows it in a frame."""
    from airflow.configuration import conf

    # From Airflow's own root, which may be below a proxy's path. With the last slash, or relative links would miss.
    place = f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}{PREFIX}"
    return {
        "name": NAME,
        "href": f"{place}/",
        "destination": "nav",
        "url_route": ROUTE,
        "nav_top_level": True,
        "icon": f"{place}/{asset('icon.svg')}",
        "icon_dark_mode": f"{place}/{asset('icon-dark.svg')}",
    }


def fastapi_app() -> dict[str, Any]:
    """The page's application, as a plugin hands it to Airflow."""
    return {"app": application(), "url_prefix": PREFIX, "name": NAME}


@cache
def application() -> FastAPI:
    """The page, for whom Airflow's auth manager lets read assets."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_asset
    from airflow.utils.session import create_session

    from lakehouse.orchestration.dag_links import dags_of

    def find_dags(user: GetUserDep) -> FindDags:
        def found(table: Any, dataset: str) -> list[DagLink]:
            with create_session() as session:
                dags = dags_of(table, dataset, session)
            allowed = get_auth_manager().get_authorized_dag_ids(user=user)
            return [dag for dag in dags if dag.dag_id in allowed]

        return found

    return make_app(view, [Depends(requires_access_asset(method="GET"))], find_dags)


@cache
def view() -> LakeView:
    """What this process knows of the lake; nothing is read before the first request."""
    settings = load_settings()
    return LakeView(
        Refresher(
            # Settings are read again for each sign-in: a stack that was started anew has other ports.
            lambda: Servers.open(load_settings(settings.home)),
            Declarations(settings.contracts, settings.dbt),
            SystemClock(),
        )
    )
