"""``up``, ``down`` and ``status`` of the local stack: PostgreSQL, an S3 server and one for backups, Spark Connect and
Airflow, on loopback.

A server that the settings place elsewhere is never started or stopped, only checked.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import Settings
from lakehouse.core.spark_place import OWN_PROCESS, OWN_SERVER
from lakehouse.stack import (
    airflow,
    archiving,
    backups,
    buckets,
    connect,
    credentials,
    external,
    minio,
    ports,
    postgres,
    processes,
    roles,
    supervisor,
)
from lakehouse.stack.accounts import server_user
from lakehouse.stack.credentials import Credentials
from lakehouse.stack.files import file_lock, private_folder
from lakehouse.stack.model import Login, ServerStatus, StackStatus, Stopped
from lakehouse.stack.processes import User
from lakehouse.stack.supervisor import Identity, Launch

_LOCK_SECONDS = 2400.0
_KEPT_LINES = ("LAKEHOUSE_AIRFLOW_URL",)
_MINIO_STOP = ((signal.SIGTERM, 15.0),)
_WRITING = threading.Lock()
_STAND_IN = (
    "moto stands in for MinIO: it keeps data in MEMORY ONLY, and loses it when it stops. It is for trying out, "
    "never for data that matters"
)


def identities(home: Path) -> tuple[Identity, Identity, Identity]:
    """Every server that could be ours: PostgreSQL, MinIO, and moto in MinIO's place."""
    return (
        Identity("postgresql", "postgres", postgres.PROGRAM, home, postgres.STOP),
        Identity("s3", "minio", minio.PROGRAM, home, _MINIO_STOP),
        Identity("s3", "moto", "python", home, _MINIO_STOP),
    )


def up(
    settings: Settings, console: Console | None = None, *, spark: bool = False, with_airflow: bool = False
) -> StackStatus:
    """Start what doesn't run, make it ready, and write ``stack.env``; nothing happens to what is up already.

    With ``spark``, or where jobs are meant to run there, the Spark Connect servers as well; and jobs run there then,
    unless the environment says otherwise.

    Call :func:`lakehouse.core.settings.load_settings` afterwards. Raises :class:`StackError` when a server cannot be
    started, or an external one cannot be used.
    """
    home = settings.home
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"the state folder cannot be made: {error}", todo="set LAKEHOUSE_HOME") from None
    with holding_stack(home):
        kept = credentials.load_or_create(settings)
        was = credentials.read_stack_env(home)
        lines = {name: was[name] for name in _KEPT_LINES if name in was}
        # First where backups go: PostgreSQL is started so that it archives its log there.
        _s3_up(settings, kept, lines, console)
        _postgres_up(settings, kept, lines)
        lines.update(backups.key_line(settings, kept))
        _archive_log(_as_written(settings, lines))
        settings = _spark_up(settings, kept, lines, asked=spark)
        credentials.write_stack_env(home, lines)
        if with_airflow:
            _airflow_up(settings, kept, lines)
            credentials.write_stack_env(home, lines)
        found = status(settings)
    external.require_usable(found)
    return found


def down(settings: Settings) -> Stopped:
    """Stop every server of this stack that is ours, with its children; the data and credentials stay."""
    if not settings.home.exists():
        return Stopped(())
    with holding_stack(settings.home):
        postgres.clear_restoring(settings.home)
        stopped = _stop(settings.home, (*identities(settings.home), backups.identity(settings)))
    return Stopped(stopped)


def stop_databases(settings: Settings) -> Stopped:
    """Stop PostgreSQL, and before it what works with it: Airflow and Spark. The S3 server goes on.

    For whoever holds the lock of the stack.
    """
    return Stopped(_stop(settings.home, identities(settings.home)[:1]))


def _stop(home: Path, servers: Sequence[Identity]) -> tuple[str, ...]:
    stopped = [airflow.KIND] if supervisor.ensure_down(airflow.identity(home)) else []
    airflow.end_strays(home)
    # Then Spark: it works with the others.
    stopped += [one.kind for one in (*connect.identities(home), *servers) if supervisor.ensure_down(one)]
    postgres.clear_unfinished(home)
    postgres.stop_orphans(home / "postgres")
    return tuple(stopped)


@contextmanager
def holding_stack(home: Path) -> Iterator[None]:
    """While this is held, nobody else starts or stops servers of this home."""
    with file_lock(home / "stack.lock", _LOCK_SECONDS, "starting or stopping this stack"):
        yield


def logins(settings: Settings) -> tuple[Login, ...]:
    """Who may log in to Airflow, with their passwords. Not for logs."""
    return airflow.logins(credentials.load_or_create(settings))


