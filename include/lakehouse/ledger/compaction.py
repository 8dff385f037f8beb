"""Which files of a table are worth rewriting. Pure: a layout and a policy in, a plan out.

What a scan costs is told in bytes: those that it reads, and for each file and each deletion vector what opening it is
worth. A table is compacted only where this is more than the policy's multiple of what the same rows, freshly written,
would cost. Then the smallest files are merged first, as few as bring the cost down by half of what it is too much; and
with them those that are no larger than what they are merged with. So a file is rewritten only to become a part of one
about twice its size: what is rewritten in total grows with the logarithm of the number of batches, not with the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from lakehouse.contracts.model import Upkeep
from lakehouse.ledger.layout import DataFile, Layout, Partition

OPEN_BYTES = 1024 * 1024
"""Opening a file costs as much as reading this."""
SCAN_BYTES = 32 * OPEN_BYTES
"""What a scan costs before it reads anything."""
STEP_BYTES = 2 * 1024 * 1024 * 1024
"""Compaction commits after about this much, so that little is lost when a writer was faster."""
MOST_MANIFESTS = 32
"""Manifests beyond those that are needed, before they are written anew."""
_MANIFEST_BYTES = 8 * 1024 * 1024
_DONE = 0.75  # of the target: a file of this size is not merged again
_LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Compaction:
    """Which files are rewritten: those of which more than a share is deleted, and in each partition those below a size.

    ``cost`` is what reading the table costs now, ``becomes`` what it will, each times a freshly written table.
    ``step_files``: how many files one commit rewrites at most, None where all can be in one.
    """

    below_bytes: int
    deleted_share: float
    files: int
    bytes: int
    cost: float
    becomes: float
    step_files: int | None = None


def plan_compaction(layout: Layout, policy: Upkeep) -> Compaction | None:
    """What to rewrite so that the table is cheap to read again; None where it is, or nothing would help."""
    fresh, now = fresh_cost(layout), _cost(layout.files)
    if now <= policy.max_scan_cost * fresh:
        return None
    aim = (1 + (policy.max_scan_cost - 1) / 2) * fresh
    for share in _shares(layout, policy):
        choice = _Choice(layout, share)
        below = choice.grown(choice.least(aim))
        chosen = choice.chosen(below)
        becomes = now - _cost(chosen) + _cost(_merged(chosen, layout.target_bytes))
        if becomes <= policy.max_scan_cost * fresh:
            break
    if now - becomes < _LEAST_GAIN * fresh:
        return None
    size = sum(file.size_bytes for file in chosen)
    step = max(2, STEP_BYTES * len(chosen) // size) if size > STEP_BYTES else None
    return Compaction(below, share, len(chosen), size, now / fresh, becomes / fresh, step)


def _shares(layout: Layout, policy: Upkeep) -> Iterator[float]:
    """The policy's share of deleted rows, and then lower ones: many files that are a little worn cost as much.

    Each lies between two shares that there are, so that it parts the same files wherever it is compared.
    """
    yield policy.max_deleted_share
    lower = sorted({f.deleted_share for f in layout.files if 0 < f.deleted_share <= policy.max_deleted_share})
    for share, below in zip(reversed(lower), [*reversed(lower[:-1]), 0.0], strict=True):
        yield (share + below) / 2


def scan_cost(layout: Layout) -> float:
    """What reading the table costs, times a freshly written one."""
    return _cost(layout.files) / fresh_cost(layout)


def fresh_cost(layout: Layout) -> float:
    """What reading the same rows would cost, had they just been written."""
    return _cost(_merged(layout.files, layout.target_bytes))


def manifests_pay(layout: Layout) -> bool:
    """Whether the manifests are many more than are needed."""
    needed = max(1, -(-sum(layout.manifest_bytes) // _MANIFEST_BYTES))
    return len(layout.manifest_bytes) - needed >= MOST_MANIFESTS


def _cost(files: Iterable[DataFile]) -> float:
    vectors = OPEN_BYTES / 2
    return SCAN_BYTES + sum(file.size_bytes + OPEN_BYTES + (vectors if file.deleted else 0) for file in files)


def _merged(files: Iterable[DataFile], target_bytes: int) -> Iterator[DataFile]:
    """The files that would be there, had the rows of these been written at once."""
    for partition, live in _live_bytes(files).items():
        for _ in range(max(1, round(live / target_bytes)) if live else 0):
            share = int(live / max(1, round(live / target_bytes)))
            yield DataFile("", partition, share, 1)


def _live_bytes(files: Iterable[DataFile]) -> Mapping[Partition, float]:
    found: dict[Partition, float] = {}
    for file in files:
        found[file.partition] = found.get(file.partition, 0) + file.live_bytes
    return found


class _Choice:
    """The files that are rewritten when all below a size are merged with those of their partition."""

    def __init__(self, layout: Layout, deleted_share: float) -> None:
        self.layout = layout
        self.worn = frozenset(file.path for file in layout.files if file.deleted_share > deleted_share)
        most = int(_DONE * layout.target_bytes)
        self.small = sorted((f for f in layout.files if f.size_bytes < most), key=lambda file: file.size_bytes)
        self.sizes = sorted({file.size_bytes for file in self.small})

    def chosen(self, below: int) -> list[DataFile]:
        """Worn files, and small ones that are not alone in their partition."""
        candidates: dict[Partition, list[DataFile]] = {}
        for file in self.layout.files:
            if file.path in self.worn or file.size_bytes < below:
                candidates.setdefault(file.partition, []).append(file)
        return [file for files in candidates.values() if len(files) > 1 or files[0].path in self.worn for file in files]

    def least(self, aim: float) -> int:
        """The least size that brings the cost of a scan down to ``aim``; the largest, where none does."""
        limits = [0, *(size + 1 for size in self.sizes)]
        total = _cost(self.layout.files)

        def is_enough(below: int) -> bool:
            chosen = self.chosen(below)
            return total - _cost(chosen) + _cost(_merged(chosen, self.layout.target_bytes)) <= aim

        return limits[min(bisect_left(limits, True, key=is_enough), len(limits) - 1)]

    def grown(self, below: int) -> int:
        """With the next larger files, as long as each is no larger than what it would be merged with."""
        merged = dict(_live_bytes(self.chosen(below)))
        later = self.small[bisect_left(self.small, below, key=lambda file: file.size_bytes) :]
        for size, group in groupby(later, key=lambda file: file.size_bytes):
            files: Sequence[DataFile] = list(group)
            if any(size > merged.get(file.partition, 0) for file in files):
                break
            for file in files:
                merged[file.partition] += file.live_bytes
            below = size + 1
        return below
