"""Making a failing history small. All smaller ones are played at once, as keys of one fresh table, until none fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from tests.histories.cases import SIMPLEST, History, Record, Scene, with_pick
from tests.histories.play import Difference, play
from tests.histories.vocabulary import FIELDS, NAMES

from lakehouse.core.errors import LakehouseError
from lakehouse.engine.publish import Lake

_KEPT = 4
_AT_ONCE = 600
_ROUNDS = 12


def shrink(
    new_lake: Callable[[], Lake], scene: Scene, failing: Sequence[History], others: Sequence[History], folder: Path
) -> tuple[Scene, History, Difference]:
    """A smallest history that fails among some that do, the scene that shows it, and how it differs.

    ``others`` are histories that are played beside it in every round: what is late depends on who else is there.
    Raises AssertionError where none of the histories fails again.
    """
    best, difference = None, None
    candidates = list(dict.fromkeys(failing))
    for attempt in range(_ROUNDS):
        try:
            played = play(new_lake(), scene, [*candidates, *others], folder / f"round-{attempt}")
        except LakehouseError as error:  # one of them is refused by the engine itself: which one, it does not say
            print(f"shrinking ends early: {error}")
            break
        found = [each for each in played.differences if each.number < len(candidates)]
        if not found:
            break
        difference = min(found, key=lambda each: _size(candidates[each.number]))
        best = candidates[difference.number]
        scene = _until(scene, difference)
        candidates = list(dict.fromkeys(_smaller(best)))[:_AT_ONCE]
    assert best is not None and difference is not None, "no history fails a second time: look at what runs share"
    return scene, best, difference


def _until(scene: Scene, difference: Difference) -> Scene:
    """The scene up to the run that failed, with the dimension that failed alone."""
    timeline = replace(scene.timeline, runs=scene.timeline.runs[: difference.run])
    return Scene((difference.shape,), timeline)


def _size(history: History) -> tuple[int, int, History]:
    """Fewer records are smaller, then simpler values, then earlier ones."""
    return len(history), sum(r.at + r.batch + sum(r.picks) for r in history), history


def _smaller(history: History) -> Iterator[History]:
    """Everything that is one step smaller, and all that is made of a few of its records: simplest first."""
    for kept in range(1, min(_KEPT, len(history) - 1) + 1):
        yield from combinations(history, kept)
    for left_out in range(len(history) if len(history) > _KEPT + 1 else 0):
        yield (*history[:left_out], *history[left_out + 1 :])
    if any(record.picks != SIMPLEST for record in history):
        yield tuple(record._replace(picks=SIMPLEST) for record in history)
    for name in NAMES:
        yield from _simplified(history, name)
    for place, record in enumerate(history):
        for smaller in _simpler(record):
            yield tuple(sorted((*history[:place], smaller, *history[place + 1 :])))


def _simplified(history: History, name: str) -> Iterator[History]:
    """One field at its simplest in all records, and all other fields at theirs."""
    place = NAMES.index(name)
    if any(record.picks[place] for record in history):
        yield tuple(record._replace(picks=with_pick(record.picks, name, 0)) for record in history)
        alone = tuple(r._replace(picks=with_pick(SIMPLEST, name, r.picks[place])) for r in history)
        if alone != history:
            yield alone


def _simpler(record: Record) -> Iterator[Record]:
    if record.picks != SIMPLEST:
        yield record._replace(picks=SIMPLEST)
    for place, name in enumerate(NAMES):
        for pick in range(record.picks[place]):
            yield record._replace(picks=with_pick(record.picks, name, pick))
    for at in range(record.at):
        yield record._replace(at=at)
    if record.batch > 1:
        yield record._replace(batch=record.batch - 1)


def told(scene: Scene, history: History, difference: Difference) -> str:
    """A failing history for a person: the timeline, its records, and both versions of the truth."""
    shape = difference.shape
    shown = [name for name in NAMES if name in shape.typed(scene.kind)]
    rows = [["batch", "effective time", *shown]]
    for record in history:
        is_snapshot = scene.kind == "snapshot"
        at = str(scene.timeline.unit(record.batch)) if is_snapshot else scene.instants[record.at].text
        rows.append([str(record.batch), at, *(str(FIELDS[n][record.picks[NAMES.index(n)]]) for n in shown)])
    return "\n".join(
        [
            f"{shape.name} after run {difference.run} ({scene.kind}; – is a field that is not there):",
            f"types {dict(shape.history)}, null is not observed in {sorted(shape.silent)}, per_life {shape.per_life}",
            str(scene.timeline),
            *_aligned(rows),
            "expected:",
            *_versions(difference.expected),
            "found:",
            *_versions(difference.found),
        ]
    )


def _versions(versions: Sequence[dict[str, object]]) -> list[str]:
    if not versions:
        return ["  no version"]
    return _aligned([list(versions[0]), *([_text(value) for value in each.values()] for each in versions)])


def _text(value: object) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
