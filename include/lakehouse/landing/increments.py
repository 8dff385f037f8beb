"""Landing a change feed: each batch starts where its predecessor ended, whoever lands at the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from typing import IO

from lakehouse.contracts.model import Contract
from lakehouse.core.clock import Clock
from lakehouse.core.errors import TransientError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.settings import Settings
from lakehouse.landing.postgres import Extract, connection, extract
from lakehouse.landing.results import Status, UnitResult
from lakehouse.landing.upload import Measured, upload
from lakehouse.ledger.log import Batch, LandedFile, append, read_log
from lakehouse.ledger.store import ObjectStore, Reader

_TRIES = 20


def land_increment(
    contract: Contract, settings: Settings, store: ObjectStore, clock: Clock, unit: date, *, is_dry_run: bool = False
) -> UnitResult:
    """Land what became visible since the last batch; nothing new lands nothing.

    When another lander was first, what it read is not read again: the extraction starts anew behind it.
    """
    batches = read_log(store, contract.name)
    for _ in range(_TRIES):
        previous = last_cursor(batches)
        with tempfile.TemporaryFile() as out:  # it has no name: personal data does not outlive the process
            with connection(contract, settings) as opened:
                taken = extract(opened, contract, previous, out)
            if is_dry_run or not taken.records:
                status: Status = "would_land" if taken.records else "unchanged"
                return UnitResult(contract.name, unit, status, records=taken.records)
            batches, written = _land(contract, store, clock, unit, batches, taken, out)
        if written is not None:
            failpoint("land.after_log", contract.name)
            return UnitResult(
                contract.name, unit, "landed", written.number, 1, written.size_bytes, records=written.records
            )
    raise TransientError(f"other landers of {contract.name} were first {_TRIES} times", todo="land again")


def last_cursor(batches: Sequence[Batch]) -> str | None:
    """Where the last extraction ended, None before the first."""
    return next((batch.cursor_to for batch in reversed(batches) if batch.cursor_to is not None), None)


def _land(
    contract: Contract,
    store: ObjectStore,
    clock: Clock,
    unit: date,
    batches: Sequence[Batch],
    taken: Extract,
    out: IO[bytes],
) -> tuple[list[Batch], Batch | None]:
    measured = Measured(taken.size_bytes, taken.sha256)
    key = upload(store, contract.name, measured, partial(_from_start, out))
    name = f"{contract.dataset}.jsonl.zst"
    draft = Batch(
        source=contract.name,
        number=0,
        unit=unit,
        kind=contract.source.kind,
        files=(LandedFile(name, key, taken.size_bytes, taken.sha256, "jsonl", "zstd"),),
        cursor_from=last_cursor(batches),
        cursor_to=taken.cursor,
        landed_at=clock.now(),
        records=taken.records,
    )
    return append(store, draft, batches, partial(_continues, draft))


def _continues(draft: Batch, batches: Sequence[Batch]) -> bool:
    """Whether the draft still starts where the log ends."""
    continues = last_cursor(batches) == draft.cursor_from
    if continues:
        failpoint("land.before_log", draft.source)
    return continues


@contextmanager
def _from_start(out: IO[bytes]) -> Iterator[Reader]:
    out.seek(0)
    yield out
