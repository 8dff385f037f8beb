"""The steps of upkeep that write: compaction, manifests, statistics. They change where rows lie, and no row.

All that takes time is done on a fork, while writers go on: nobody holds the table's lock for it. The fork enters the
table under the lock, by one update of the catalog's row, and only if the table is as it was forked. Where a writer was
there first, its commit stands, and what was written here is dropped: so no writer ever fails for upkeep.

What enters must have as many rows as the table, and all of its files must be there: a lost reply may have made Iceberg
delete what it committed (:mod:`lakehouse.engine.commits`). Its snapshot carries the stamp of the one that it replaces,
since Iceberg's own has none, and what a table has consumed must be known when the former snapshots have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from lakehouse.core.errors import ConcurrentCommit, IntegrityError, TableBusy
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG
from lakehouse.engine.fork import Fork, drop_fork, make_fork, unguarded
from lakehouse.engine.lock import table_locks
from lakehouse.engine.pointer import UPKEEP_PREFIX, fork_name, read_document, swap, write_document
from lakehouse.engine.publish import Lake
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.upkeep import STATISTICS_PROPERTY, WAIT_SECONDS, House, Needs
from lakehouse.engine.watch import while_s3_answers
from lakehouse.ledger.compaction import Compaction
from lakehouse.ledger.layout import Layout
from lakehouse.ledger.store import CONNECTIONS, ObjectStore
from lakehouse.ledger.watermark import ATTEMPT_PROPERTY, STAMP_PROPERTY, ancestors, load_table, summary_of

UPKEEP_PROPERTY = "lakehouse.upkeep"
TRIES = 3
"""How often upkeep begins anew where a writer was faster, before it leaves the table to the next run."""
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Rewritten:
    """What came of the steps that write. ``steps``: commits; ``gave_way``: why it was left, '' where it is done."""

    steps: int = 0
    files_before: int = 0
    files_after: int = 0
    bytes: int = 0
    gave_way: str = ""


@dataclass(frozen=True)
class _Entered:
    before: Layout
    after: Layout


def rewrite(lake: Lake, house: House, name: TableName, only: Callable[[Needs], Needs]) -> Rewritten:
    """Compact a table and write its manifests anew, one commit after another, until its metadata says that it is done.

    ``only`` picks, from what is needed, what is to be done.
    """
    steps, size, first, last, tries = 0, 0, 0, 0, 0
    for _ in range(_MOST_STEPS):
        needs = only(house.to_write(name))
        if not needs.writes:
            break
        try:
            entered = _step(lake, house, needs)
        except (ConcurrentCommit, TableBusy) as others:
            tries += 1
            if tries == TRIES:
                return Rewritten(steps, first, last, size, f"writers were faster {tries} times: {others.what}")
            continue
        steps, tries, last = steps + 1, 0, len(entered.after.files)
        first = first or len(entered.before.files)
        size += needs.compaction.bytes if needs.compaction else 0
    return Rewritten(steps, first, last, size)


@readable()
def _step(lake: Lake, house: House, needs: Needs) -> _Entered:
    """One commit. Raises :class:`ConcurrentCommit` or :class:`TableBusy` where a writer was there first."""
    name = needs.table
    with table_locks(lake.settings, [fork_name(name, UPKEEP_PREFIX)], wait_seconds=0), readable(str(name)):
        fork = make_fork(lake, name, UPKEEP_PREFIX)
        try:
            failpoint("maintain.forked", name)
            while_s3_answers(lake.settings, lambda: _say(lake, fork, statements(fork.name, needs, house)))
            failpoint("maintain.rewritten", name)
            entered = _enter(lake, house, fork, needs)
            failpoint("maintain.entered", name)
            return entered
        finally:
            drop_fork(lake, fork.name)


def _say(lake: Lake, fork: Fork, said: Sequence[str]) -> None:
    for statement in said:
        lake.spark.sql(statement).collect()


def statements(fork: TableName, needs: Needs, house: House) -> list[str]:
    """What Spark is told, in this order."""
    found = []
    if needs.compaction:
        found.append(_rewrite_data_files(fork, needs.compaction, is_sorted=house.care(needs.table).is_sorted))
    if needs.manifests:
        found.append(f"CALL {CATALOG}.system.rewrite_manifests(table => '{fork}', use_caching => false)")
    if needs.statistics:
        columns = ", ".join(f"'{column}'" for column in needs.statistics)
        found.append(f"CALL {CATALOG}.system.compute_table_stats(table => '{fork}', columns => array({columns}))")
    return found


def _rewrite_data_files(fork: TableName, plan: Compaction, *, is_sorted: bool) -> str:
    """Iceberg picks by the same limits as the plan: files below a size, and worn ones."""
    options = {
        "min-file-size-bytes": plan.below_bytes,
        "max-file-size-bytes": 2**62,
        "min-input-files": 2,
        "delete-ratio-threshold": plan.deleted_share,
        "remove-dangling-deletes": "false",
        **({"max-files-to-rewrite": plan.step_files} if plan.step_files else {}),
    }
    told = ", ".join(f"'{key}', '{value}'" for key, value in options.items())
    strategy = "sort" if is_sorted else "binpack"
    return (
        f"CALL {CATALOG}.system.rewrite_data_files(table => '{fork}', strategy => '{strategy}', options => map({told}))"
    )


def _enter(lake: Lake, house: House, fork: Fork, needs: Needs) -> _Entered:
    """Make the table what the fork is, if nothing happened to it since, and the fork has all of its rows."""
    loaded = load_table(lake.catalog, fork.name)
    if loaded is None:
        raise _moved(fork.table)
    read = house.manifests(loaded)
    before = read.layout(loaded, loaded.snapshot_by_id(fork.base_snapshot))
    after = read.layout(loaded, loaded.current_snapshot())
    _require_whole(house.store, fork.table, before, after)
    document = read_document(lake.catalog, loaded.metadata_location)
    entered = {**document, "properties": unguarded(document, read_document(lake.catalog, fork.base))}
    if needs.statistics:
        entered["properties"] |= {STATISTICS_PROPERTY: str(document.get("next-row-id", 0))}
    entered["snapshots"] = _stamped(loaded, document, fork.base_snapshot)
    with table_locks(lake.settings, [fork.table], wait_seconds=WAIT_SECONDS) as locks:
        current = load_table(lake.catalog, fork.table)
        if current is None or current.metadata_location != fork.base:
            raise _moved(fork.table)
        failpoint("maintain.before_entering", fork.table)
        locks.check()
        written = write_document(lake.catalog, fork.table, fork.base, loaded.metadata_location, entered)
        swap(lake.catalog, [written], _moved)
    return _Entered(before, after)


def _stamped(table: Any, document: dict[str, Any], base: int) -> list[dict[str, Any]]:
    """The snapshots, the new head with the stamp of the last one that has one."""
    head = document["current-snapshot-id"]
    if head == base:
        return list(document["snapshots"])
    summaries = [summary_of(snapshot) for snapshot in ancestors(table)]
    stamped = next((summary for summary in summaries if STAMP_PROPERTY in summary), {})
    said = {key: stamped[key] for key in (STAMP_PROPERTY, ATTEMPT_PROPERTY) if key in stamped}
    return [
        {**each, "summary": {**each["summary"], **said, UPKEEP_PROPERTY: "rewritten"}}
        if each["snapshot-id"] == head
        else each
        for each in document["snapshots"]
    ]


def _require_whole(store: ObjectStore, table: TableName, before: Layout, after: Layout) -> None:
    """Raise :class:`IntegrityError` unless all rows are there, and all files that are new."""
    if before.live_rows != after.live_rows:
        raise _damaged(table, f"{before.live_rows:,} rows became {after.live_rows:,}")
    old = {file.path for file in before.files}
    new = [file for file in after.files if file.path not in old]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = list(pool.map(lambda file: store.head(urlparse(file.path).path.lstrip("/")), new))
    for file, there in zip(new, found, strict=True):
        if there is None or there.size_bytes != file.size_bytes:
            raise _damaged(table, f"{file.path} is not what was written")


def _damaged(table: TableName, what: str) -> IntegrityError:
    return IntegrityError(
        f"the compaction of {table} is not what stands: {what}",
        untouched=f"{table}; nothing of it was published",
        todo="run `lakehouse maintain` again; if this comes again, look at Spark's log",
    )


def _moved(table: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{table} was published while its files were rewritten",
        untouched=f"{table}: nothing of the rewriting was published",
        todo="run `lakehouse maintain` again",
    )
