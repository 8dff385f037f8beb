"""Which DAGs act on a table, by what Airflow knows of them.

Tables are assets, and so is what landed of a dataset: :mod:`lakehouse.orchestration.assets` names them. A DAG acts on
a table when one of its tasks has the table's asset as outlet or inlet, when it is scheduled on it, when it lands the
dataset, when it carries the table's name or that of its dataset (``retail.sales``) as a tag, or when it is tagged as
one that works on any table of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName
from lakehouse.orchestration import assets
from lakehouse.page.links import DagLink

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

WRITES, STARTS, READS, ABOUT = "writes it", "starts when it changes", "reads it", "works on"
LANDS = "lands"
FOR_LAYERS: Mapping[str, tuple[str, ...]] = {
    "bronze": ("repair", "maintenance"),
    "silver": ("repair", "maintenance", "quality"),
    "quarantine": ("repair",),
    "gold": ("maintenance",),
}
"""Tags of DAGs that work on any table of a layer."""


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

    def by_asset(reference: Any, asset: Asset) -> Select[str]:
        known = select(AssetModel.id).where(AssetModel.name == asset.name).scalar_subquery()
        return select(reference.dag_id).where(reference.asset_id == known).distinct()

    references = {WRITES: TaskOutletAssetReference, STARTS: DagScheduleAssetReference, READS: TaskInletAssetReference}
    yield from ((why, by_asset(reference, assets.table(str(table)))) for why, reference in references.items())
    if dataset:
        yield f"{LANDS} {dataset}", by_asset(TaskOutletAssetReference, assets.landing(dataset))
    for tag in filter(None, (str(table), dataset)):
        yield f"{ABOUT} {tag}", select(DagTag.dag_id).where(DagTag.name == tag)
    for tag in FOR_LAYERS.get(table.namespace, ()):
        yield tag, select(DagTag.dag_id).where(DagTag.name == tag)
