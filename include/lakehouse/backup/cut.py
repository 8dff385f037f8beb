"""The cut: where every table and view is at one moment, and how far the logs go.

The pointers come from one statement, so they are those of one moment. The logs are looked at after it: whatever a table
has consumed by then is in them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lakehouse.backup.places import Places
from lakehouse.backup.sets import LogEnds, Plan, Pointer
from lakehouse.core.clock import Clock
from lakehouse.core.settings import CATALOG
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.kept import KEPT_PROPERTY, is_kept
from lakehouse.ledger.log import landing_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from sqlalchemy import Engine

_POINTERS = "SELECT * FROM iceberg_tables WHERE catalog_name = :catalog"
_NAMESPACES = "SELECT * FROM iceberg_namespace_properties WHERE catalog_name = :catalog"


def cut(engine: Engine, landing: ObjectStore, places: Places, clock: Clock, parent: str, since: Ends) -> Plan:
    """The plan of a new set. ``since`` are the ends of the logs at its parent, which they must not have lost."""
    at = clock.now()
    pointers, namespaces = read_catalog(engine)
    return Plan(
        id=f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        cut_at=at.isoformat(),
        parent=parent,
        warehouse=places.warehouse,
        landing=places.landing,
        pointers=pointers,
        namespaces=namespaces,
        sources=_log_ends(landing, since),
    )


Ends = Mapping[str, LogEnds]


def read_catalog(engine: Engine) -> tuple[tuple[Pointer, ...], tuple[tuple[str, str, str], ...]]:
    """All pointers from one statement, and the properties of the namespaces."""
    from sqlalchemy.exc import ProgrammingError

    try:
        with reaching("read the catalog"):
            rows = _rows(engine, _POINTERS)
            spaces = _rows(engine, _NAMESPACES)
    except ProgrammingError:  # the catalog's own tables do not exist before Spark's first commit
        return (), ()
    pointers = sorted(
        (row["table_namespace"], row["table_name"], row.get("iceberg_type") or "TABLE", row["metadata_location"])
        for row in rows
        if not is_kept(row["table_namespace"], row["table_name"])
    )
    known = sorted((row["namespace"], row["property_key"], row["property_value"] or "") for row in spaces)
    known = [each for each in known if not each[1].startswith(KEPT_PROPERTY)]
    return tuple(Pointer(*each) for each in pointers), tuple(known)


def _rows(engine: Engine, statement: str) -> list[dict[str, Any]]:
    from sqlalchemy import text

    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(statement), {"catalog": CATALOG}).mappings()]


def _log_ends(landing: ObjectStore, since: Ends) -> dict[str, LogEnds]:
    sources = {*landing.folders("log/"), *landing.folders("decisions/"), *since}
    return {source: _ends(landing, source, since.get(source, LogEnds(0, 0))) for source in sorted(sources)}


def _ends(landing: ObjectStore, source: str, since: LogEnds) -> LogEnds:
    log = landing_log(landing, source).last_number(since.log)
    return LogEnds(log, decision_log(landing, source).last_number(since.decisions))
