"""The landing log: what landed, in the order in which it landed. An entry is written last; without it nothing landed.

Files lie under content-addressed keys. A hash names bytes, never a batch: the same bytes may land again as another
batch, and are stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from functools import partial
from typing import Any, Literal, cast, get_args

from lakehouse.ledger.journal import Journal, check_version
from lakehouse.ledger.store import ObjectStore

FORMAT_VERSION = 1
OBJECTS = "objects/"
Kind = Literal["slice", "snapshot", "increment"]
Format = Literal["csv", "jsonl", "parquet"]
Compression = Literal["gzip", "zstd"]


@dataclass(frozen=True)
class LandedFile:
    """A file as it came: its name at the source, and where its bytes are in the landing bucket."""

    name: str
    key: str
    size_bytes: int
    sha256: str
    format: Format
    compression: Compression | None


@dataclass(frozen=True)
class Batch:
    """An entry of a source's landing log. ``number`` is 0 in a draft.

    ``cursor_from`` and ``cursor_to`` are a change feed's range; ``records`` is known where the landing counted them.
    """

    source: str
    number: int
    unit: date
    kind: Kind
    files: tuple[LandedFile, ...]
    cursor_from: str | None
    cursor_to: str | None
    landed_at: datetime
    records: int | None = None
    format_version: int = FORMAT_VERSION

    @property
    def hashes(self) -> tuple[str, ...]:
        """The bytes of the batch, whatever its files are called."""
        return tuple(sorted(file.sha256 for file in self.files))

    @property
    def size_bytes(self) -> int:
        """The bytes of all files, as they came."""
        return sum(file.size_bytes for file in self.files)


def object_key(source: str, sha256: str) -> str:
    """Where a file with these bytes lies in the landing bucket."""
    return f"{OBJECTS}{source}/{sha256[:2]}/{sha256}"


def landing_log(store: ObjectStore, source: str) -> Journal[Batch]:
    """A source's landing log."""
    return Journal(store, "log", source, partial(_parse, source), _render)


def read_log(store: ObjectStore, source: str, after: int = 0) -> list[Batch]:
    """The batches after a number, oldest first: one listing, then the entries in parallel.

    Raises :class:`IntegrityError` where the numbers have a gap or an entry has an unknown format.
    """
    return landing_log(store, source).read(after)


def append(
    store: ObjectStore,
    draft: Batch,
    known: Sequence[Batch] = (),
    still_wanted: Callable[[Sequence[Batch]], bool] = lambda _: True,
) -> tuple[list[Batch], Batch | None]:
    """Give a draft the next number and write it, as the last act of landing.

    Returns the whole log as read by then, and the batch that was written: None when ``still_wanted``, which is asked
    before every attempt with all batches so far, said that there is nothing left to land.
    """

    def decide(batches: Sequence[Batch], number: int) -> Batch | None:
        return replace(draft, number=number) if still_wanted(batches) else None

    return landing_log(store, draft.source).append(known, decide)


def _render(batch: Batch) -> Mapping[str, Any]:
    return {**asdict(batch), "unit": batch.unit.isoformat(), "landed_at": batch.landed_at.isoformat()}


def _parse(source: str, value: Mapping[str, Any]) -> Batch:
    check_version(value, FORMAT_VERSION)
    if value["source"] != source:
        raise ValueError(f"it belongs to {value['source']!r}")
    if value["kind"] not in get_args(Kind):
        raise ValueError(f"its kind is {value['kind']!r}")
    landed_at = datetime.fromisoformat(value["landed_at"])
    if landed_at.tzinfo is None:
        raise ValueError("its landing time has no zone")
    return Batch(
        source=source,
        number=int(value["number"]),
        unit=date.fromisoformat(value["unit"]),
        kind=cast(Kind, value["kind"]),
        files=tuple(LandedFile(**file) for file in value["files"]),
        cursor_from=value["cursor_from"],
        cursor_to=value["cursor_to"],
        landed_at=landed_at,
        records=value["records"],
    )
