"""Which DAGs act on a table, by what Airflow knows of them.

Tables are assets that are named as the table (``silver.dim_customer``). A DAG acts on a table when one of its tasks has
the asset as outlet or inlet, when it is scheduled on it, or when it carries the table's name or that of its dataset
(``retail.sales``) as a tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName
from lakehouse.page.links import DagLink

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

WRITES, STARTS, READS, ABOUT = "writes it", "starts when it changes", "reads it", "works on"


def asset_name(table: TableName) -> str:
    """What the asset of a table is called."""
    return str(table)


def dags_of(table: TableName, dataset: str, session: Session) -> list[DagLink]:
    """Every DAG that acts on a table, those that write it first. ``dataset`` is what it is made of, '' if none."""
    from airflow.models.dag import DagModel
    from sqlalchemy import select

    whys: dict[str, list[str]] = {}
    for why, dag_ids in _asked(table, dataset):
        for dag_id in sorted(session.scalars(dag_ids)):
            whys.setdefault(dag_id, [])
            whys[dag_id] += [why] if why not in whys[dag_id] else []
    there = select(DagModel.dag_id, DagModel.is_paused).where(DagModel.dag_id.in_(whys), DagModel.is_stale.is_(False))
    paused = {dag_id: is_paused for dag_id, is_paused in session.execute(there)}
    return [DagLink(dag_id, ", ".join(why), paused[dag_id]) for dag_id, why in whys.items() if dag_id in paused]


def _asked(table: TableName, dataset: str) -> Iterator[tuple[str, Select[str]]]:
    """Queries for ids of DAGs, each with what it says of them."""
    from airflow.models.asset import (
        AssetModel,
        DagScheduleAssetReference,
        TaskInletAssetReference,
        TaskOutletAssetReference,
    )
    from airflow.models.dag import DagTag
    from sqlalchemy import select

    asset = select(AssetModel.id).where(AssetModel.name == asset_name(table)).scalar_subquery()
    by_asset: dict[str, Any] = {
        WRITES: TaskOutletAssetReference,
        STARTS: DagScheduleAssetReference,
        READS: TaskInletAssetReference,
    }
    for why, reference in by_asset.items():
        yield why, select(reference.dag_id).where(reference.asset_id == asset).distinct()
    for tag in filter(None, (str(table), dataset)):
        yield f"{ABOUT} {tag}", select(DagTag.dag_id).where(DagTag.name == tag)
