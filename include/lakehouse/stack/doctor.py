"""Gather the facts that ``lakehouse doctor`` judges, and judge them with :mod:`lakehouse.stack.checks`."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from packaging.markers import InvalidMarker, Marker

from lakehouse.core.jars import pinned_jars
from lakehouse.core.java import java_program
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.stack import backup_access, backups, buckets, checks, external, local, ports, postgres, supervisor
from lakehouse.stack.checks import Check
from lakehouse.stack.credentials import admin_path, env_path
from lakehouse.stack.java import java_version
from lakehouse.stack.model import ServerStatus

if TYPE_CHECKING:
    import psycopg

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;]+)\s*(;(?P<marker>[^\\]*))?")
_MEMORY = re.compile(r"(\d+)([kmgt])b?\Z", re.IGNORECASE)
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def run_checks(settings: Settings) -> tuple[Check, ...]:
    """Every check, in the order in which a person would fix things."""
    return (
        *_machine(settings),
        *_packages(settings),
        *_credentials(settings),
        *_ports(settings),
        *_servers(settings),
        *_backups(settings),
    )


def _machine(settings: Settings) -> Iterator[Check]:
    yield checks.check_python(sys.version_info[:2])
    program = java_program()
    yield checks.check_java(java_version(program), str(program))
    memory = psutil.virtual_memory().total
    yield checks.check_memory(memory, settings.spark_driver_memory, memory_bytes(settings.spark_driver_memory))
    for what, path in (("home", settings.home), ("cache", settings.cache), ("tmp", Path(tempfile.gettempdir()))):
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        yield checks.check_disk(what, path, psutil.disk_usage(str(existing)).free)


def memory_bytes(text: str) -> int:
    """Spark's way of writing memory (``2g``, ``512m``) in bytes; 0 where it cannot be read."""
    match = _MEMORY.match(text.strip())
    return int(match[1]) * _UNITS[match[2].lower()] if match else 0


def _packages(settings: Settings) -> Iterator[Check]:
    installed = {_normal(d.metadata["Name"]): d.version for d in metadata.distributions() if d.metadata["Name"]}
    yield checks.check_spark(installed.get("pyspark"), installed.get("pyspark-client"))
    lock = PROJECT_ROOT / "requirements.txt"
    yield checks.check_pins(pins(lock.read_text() if lock.exists() else ""), installed)
    missing = [jar.file_name for jar in pinned_jars() if not jar.path(settings.cache).is_file()]
    wrong = [
        jar.file_name
        for jar in pinned_jars()
        if jar.file_name not in missing and not jar.is_verified(jar.path(settings.cache))
    ]
    yield checks.check_jars(missing, wrong, len(pinned_jars()))


def pins(requirements: str) -> dict[str, str]:
    """The pinned versions that apply to this Python and system, by normalised name."""
    found = (_PIN.match(line) for line in requirements.splitlines())
    return {_normal(pin["name"]): pin["version"] for pin in found if pin and _applies(pin["marker"])}


def _applies(marker: str | None) -> bool:
    try:
        return marker is None or Marker(marker.strip()).evaluate()
    except InvalidMarker:
        return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _credentials(settings: Settings) -> Iterator[Check]:
    for path in (env_path(settings.home), admin_path(settings.home)):
        yield checks.check_mode(path, path.stat().st_mode if path.exists() else None)


def _ports(settings: Settings) -> Iterator[Check]:
    """Only ports that are asked for by a setting; the others are whichever are free."""
    asked = {
        "LAKEHOUSE_POSTGRES_PORT": "postgresql",
        "LAKEHOUSE_S3_PORT": "s3",
        "LAKEHOUSE_BACKUP_S3_PORT": "backups",
        "LAKEHOUSE_CONNECT_PORT": "spark",
        "LAKEHOUSE_CONNECT_READER_PORT": "spark, read-only",
        "LAKEHOUSE_AIRFLOW_PORT": "airflow",
    }
    found = {server.name: server for server in local.status(settings).servers}
    for setting, name in asked.items():
        port = int(os.environ.get(setting) or 0)
        server = found.get(name)
        is_ours = server is not None and (server.kind == "external" or server.address.endswith(f":{port}"))
        yield checks.check_port(setting, port, not port or ports.is_free(port), is_ours)


def _servers(settings: Settings) -> Iterator[Check]:
    postgresql, s3, *others = local.status(settings).servers
    yield checks.check_stand_in(s3.kind)
    yield from _postgres(settings, postgresql)
    yield checks.check_server("s3 buckets", s3.address or "s3", _why(s3) or buckets.problem(settings))
    yield checks.check_skew("s3", None if _why(s3) else _s3_skew(settings))
    for other in others:
        if other.kind != backups.KIND:  # which is used, not only looked at
            yield checks.check_server(other.name, other.address or other.name, _why(other))


def _backups(settings: Settings) -> Iterator[Check]:
    """Whether they can be written, by whom they can be destroyed, and whether they share the lake's fate."""
    place = f"s3://{settings.backup_bucket}" if settings.backup_bucket else ""
    if place and (endpoint := settings.backup_s3_endpoint or settings.s3_endpoint):
        place += f" at {endpoint}"
    problem = backup_access.problem(settings) if place else ""
    is_usable = bool(place) and not problem
    yield checks.check_backups(place, problem, backup_access.weaknesses(settings) if is_usable else ())
    server = backups.identity(settings)
    if supervisor.current(server):
        is_own = server.data.stat().st_dev != settings.home.stat().st_dev
        yield checks.check_backup_disk(server.data, is_own)


def _why(server: ServerStatus) -> str:
    return "" if server.state == "up" else f"{server.state}; {server.detail}"


def _postgres(settings: Settings, server: ServerStatus) -> Iterator[Check]:
    users = {
        settings.catalog_user: settings.catalog_password.get_secret_value(),
        settings.reader_user: settings.reader_password.get_secret_value(),
    }
    address = server.address or "postgresql"
    for user, password in users.items():
        problem = _why(server) or external.postgres_problem(settings, user, password)
        yield checks.check_server(f"postgresql as {user}", address, problem)
    yield checks.check_skew("postgresql", None if _why(server) else _postgres_skew(settings))


def _postgres_skew(settings: Settings) -> float | None:
    """Seconds by which this clock is ahead of PostgreSQL's; None when it cannot be asked."""
    import psycopg

    try:
        with _catalog(settings) as connection:
            before = datetime.now(UTC)
            row = connection.execute("select clock_timestamp()").fetchone()
    except psycopg.OperationalError:
        return None
    return (before - row[0]).total_seconds() if row else None


def _catalog(settings: Settings) -> psycopg.Connection:
    password = settings.catalog_password.get_secret_value()
    return postgres.connect(
        settings.postgres_port, settings.catalog_database, settings.catalog_user, password, settings.postgres_host
    )


def _s3_skew(settings: Settings) -> float | None:
    """Seconds by which this clock is ahead of the S3 server's ``Date``, which has whole seconds only."""
    date = buckets.server_time(settings)
    return (datetime.now(UTC) - date).total_seconds() if date else None
