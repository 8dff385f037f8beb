"""What a person looked at before confirming: a token that changes when a source's tables, logs or contract do."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import SettingsError
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.log import landing_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import read_head

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog


def seen_token(catalog: Catalog, store: ObjectStore, contract: Contract) -> str:
    """The same as long as a dry run would say the same: no JVM, and nothing secret in it."""
    tables = (contract.bronze_table, *[contract.silver_table(name) for name in contract.tables])
    state = {
        "heads": {str(table): read_head(catalog, table).snapshot_id for table in tables},
        "landed": landing_log(store, contract.name).last_number(0),
        "decided": decision_log(store, contract.name).last_number(0),
        "contract": contract.dump(),
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def require_seen(catalog: Catalog, store: ObjectStore, contract: Contract, token: str | None) -> None:
    """Raise :class:`SettingsError` where something changed since a dry run said this token; None asks for nothing."""
    if token is not None and token != seen_token(catalog, store, contract):
        raise SettingsError(
            f"{contract.name} changed since the dry run that said {token!r}: its tables, what landed or was decided, "
            "or its contract",
            untouched="all of its tables",
            todo="look again with --dry-run, and confirm what it says then",
        )
