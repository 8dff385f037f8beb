"""Counting the ways that the engine takes, so that a proof cannot become empty without anyone noticing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import DataFrame

from lakehouse.core import names
from lakehouse.engine import arrivals, dimension


def count_paths(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Count each way while the patch lasts. Keys are counted where the engine decides key by key."""
    counts: Counter[str] = Counter()

    def observe(owner: Any, name: str, look: Callable[[Any, tuple[Any, ...]], None]) -> None:
        original = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            look(result, args)
            return result

        patch.setattr(owner, name, wrapper)

    def arrived(found: arrivals.Arrivals, _: tuple[Any, ...]) -> None:
        keys = found.moments.select(names.KEY).distinct()
        in_order = keys if found.late is None else keys.join(found.late, names.KEY, "left_anti")
        counts["in order"] += in_order.count()
        counts["late"] += found.late_keys
        counts["ties"] += found.ties

    def compared(found: object, _: tuple[Any, ...]) -> None:
        counts["compared" if found is not None else "stood twice"] += 1

    def unsettled(found: list[DataFrame], _: tuple[Any, ...]) -> None:
        counts["unsettled"] += sum(each.count() for each in found)

    def several(_: object, args: tuple[Any, ...]) -> None:
        counts["several snapshots"] += len(args[1]) > 1

    def replaced(_: object, __: tuple[Any, ...]) -> None:
        counts["replaced"] += 1

    def withdrawn(found: list[DataFrame], _: tuple[Any, ...]) -> None:
        counts["withdrawn"] += bool(found)

    def inserted(_: object, __: tuple[Any, ...]) -> None:
        counts["late snapshot"] += 1

    observe(dimension, "arrivals", arrived)
    observe(arrivals, "compare", compared)
    observe(arrivals, "_unsettled_keys", unsettled)
    observe(arrivals, "differing_as_of", inserted)
    observe(arrivals._Arriving, "one_sided", replaced)
    observe(arrivals._Snapshots, "_observed", several)
    observe(arrivals._Snapshots, "_withdrawn", withdrawn)
    return counts
