"""Where every row of a source went, for each table made of it. From metadata and a few small columns; no JVM.

received = applied + redundant + without key + quarantined + rejected + superseded + held + discarded + pending
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.names import TableName
from lakehouse.ledger.pending import Ledger, Position, read_ledger
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Stamp, head_of, load_table

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


@dataclass(frozen=True)
class Account:
    """One table. Counts are rows of the source.

    ``received`` is what bronze holds or held, ``trimmed`` how many of these it no longer has, ``pending_batches`` what
    it does not have yet. ``published`` is the rows of the table itself. ``problems`` is empty when the identity holds.
    """

    table: TableName
    received: int
    applied: int
    redundant: int
    without_key: int
    quarantined: int
    rejected: int
    superseded: int
    held: int
    discarded: int
    pending: int
    pending_batches: int
    published: int
    trimmed: int = 0
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "table": str(self.table)}


def accounts(catalog: Catalog, store: ObjectStore, contract: Contract) -> list[Account]:
    """An account for each table of a contract; empty before anything was published."""
    bronze = load_table(catalog, contract.bronze_table)
    if bronze is None:
        return []
    rows = Counter(_column(bronze, names.BATCH))
    ledger = read_ledger(store, contract.name)
    found = []
    for name in contract.tables:
        table = load_table(catalog, contract.silver_table(name))
        stamp = head_of(table).stamp
        if table is not None and stamp is not None and not stamp.is_first:
            found.append(_account(catalog, contract, name, table, stamp, rows, ledger))
    return found


def _column(table: Table, column: str) -> list[Any]:
    return table.scan(selected_fields=(column,)).to_arrow().column(column).to_pylist()  # type: ignore[no-any-return]


def _account(
    catalog: Catalog, contract: Contract, name: str, table: Table, stamp: Stamp, rows: Counter[int], ledger: Ledger
) -> Account:
    consumed = stamp.inputs[contract.name]
    position = Position(consumed.through, consumed.decisions)
    frozen = stamp.baseline.frozen if stamp.baseline else {}
    trimmed = Counter({batch: n for batch, (_, n) in stamp.baseline.trimmed.items()} if stamp.baseline else {})
    # A batch that is both trimmed and in bronze: a trim that did not get to its end.
    rows = rows + Counter({batch: n for batch, n in trimmed.items() if batch not in rows})
    sets = ledger.live(position, str(contract.silver_table(name)), frozenset(stamp.held), frozen)
    held_here = frozenset(consumed.holes) - sets.discarded - sets.superseded
    live = sets.live - held_here
    owed = stamp.baseline.owed(live) if stamp.baseline else 0
    published, applied = _published(contract, name, table)
    quarantine = load_table(catalog, TableName("quarantine", name))
    refused = sum(1 for batch in _column(quarantine, names.BATCH) if batch in live) if quarantine else 0
    counts = stamp.counts
    account = Account(
        table=contract.silver_table(name),
        received=rows.total(),
        applied=applied,
        redundant=counts.get("good", 0) - applied,
        without_key=counts.get("without_key", 0),
        quarantined=refused,
        rejected=counts.get("rejected", 0),
        superseded=_sum(rows, sets.superseded) - owed,
        held=_sum(rows, held_here),
        discarded=_sum(rows, sets.discarded),
        pending=_sum(rows, (batch for batch in rows if batch > consumed.through)),
        pending_batches=len(ledger.batches) - consumed.through,
        published=published,
        trimmed=trimmed.total(),
    )
    return Account(
        **{**vars(account), "problems": tuple(_problems(account, contract, name, counts, _sum(rows, live) + owed))}
    )


def _sum(rows: Counter[int], batches: Iterable[int]) -> int:
    return sum(rows[batch] for batch in batches)


def _published(contract: Contract, name: str, table: Table) -> tuple[int, int]:
    """Rows of the table, and rows of the source that stand behind them.

    Behind a version stands the observation that opened it; behind a gap, in a feed, the deletion that made it.
    """
    if contract.tables[name].kind == "fact":
        rows = len(_column(table, names.BATCH))
        return rows, rows
    columns = (names.KEY, names.EFFECTIVE_FROM, names.EFFECTIVE_TO)
    versions = table.scan(selected_fields=columns).to_arrow().to_pydict()
    starts = set(zip(versions[names.KEY], versions[names.EFFECTIVE_FROM], strict=True))
    ends = [end for end in zip(versions[names.KEY], versions[names.EFFECTIVE_TO], strict=True) if end[1] is not None]
    gaps = 0 if contract.source.kind == "snapshot" else sum(1 for end in ends if end not in starts)
    return len(versions[names.KEY]), len(versions[names.KEY]) + gaps


def _problems(a: Account, contract: Contract, name: str, counts: Any, live_rows: int) -> Iterable[str]:
    """What contradicts the identity, each found by two counts that were made in different places."""
    total = (
        a.applied + a.redundant + a.without_key + a.quarantined + a.rejected
        + a.superseded + a.held + a.discarded + a.pending
    )  # fmt: skip
    if total != a.received:
        yield f"{a.received} rows were received and {total} are accounted for"
    if live_rows != sum(counts.values()):
        yield f"bronze has {live_rows} rows of the live batches, the table took {sum(counts.values())}"
    if a.quarantined != counts.get("quarantined", 0):
        yield f"{counts.get('quarantined', 0)} rows were refused and {a.quarantined} are in quarantine"
    if contract.tables[name].kind == "fact" and a.redundant:
        yield f"{counts.get('good', 0)} good rows were taken and {a.published} are published"
    if a.redundant < 0:
        yield f"{a.applied} versions and deletions stand on {counts.get('good', 0)} observations"