def status(settings: Settings) -> StackStatus:
    """How the servers are now. Local ones by process and port, external ones by using them."""
    postgresql, minio_server, moto_server = identities(settings.home)
    s3_server = moto_server if supervisor.current(moto_server) else minio_server
    servers: tuple[ServerStatus, ...] = (
        external.postgres_status(settings) if external.is_postgres_external(settings) else _local_status(postgresql),
        external.s3_status(settings) if external.is_s3_external(settings) else _local_status(s3_server),
        *_backups_status(settings),
        *_airflow_status(settings.home),
    )
    if settings.spark_master == OWN_SERVER or connect.are_wanted(settings, asked=False):
        servers = (*servers, *map(_local_status, connect.identities(settings.home)))
    notices = (_STAND_IN,) if any(server.kind == "moto" for server in servers) else ()
    return StackStatus(str(settings.home), servers, notices)


def _local_status(identity: Identity) -> ServerStatus:
    record = supervisor.current(identity)
    if record is None:
        return ServerStatus(identity.name, identity.kind, "down", "", 0, "run `lakehouse up`")
    address = f"{ports.LOOPBACK}:{record.port}"
    if not ports.is_answered(ports.LOOPBACK, record.port):
        return ServerStatus(
            identity.name, identity.kind, "unreachable", address, record.pid, "it accepts no connection"
        )
    if not record.ready_for:
        return ServerStatus(identity.name, identity.kind, "unreachable", address, record.pid, "`up` was cut short")
    return ServerStatus(identity.name, identity.kind, "up", address, record.pid, str(identity.data))


def _backups_status(settings: Settings) -> tuple[ServerStatus, ...]:
    """The server of backups is one of ours wherever the lake's MinIO is. Another place is none of this stack's."""
    identity = backups.identity(settings)
    is_ours = supervisor.current(identities(settings.home)[1]) is not None and not backups.is_external(settings)
    return (_local_status(identity),) if is_ours or supervisor.current(identity) else ()


def _airflow_status(home: Path) -> tuple[ServerStatus, ...]:
    """Airflow is one of the servers once it was started, until `down`."""
    identity = airflow.identity(home)
    if processes.read_record(identity.record_path) is None:
        return ()
    found = _local_status(identity)
    record = supervisor.current(identity)
    if found.state == "up" and record and not airflow.is_well(record.port):
        return (replace(found, state="unreachable", detail=f"not every component is well: {identity.log}"),)
    return (found,)


def _remember(home: Path, lines: dict[str, str], new: Callable[[int], dict[str, str]]) -> Callable[[int], None]:
    """Write a server's port and credentials down before it starts, so that a cut start can be taken up again."""

    def write(port: int) -> None:
        with _WRITING:
            lines.update(new(port))
            credentials.write_stack_env(home, {**credentials.read_stack_env(home), **lines})

    return write


def _postgres_up(settings: Settings, kept: Credentials, lines: dict[str, str]) -> None:
    identity = identities(settings.home)[0]
    if external.is_postgres_external(settings):
        supervisor.ensure_down(identity)
        return
    remember = _remember(settings.home, lines, lambda port: credentials.postgres_lines(settings, kept, port))
    supervisor.ensure_up(identity, _postgres_launch(_as_written(settings, lines), kept, identity), remember)


def _archive_log(settings: Settings) -> None:
    """Who writes backups may have changed, or is known only now that the S3 server runs."""
    if archiving.is_on(settings) and not external.is_postgres_external(settings):
        archiving.write_identity(settings, server_user(settings.home / "postgres"))


def _postgres_launch(settings: Settings, kept: Credentials, identity: Identity) -> Launch:
    remembered = credentials.remembered_postgres_port(settings.home)
    is_set = settings.postgres_port != remembered or "LAKEHOUSE_POSTGRES_PORT" in os.environ
    wanted = settings.postgres_port if is_set else 0
    password = kept.passwords.superuser
    facts = (settings.catalog_database, settings.catalog_user, settings.reader_user, wanted, *archiving.facts(settings))
    more = archiving.options(archiving.folder_of(settings.home)) if archiving.is_on(settings) else {}
    return Launch(
        wanted_port=wanted,
        remembered_port=remembered,
        port_setting="LAKEHOUSE_POSTGRES_PORT",
        ready_for=kept.fingerprint(*facts),
        prepare=lambda: _prepare_postgres(settings, identity.data, password),
        command=lambda port: postgres.command(identity.data, port, more),
        environment=postgres.environment(),
        is_ready=lambda port: postgres.is_ready(port, password),
        make_ready=lambda port: roles.provision(settings, port, kept.passwords),
        start_seconds=postgres.START_SECONDS,
    )


def _prepare_postgres(settings: Settings, data: Path, password: str) -> User | None:
    user = postgres.prepare(data, password)
    if user and archiving.is_on(settings):
        archiving.let_run_python(user)
    return user


def _airflow_up(settings: Settings, kept: Credentials, lines: dict[str, str]) -> None:
    remember = _remember(settings.home, lines, airflow.lines)
    supervisor.ensure_up(airflow.identity(settings.home), airflow.launch(settings, kept, lines), remember)


