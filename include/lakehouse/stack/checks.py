"""``lakehouse doctor``: pure checks. Each takes facts that were gathered elsewhere and says ok, warn or fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lakehouse.stack.java import NEEDED as JAVA_NEEDED

PYTHON_AT_LEAST = (3, 11)
SPARK_VERSION = "4.1.3"
LOW_DISK_BYTES = 5 << 30
NO_DISK_BYTES = 500 << 20
LOW_MEMORY_BYTES = 4 << 30
SKEW_WARN_SECONDS = 5.0
SKEW_FAIL_SECONDS = 60.0
PRIVATE_MODE = 0o600
_GIBIBYTE = 1 << 30

Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding; ``todo`` says what to do about anything that is not ok."""

    name: str
    result: Result
    detail: str
    todo: str = ""


def check_python(version: tuple[int, int]) -> Check:
    """Python must be new enough."""
    shown, needed = ".".join(map(str, version)), ".".join(map(str, PYTHON_AT_LEAST))
    if version >= PYTHON_AT_LEAST:
        return Check("python", "ok", shown)
    return Check("python", "fail", shown, f"install Python {needed} or newer, then `make clean setup`")


def check_java(version: int | None, program: str) -> Check:
    """Java must be the version that Spark and the jars are tested on."""
    if version == JAVA_NEEDED:
        return Check("java", "ok", f"{version} ({program})")
    todo = f"install openjdk-{JAVA_NEEDED}-jre-headless or set JAVA_HOME"
    return Check("java", "fail", f"needs Java {JAVA_NEEDED} (found {version or 'none'})", todo)


def check_spark(pyspark: str | None, client: str | None) -> Check:
    """The two packages own the same files, so they must be one version."""
    detail = f"pyspark {pyspark}, pyspark-client {client}"
    if pyspark == client == SPARK_VERSION:
        return Check("pyspark", "ok", detail)
    return Check("pyspark", "fail", detail, f"both must be {SPARK_VERSION}: run `make clean setup`")


def check_pins(pinned: Mapping[str, str], installed: Mapping[str, str]) -> Check:
    """What is installed must be what ``requirements.txt`` pins. Packages that are not installed are named too."""
    if not pinned:
        return Check("pins", "fail", "requirements.txt pins nothing that can be read", "restore it from git")
    wrong = [
        f"{name} {installed.get(name, 'missing')} (pinned {version})"
        for name, version in pinned.items()
        if installed.get(name) != version
    ]
    if not wrong:
        return Check("pins", "ok", f"{len(pinned)} packages as pinned")
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Check("pins", "fail", ", ".join(wrong[:5]) + more, "run `make clean setup`")


def check_jars(missing: Sequence[str], wrong: Sequence[str], count: int) -> Check:
    """Every pinned jar must be in the cache with the pinned sha256."""
    if wrong:
        return Check("jars", "fail", f"wrong sha256: {', '.join(wrong)}", "delete them, then run `lakehouse setup`")
    if missing:
        return Check("jars", "fail", f"missing: {', '.join(missing)}", "run `lakehouse setup`")
    return Check("jars", "ok", f"{count} jars, sha256 verified")


def check_disk(what: str, path: Path, free_bytes: int) -> Check:
    """There must be room to work."""
    detail = f"{free_bytes / _GIBIBYTE:.1f} GiB free at {path}"
    if free_bytes < NO_DISK_BYTES:
        return Check(f"disk {what}", "fail", detail, "free some space: nothing can be written safely")
    if free_bytes < LOW_DISK_BYTES:
        return Check(f"disk {what}", "warn", detail, "free some space: less than 5 GiB is soon too little")
    return Check(f"disk {what}", "ok", detail)


def check_memory(total_bytes: int, driver_memory: str, driver_bytes: int) -> Check:
    """The driver and the servers must fit."""
    detail = f"{total_bytes / _GIBIBYTE:.1f} GiB, of which Spark's driver may take {driver_memory}"
    if driver_bytes >= total_bytes:
        return Check("memory", "fail", detail, "set LAKEHOUSE_SPARK_DRIVER_MEMORY lower")
    if total_bytes < LOW_MEMORY_BYTES:
        return Check("memory", "warn", detail, "4 GiB or more is comfortable; keep other programs closed")
    return Check("memory", "ok", detail)


