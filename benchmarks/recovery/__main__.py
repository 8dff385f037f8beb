"""What backups cost beside the bare reading and writing of the same objects, in one run of interleaved rounds.

    .venv/bin/python benchmarks/recovery --size 3GB --rounds 3

Makes a lake without a JVM on servers of its own (PostgreSQL and two MinIO), and in each round, with backups empty
again: a bare copy of all objects and a full backup, in turn first; a bare download of what the set holds and a
verification of every byte; an increment of 1% new bytes, and one of nothing; and, with the lake's buckets empty, a bare
copy back and a full restore. Everything in this one warm process, with as many threads. Needs four times the size on
disk, and removes it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bare
from lake import Lake
from meter import Cost, measured

from lakehouse.backup.create import create
from lakehouse.backup.sets import FILES, MANIFEST, BackupSet, set_key
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Vault
from lakehouse.backup.verify import Share, verify
from lakehouse.core.clock import SystemClock
from lakehouse.recovery.choose import Wanted
from lakehouse.recovery.restore import carry_out, plan_restore
from servers import BARE, Stand, stand

_UNITS = {"MB": 10**6, "GB": 10**9}
_NEW_SHARE = 0.01
INCREMENT_SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=_bytes, default=_bytes("3GB"), help="of the lake, as in 300MB or 3GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where servers keep their data meanwhile")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", dir=options.folder) as scratch,
        stand(Path(scratch)) as place,
    ):
        lake = Lake(place.settings)
        lake.make(options.size)
        rounds = Rounds(place, lake, options.size)
        rounds.warm_up()
        for number in range(options.rounds):
            rounds.run(number)
        report(rounds)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)(MB|GB)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 300MB or 3GB")
    return int(found[1]) * _UNITS[found[2]]


@dataclass
class Rounds:
    """The parts of each round, and what they took."""

    place: Stand
    lake: Lake
    size_bytes: int
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings, backups = self.place.settings, self.place.backups
        self.from_lake = bare.client(
            settings.s3_endpoint, settings.s3_access_key_id, settings.s3_secret_access_key.get_secret_value()
        )
        self.to_backups = bare.client(backups.endpoint, backups.key_id, backups.secret)

    def warm_up(self) -> None:
        """Modules, clients and connections are there before anything counts; the sets of it are forgotten."""
        objects = sorted(self.lake.objects(), key=lambda each: each[2])[:200]
        bare.copy(self.from_lake, self.to_backups, [((bucket, key), (BARE, key)) for bucket, key, _ in objects])
        made = self._create()
        self._verify(made)

    def run(self, number: int) -> None:
        """One round."""
        self.place.backups.restart(self.place.settings)
        sets: list[BackupSet] = []
        objects = self.lake.objects()
        copies = [((bucket, key), (BARE, f"{bucket}/{key}")) for bucket, key, _ in objects]
        copies.sort(key=lambda each: each[1])
        full: Mapping[str, Callable[[], object]] = {
            "bare copy": lambda: bare.copy(self.from_lake, self.to_backups, copies),
            "full backup": lambda: sets.append(self._create()),
        }
        self._in_turn(number, full)
        places = self._objects(sets[0])
        read: Mapping[str, Callable[[], object]] = {
            "bare download": lambda: bare.download(self.to_backups, places),
            "verify --all": lambda: self._verify(sets[0]),
        }
        self._in_turn(number, read)
        self.lake.grow(int(self.size_bytes * _NEW_SHARE))
        self._take("increment of 1%", lambda: sets.append(self._create()))
        self._take("increment of nothing", lambda: sets.append(self._create()))
        self._bring_back(number, sets[-1])
        print(f"round {number + 1}: {_line(sets)}", flush=True)

    def _bring_back(self, number: int, made: BackupSet) -> None:
        """The copies of a set to where nothing is: bare ones into a bucket of their own."""
        self.lake.empty()
        bucket = self.place.settings.backup_bucket
        entries = made.files().values()
        copies = [((bucket, entry.copy.key), (BARE, entry.copy.key)) for entry in entries]
        back: Mapping[str, Callable[[], object]] = {
            "bare copy back": lambda: bare.copy(self.to_backups, self.from_lake, copies),
            "full restore": self._restore,
        }
        self.lake.make_bucket(BARE)
        self._in_turn(number, back)
        self.lake.remove_bucket(BARE)

    def _restore(self) -> None:
        plan = plan_restore(self.place.settings, SystemClock(), Wanted(everything=True))
        done = carry_out(self.place.settings, SystemClock(), plan)
        assert done.copied.files == plan.copy.files + plan.missing_logs.files + plan.missing_landed.files > 0

    def _in_turn(self, number: int, parts: Mapping[str, Callable[[], object]]) -> None:
        """Each part once; every other round in the other order."""
        for name in [*parts][:: 1 if number % 2 == 0 else -1]:
            self._take(name, parts[name])

    def _take(self, name: str, act: Callable[[], object]) -> None:
        cost = measured(act, lambda: self.place.servers)
        self.costs.setdefault(name, []).append(cost)
        print(f"  {name:22}{cost.wall_seconds:8.2f} s{cost.cpu_seconds:8.2f} CPU-s", flush=True)

    def _create(self) -> BackupSet:
        return create(self.place.settings, SystemClock())

    def _verify(self, made: BackupSet) -> None:
        settings = self.place.settings
        vault = Vault.open(settings, SystemClock().now())
        record = verify(vault, made.id, public_key_of(settings), Share(), vault.now)
        if not record.is_good:
            sys.exit(f"the set is damaged: {record.damages[:5]}")

    def _objects(self, made: BackupSet) -> list[bare.Place]:
        """What a verification of the set reads."""
        bucket = self.place.settings.backup_bucket
        keys = [stored.key for entry in made.files().values() for stored in entry.objects]
        return [(bucket, key) for key in (*keys, set_key(made.id, FILES), set_key(made.id, MANIFEST))]


def _line(sets: list[BackupSet]) -> str:
    first, second = sets[0].manifest, sets[1].manifest
    return (
        f"{first.files:,} files, {first.size_bytes / 10**6:,.0f} MB; "
        f"then {second.new_files:,} new, {second.new_bytes / 10**6:,.0f} MB"
    )


def report(rounds: Rounds) -> None:
    """Medians, and each ratio as the median of the rounds' own."""
    print(f"\n{'':22}{'wall s':>9}{'CPU s':>8}{'servers CPU s':>15}{'peak MB':>9}")
    for name, costs in rounds.costs.items():
        print(
            f"{name:22}{_median(c.wall_seconds for c in costs):9.2f}{_median(c.cpu_seconds for c in costs):8.2f}"
            f"{_median(c.server_cpu_seconds for c in costs):15.2f}{_median(c.peak_bytes for c in costs) / 10**6:9.0f}"
        )
    wall = {name: [cost.wall_seconds for cost in costs] for name, costs in rounds.costs.items()}
    print("\nmedians of the rounds' ratios, with the least and the greatest:")
    _ratio("full backup / bare copy", wall["full backup"], wall["bare copy"], "at most 1.3")
    _ratio("speed of verify / bare download", wall["bare download"], wall["verify --all"], "at least 0.8")
    _ratio("full restore / bare copy back", wall["full restore"], wall["bare copy back"], "at most 1.3")
    allowed = [0.05 * full + INCREMENT_SECONDS for full in wall["full backup"]]
    _ratio("increment / (5% of full + 3 s)", wall["increment of 1%"], allowed, "at most 1")


def _median(values: object) -> float:
    return statistics.median(values)  # type: ignore[call-overload, no-any-return]


def _ratio(name: str, above: list[float], below: list[float], goal: str) -> None:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    print(f"  {name:34}{statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f}; goal: {goal})")


if __name__ == "__main__":
    main()