def _s3_up(settings: Settings, kept: Credentials, lines: dict[str, str], console: Console | None) -> None:
    _, minio_server, moto_server = identities(settings.home)
    if external.is_s3_external(settings):
        supervisor.ensure_down(minio_server)
        supervisor.ensure_down(moto_server)
        _backups_up(settings, kept, lines, None)
        return
    program = _s3_program(settings, minio_server, moto_server, console)
    identity, other = (minio_server, moto_server) if program else (moto_server, minio_server)
    supervisor.ensure_down(other)
    remember = _remember(settings.home, lines, lambda port: credentials.s3_lines(kept, port))
    with ThreadPoolExecutor(1) as beside:
        second = beside.submit(_backups_up, settings, kept, lines, program)
        supervisor.ensure_up(identity, _s3_launch(settings, kept, identity, program), remember)
        second.result()


def _backups_up(settings: Settings, kept: Credentials, lines: dict[str, str], program: Path | None) -> None:
    """The server of backups beside a MinIO of ours; beside nothing else, and not where backups go elsewhere."""
    identity = backups.identity(settings)
    if program is None or backups.is_external(settings):
        supervisor.ensure_down(identity)
        return
    remember = _remember(settings.home, lines, lambda port: backups.lines(settings, kept, port))
    supervisor.ensure_up(identity, backups.launch(settings, kept, program), remember)


def _s3_program(
    settings: Settings, minio_server: Identity, moto_server: Identity, console: Console | None
) -> Path | None:
    """MinIO's program, or None for the stand-in. A server that runs already is kept."""
    if settings.s3_server == "moto" or (settings.s3_server == "auto" and supervisor.current(moto_server)):
        return None
    if record := supervisor.current(minio_server):
        return Path(record.executable)
    found = minio.find_or_build(settings.cache, console)
    if found.path is None and settings.s3_server == "auto" and not minio_server.data.exists():
        (console or Console(stderr=True)).print(f"[bold red]{_STAND_IN}[/] ({found.reason})")
        return None
    return minio.require(found)


def _s3_launch(settings: Settings, kept: Credentials, identity: Identity, program: Path | None) -> Launch:
    return Launch(
        wanted_port=settings.s3_port,
        remembered_port=credentials.remembered_s3_port(settings.home),
        port_setting="LAKEHOUSE_S3_PORT",
        ready_for=kept.fingerprint(*buckets.buckets_of(settings), settings.s3_port),
        prepare=lambda: _make_folder(identity.data),
        command=lambda port: _s3_command(identity, program, port),
        environment=_s3_environment(kept, program),
        is_ready=lambda port: ports.is_answered(ports.LOOPBACK, port),
        make_ready=lambda port: buckets.create(_at(settings, kept, port)),
        start_seconds=60.0,
    )


def _spark_up(settings: Settings, kept: Credentials, lines: dict[str, str], *, asked: bool) -> Settings:
    """The Spark Connect servers, with the settings that jobs will read from ``stack.env``; where jobs run from now on.

    While they run, jobs and consoles of this home use them, unless somebody chose another place.
    """
    is_chosen, are_wanted = connect.is_place_chosen(settings), connect.are_wanted(settings, asked=asked)
    if are_wanted:
        _connect_up(settings, kept, lines)
    if is_chosen:
        return settings
    if are_wanted:
        lines[connect.PLACE] = OWN_SERVER
    return settings.model_copy(update={"spark_master": OWN_SERVER if are_wanted else OWN_PROCESS})


def _connect_up(settings: Settings, kept: Credentials, lines: dict[str, str]) -> None:
    for identity, read_only in zip(connect.identities(settings.home), (False, True), strict=True):
        launch = connect.launch(_as_written(settings, lines), kept, identity, read_only=read_only)
        new = partial(credentials.connect_lines, kept, read_only=read_only)
        supervisor.ensure_up(identity, launch, _remember(settings.home, lines, new))


def _as_written(settings: Settings, lines: dict[str, str]) -> Settings:
    """The settings as they will be once ``stack.env`` is read."""
    fields = {name.removeprefix("LAKEHOUSE_").lower(): value for name, value in lines.items()}
    known = {name: value for name, value in fields.items() if name in Settings.model_fields}
    return Settings.model_validate({**settings.model_dump(), **known})


def _make_folder(data: Path) -> User | None:
    private_folder(data)
    return None


def _s3_command(identity: Identity, program: Path | None, port: int) -> list[str]:
    if program:
        return minio.command(program, identity.data, port, ports.any_free(), identity.home / "minio-certs")
    return [sys.executable, "-m", "lakehouse.stack.moto_server", str(port), str(identity.data)]


def _s3_environment(kept: Credentials, program: Path | None) -> dict[str, str]:
    if program:
        return minio.environment(kept.s3_access_key_id, kept.s3_secret_access_key)
    return {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}


def _at(settings: Settings, kept: Credentials, port: int) -> Settings:
    """The settings as they will be once ``stack.env`` is read."""
    return settings.model_copy(
        update={
            "s3_endpoint": f"http://{ports.LOOPBACK}:{port}",
            "s3_access_key_id": kept.s3_access_key_id,
            "s3_secret_access_key": SecretStr(kept.s3_secret_access_key),
        }
    )
