"""What was measured: raw figures in one JSON file, part by part, and the tables that a person reads."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from place import HERE, KINDS
from rich.console import Console
from rich.table import Table

Run = Mapping[str, Any]
_PACKAGES = ("pyspark", "pyiceberg", "pyarrow")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "peers": [line for line in (HERE / "requirements.txt").read_text().splitlines() if line[:1] != "#"],
    }


@dataclass(frozen=True)
class Results:
    """The file with all raw figures: for each part a list of sessions, the newest last."""

    path: Path

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """All parts."""
        found: dict[str, list[dict[str, Any]]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return found

    def add(self, part: str, figures: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Keep what a part measured beside what it measured before; ``fresh`` forgets that."""
        parts = self.read()
        kept = [] if fresh else parts.get(part, [])
        parts[part] = [*kept, {**figures, "machine": machine()}]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".part")
        scratch.write_text(json.dumps(parts, indent=1))
        scratch.replace(self.path)


def pairs(sessions: Iterable[Run]) -> list[dict[str, float]]:
    """The runs of one repetition side by side, for one kind: contestant to CPU seconds."""
    found = []
    for session in sessions:
        sides: dict[int, dict[str, float]] = {}
        for run in session["runs"]:
            side = sides.setdefault(run["repetition"], {})
            side[run["contestant"]] = run["cpu_seconds"]
            if "without_publishing_cpu_seconds" in run:
                side[run["contestant"] + " without publishing"] = run["without_publishing_cpu_seconds"]
        found += list(sides.values())
    return found


def ratio(sides: Sequence[Mapping[str, float]], one: str, other: str) -> float | None:
    """The median of the paired ratios, None where the two were never in one repetition."""
    found = [side[one] / side[other] for side in sides if side.get(other) and one in side]
    return statistics.median(found) if found else None


def contest_table(title: str, sessions: Sequence[Run], kind: str) -> Table:
    """CPU seconds of one kind, and ratios to the usual merge, to delta-rs and to the floor."""
    mine = [{**s, "runs": [run for run in s["runs"] if run["kind"] == kind]} for s in sessions]
    sides = pairs(mine)
    table = Table(title=f"{title}, {kind}", caption=f"{len(sides)} repetitions; ratios are medians of pairs")
    for column in ("", "CPU s median", "min", "max", "/ usual-merge", "/ delta-rs", "/ pyarrow-floor"):
        table.add_column(column, justify="left" if not column else "right")
    for name in sorted({name for side in sides for name in side}):
        values = [side[name] for side in sides if name in side]
        ratios = [ratio(sides, name, other) for other in ("usual-merge", "delta-rs", "pyarrow-floor")]
        shown = ["" if found is None else f"{found:.2f}" for found in ratios]
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}", *shown)
    return table


def plain_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and figures."""
    table = Table(title=title, show_header=False)
    for name, figure in rows:
        table.add_row(name, figure)
    return table


def seconds(used: Run) -> str:
    """Wall and CPU seconds of a process tree."""
    return f"{used['wall_seconds']:.1f} s wall, {used['cpu_seconds']:.1f} CPU s"


def memory(used: Run) -> str:
    """The most memory that a process tree held at one time."""
    rss, pss = used["peak_rss_bytes"] / 1e9, used["peak_pss_bytes"] / 1e9
    return f"{rss:.2f} GB RSS, {pss:.2f} GB PSS; {seconds(used)}"


def days_rows(found: Run) -> list[tuple[str, str]]:
    """The real days: what each way took, and which keys were wrong."""
    rows = []
    for name, used in found.get("engine", {}).items():
        rows += [(f"this engine, {name}, landing", seconds(used["land"]))]
        rows += [(f"this engine, {name}, one run", seconds(used["run"]))]
    for name, used in found.get("warm", {}).items():
        rows.append((f"dbt in one process, {name}", f"{used['wall_seconds']:.1f} s wall"))
    if sample := found.get("processes"):
        walls = [one["wall_seconds"] for one in sample["sample"]]
        whole = statistics.mean(walls) * sample["days"]
        rows.append(("dbt, a process a day", f"{whole:.0f} s wall, from {len(walls)} of {sample['days']} days"))
    for name, tables in found.get("compare", {}).items():
        for table, counts in tables.items():
            text = f"{counts['wrong']:,} of {counts['keys']:,} keys wrong, {counts['wrong_today']:,} wrong today"
            rows.append((f"{name}: {table}", text))
    return rows


def daily_rows(found: Run) -> list[tuple[str, str]]:
    """The last day against the first."""
    days = [day for day in found["days"] if day["day"] > 0]
    rows = []
    for what in ("merge", "scan"):
        first, last = days[0][what]["cpu_seconds"], days[-1][what]["cpu_seconds"]
        text = f"day 1 {first:.2f}, day {days[-1]['day']} {last:.2f} CPU s: {last / first:.2f}"
        rows.append((what, text))
    for name, value in days[-1]["files"].items():
        rows.append((f"files at the end, {name}", f"{value:,}"))
    return rows


def show(results: Results, console: Console) -> None:
    """Every part that was measured, as tables."""
    parts = results.read()
    for part in ("warm", "cold"):
        for size in sorted({session["customers"] for session in parts.get(part, [])}):
            sessions = [session for session in parts[part] if session["customers"] == size]
            for kind in KINDS:
                console.print(contest_table(f"{size:,} customers, {part}", sessions, kind))
    for found in parts.get("bronze", [])[-1:]:
        rows = [
            (f"{kind}, {step}", seconds(used)) for kind, steps in found["kinds"].items() for step, used in steps.items()
        ]
        console.print(plain_table(f"{found['customers']:,} customers, from the landed file", rows))
    for found in parts.get("days", [])[-1:]:
        console.print(plain_table(f"{found['days']} real days", days_rows(found)))
    for found in parts.get("reverse", [])[-1:]:
        rows = [(name, json.dumps(value)) for name, value in found.items() if name != "machine"]
        console.print(plain_table("days in reverse, one by one", rows))
    for found in parts.get("daily", [])[-1:]:
        console.print(plain_table(f"{found['customers']:,} customers, daily batches of 0.5%", daily_rows(found)))
    for found in parts.get("memory", [])[-1:]:
        rows = [(step, memory(used)) for step, used in found["steps"].items()]
        console.print(plain_table(f"{found['customers']:,} customers, peak memory of the process tree", rows))
