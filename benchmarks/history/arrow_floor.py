"""The floor: decode the base and encode it again, which is what any rewrite of the table costs at least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from place import Place


@dataclass(frozen=True)
class ArrowFloor:
    """Reads day 1 and writes it back with zstd. It keeps no history, so it has nothing to compare."""

    place: Place

    def load(self) -> None:
        """Nothing to make."""

    def reset(self, kind: str) -> None:
        """Nothing to undo."""

    def apply(self, kind: str) -> dict[str, Any]:
        table = pq.read_table(self.place.data("base"))
        target = self.place.store("pyarrow-floor") / "base.parquet"
        pq.write_table(table, target, compression="zstd")
        return {"bytes_written": target.stat().st_size}

    def export(self, kind: str) -> None:
        raise NotImplementedError("the floor keeps no history")

    def close(self) -> None:
        """Nothing was started."""


def open_contestant(place: Place) -> ArrowFloor:
    """The floor."""
    return ArrowFloor(place)
