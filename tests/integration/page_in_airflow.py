"""Airflow's own API application with the page as its plugin, on a database in a file: asked, and what it answered.

A process of its own, since Airflow reads its settings when it is imported. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

PREFIX = "/team/airflow"
FACT = "silver.fact_sales_line"


class Strict(SimpleAuthManager):
    """Roles of Airflow's simple auth manager; one person may read no asset, and another not every DAG."""

    def is_authorized_asset(self, *, method: Any, user: Any, details: Any = None) -> bool:
        return bool(
            user.username != "outsider" and super().is_authorized_asset(method=method, user=user, details=details)
        )

    def is_authorized_dag(self, *, method: Any, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        if user.username == "viewer" and details and details.id == "secret_sweep":
            return False
        return bool(super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details))


def fill() -> None:
    """DAGs and assets as the scheduler would have written them."""
    from airflow.models.asset import (
        AssetModel,
        DagScheduleAssetReference,
        TaskInletAssetReference,
        TaskOutletAssetReference,
    )
    from airflow.models.dag import DagModel, DagTag
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    ids = (
        "silver_retail_sales", "gold", "quality", "land_retail_sales", "rebuild_table", "secret_sweep", "other", "gone",
    )  # fmt: skip
    with create_session() as session:
        session.add(DagBundleModel(name="dags"))
        session.flush()
        for dag_id in ids:
            session.add(
                DagModel(dag_id=dag_id, bundle_name="dags", is_stale=dag_id == "gone", is_paused=dag_id == "gold")
            )
        fact, other = (
            AssetModel(name=FACT, uri=f"x-lakehouse://{FACT}"),
            AssetModel(name="silver.other", uri="x://other"),
        )
        landed = AssetModel(name="landing.retail_sales", uri="x-lakehouse://landing/retail_sales")
        session.add_all([fact, other, landed])
        session.flush()
        for dag_id in ("silver_retail_sales", "gone"):
            session.add(TaskOutletAssetReference(asset_id=fact.id, dag_id=dag_id, task_id="run"))
        session.add(TaskOutletAssetReference(asset_id=landed.id, dag_id="land_retail_sales", task_id="land"))
        session.add(DagScheduleAssetReference(asset_id=fact.id, dag_id="gold"))
        session.add(DagScheduleAssetReference(asset_id=other.id, dag_id="other"))
        session.add(TaskInletAssetReference(asset_id=fact.id, dag_id="quality", task_id="judge"))
        for dag_id in ("silver_retail_sales", "secret_sweep"):
            session.add(DagTag(dag_id=dag_id, name="retail.sales"))
        session.add(DagTag(dag_id="rebuild_table", name="repair"))
        session.add(DagTag(dag_id="other", name="sales"))


def main() -> None:
    from airflow.utils.db import initdb

    initdb()
    fill()
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    said: dict[str, Any] = {}

    def ask(client: TestClient, path: str) -> dict[str, Any]:
        answer = client.get(f"{PREFIX}{path}", follow_redirects=False)
        return {"status": answer.status_code, "text": answer.text, "headers": dict(answer.headers)}

    paths = ("/lakehouse/", f"/lakehouse/tables/{FACT}", "/lakehouse/static/page.css", "/lakehouse/openapi.json")
    passwords = SimpleAuthManager.get_passwords
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as nobody:
        said["nobody"] = {path: ask(nobody, path) for path in paths}
        said["forged"] = {}
        nobody.cookies.set("_token", "forged", path="/")
        said["forged"] = {path: ask(nobody, path) for path in paths}
        nobody.cookies.clear()
        known = passwords()
        for person in ("admin", "viewer", "outsider"):
            login = nobody.post(f"{PREFIX}/auth/token", json={"username": person, "password": known[person]})
            client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
            client.cookies.set("_token", login.json()["access_token"], path="/")
            said[person] = {path: ask(client, path) for path in paths}
            if person == "admin":
                said["plugins"] = json.loads(ask(client, "/api/v2/plugins")["text"])
                said["errors"] = json.loads(ask(client, "/api/v2/plugins/importErrors")["text"])
    print(json.dumps(said), file=sys.__stdout__)


if __name__ == "__main__":
    main()