def check_port(setting: str, port: int, is_free: bool, is_ours: bool) -> Check:
    """A port that is asked for must be free or taken by our own server."""
    name = f"port {setting}"
    if not port:
        return Check(name, "ok", "any free one")
    if is_ours or is_free:
        return Check(name, "ok", f"{port} is {'our server’s' if is_ours else 'free'}")
    return Check(name, "fail", f"{port} is taken by another program", f"stop it, or set {setting} to another port")


def check_server(name: str, address: str, problem: str) -> Check:
    """A server must let the lakehouse's credentials in. ``problem`` is empty when it does."""
    if not problem:
        return Check(name, "ok", address)
    return Check(name, "fail", f"{address}: {problem}", "run `lakehouse up`, or correct the LAKEHOUSE_* settings")


def check_backups(place: str, problem: str, weaknesses: Sequence[str]) -> Check:
    """Backups must have a place, which can be used, and where nobody who writes them can destroy them."""
    if not place:
        todo = "run `lakehouse up` with MinIO, or set LAKEHOUSE_BACKUP_*"
        return Check("backups", "warn", "there is no place for backups", todo)
    if problem:
        return Check("backups", "fail", f"{place}: {problem}", "run `lakehouse up`, or correct LAKEHOUSE_BACKUP_*")
    if weaknesses:
        todo = "see docs/backup.md: a bucket with object lock, and an identity that cannot delete"
        return Check("backups", "warn", f"{place}: {' and '.join(weaknesses)}", todo)
    return Check("backups", "ok", f"{place}: locked, and who writes cannot delete")


def check_databases(found: str, overdue: Sequence[str], has_base: bool) -> Check:
    """The databases must be archived up to now, and from a base backup on that is not old. ``found`` says how it is."""
    if not has_base:
        todo = "run `lakehouse backup databases`, and each day again: back_up_databases does"
        return Check("backups of databases", "warn", found, todo)
    if overdue:
        todo = 'see docs/databases.md, "How far the archive is"'
        return Check("backups of databases", "warn", f"{found}; {'; '.join(overdue)}", todo)
    return Check("backups of databases", "ok", found)


def check_backup_disk(folder: Path, is_own: bool) -> Check:
    """A disk that fails takes everything on it."""
    if is_own:
        return Check("backups disk", "ok", f"{folder} is on a disk of its own")
    todo = "set LAKEHOUSE_BACKUP_DATA to a folder on another disk, or LAKEHOUSE_BACKUP_S3_* to another machine"
    return Check("backups disk", "warn", f"{folder} is on the disk of the lake: both are lost with it", todo)


def check_stand_in(kind: str) -> Check:
    """The stand-in keeps nothing."""
    if kind != "moto":
        return Check("s3 server", "ok", kind)
    todo = "install MinIO or Go, then `lakehouse down` and `lakehouse up`"
    return Check("s3 server", "warn", "moto stands in for MinIO and keeps data in memory only", todo)


def check_mode(path: Path, mode: int | None) -> Check:
    """A file of credentials must be its owner's alone. ``mode`` is None where there is no file."""
    name = f"credentials {path.name}"
    if mode is None:
        return Check(name, "ok", "not there")
    if mode & 0o777 & ~PRIVATE_MODE == 0:
        return Check(name, "ok", f"mode {mode & 0o777:04o}")
    return Check(name, "fail", f"{path} has mode {mode & 0o777:04o}: others can read it", f"chmod 600 {path}")


def check_skew(server: str, seconds: float | None) -> Check:
    """Clocks must agree: S3 refuses old signatures, and landing times come from this clock."""
    name = f"clock against {server}"
    if seconds is None:
        return Check(name, "warn", "the server tells no time", "start it, then run `lakehouse doctor` again")
    detail = f"{abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(seconds) > SKEW_FAIL_SECONDS:
        return Check(name, "fail", detail, "set the clock (chrony, systemd-timesyncd) on both machines")
    if abs(seconds) > SKEW_WARN_SECONDS:
        return Check(name, "warn", detail, "synchronise the clocks (chrony, systemd-timesyncd)")
    return Check(name, "ok", detail)
