"""Whether there is anything to do, from metadata and listings alone. No JVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pyiceberg.catalog import Catalog

from lakehouse.contracts.marts import mart_names, project_fingerprint
from lakehouse.contracts.model import Contract
from lakehouse.contracts.semantics import limits_of, table_fingerprint
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.log import landing_log, read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Head, read_head


def silver_attempts(catalog: Catalog, contracts: Sequence[Contract]) -> dict[str, str]:
    """For each silver table the attempt that was the last to publish it, '' where nothing was."""
    attempts = {}
    for contract in contracts:
        for name in contract.tables:
            stamp = read_head(catalog, contract.silver_table(name)).stamp
            attempts[f"silver.{name}"] = stamp.attempt if stamp and not stamp.is_first else ""
    return attempts


def gold_is_current(catalog: Catalog, contracts: Sequence[Contract], project: Path) -> bool:
    """Whether every mart was made by these models from what silver has now."""
    wanted = silver_attempts(catalog, contracts)
    if not any(wanted.values()):
        return True  # nothing was ever published that a mart could show
    fingerprint = project_fingerprint(project, contracts)
    stamps = [read_head(catalog, name).stamp for name in mart_names(project)]
    return all(s is not None and s.fingerprint == fingerprint and dict(s.upstream) == wanted for s in stamps)


def judges_anew(head: Head, contract: Contract, table: str) -> bool:
    """Whether a table holds batches back by other limits than its contract has now."""
    return bool(head.held) and head.stamp is not None and head.stamp.limits != limits_of(contract, table)


def dataset_is_current(catalog: Catalog, store: ObjectStore, contract: Contract) -> bool:
    """Whether bronze and every silver table have consumed all that landed and was decided, by today's contract."""
    bronze = read_head(catalog, contract.bronze_table).consumed(contract.name).through
    newest = landing_log(store, contract.name).last_number(bronze)
    if newest != bronze:
        return False
    if not newest:
        return True
    heads = {name: read_head(catalog, contract.silver_table(name)) for name in contract.tables}
    if any(h.stamp and h.stamp.fingerprint != table_fingerprint(contract, name) for name, h in heads.items()):
        return False  # the contract changed: the run says so, and what to do
    if any(judges_anew(head, contract, name) for name, head in heads.items()):
        return False
    consumed = [head.consumed(contract.name) for head in heads.values()]
    decided = decision_log(store, contract.name).last_number(min(each.decisions for each in consumed))
    return all(each.through == newest and each.decisions == decided for each in consumed)


def outstanding(
    catalog: Catalog,
    store: ObjectStore,
    contracts: Sequence[Contract],
    all_contracts: Sequence[Contract],
    project: Path,
) -> Iterator[str]:
    """Names of the datasets, and ``gold``, that have something to do."""
    for contract in contracts:
        if not dataset_is_current(catalog, store, contract):
            yield contract.name
    if not gold_is_current(catalog, all_contracts, project):
        yield "gold"


def waiting_bytes(catalog: Catalog, store: ObjectStore, contracts: Sequence[Contract]) -> int:
    """The size of what landed of some datasets and is not in bronze: how much there is to do, by rule of thumb."""
    done = {c.name: read_head(catalog, c.bronze_table).consumed(c.name).through for c in contracts}
    return sum(batch.size_bytes for name, through in done.items() for batch in read_log(store, name, after=through))
