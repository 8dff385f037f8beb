"""Servers as processes: started apart from the terminal, recorded, and stopped only when they are ours.

A process is ours when its executable and its data folder (an argument of its own) are those of the record, and it
started when the record says. A pid alone proves nothing: the system reuses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from lakehouse.core.errors import StackError
from lakehouse.core.process import runs
from lakehouse.stack.files import write_private

_POLL_SECONDS = 0.02
_SAME_START_SECONDS = 2.0
_LOG_LIMIT_BYTES = 20 << 20
_DELETED = " (deleted)"


@dataclass(frozen=True)
class Record:
    """What is written down about a server that was started. ``ready_for`` is empty until it was made ready."""

    pid: int
    create_time: float
    executable: str
    marker: str
    port: int
    kind: str
    ready_for: str = ""


@dataclass(frozen=True)
class User:
    """The account that a server runs as."""

    uid: int
    gid: int


def write_record(path: Path, record: Record) -> None:
    """Write a record, privately and whole."""
    write_private(path, json.dumps(asdict(record), indent=1))


def read_record(path: Path) -> Record | None:
    """The record at ``path``; None where there is none or it cannot be read."""
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs. A child of ours that has ended is collected."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return runs(process)


def owned(record: Record) -> psutil.Process | None:
    """The process of a record, or None when it has ended or its pid belongs to another program now."""
    try:
        process = psutil.Process(record.pid)
        started = process.create_time()
    except psutil.NoSuchProcess:
        return None
    if abs(started - record.create_time) > _SAME_START_SECONDS or not is_alive(process):
        return None
    return process if _executable(process) == record.executable and _has_marker(process, record.marker) else None


def find_unrecorded(program: str, marker: str) -> psutil.Process | None:
    """The server that serves the data folder ``marker`` though no valid record says so (a start was cut short)."""
    found = {p.pid: p for p in psutil.process_iter() if _is_program(p, program) and _has_marker(p, marker)}
    roots = (process for process in found.values() if process.ppid() not in found and is_alive(process))
    return next(roots, None)


def record_of(process: psutil.Process, marker: str, port: int, kind: str) -> Record:
    """A new record of a running process."""
    now = psutil.Process(process.pid)  # an older object remembers the program that a wrapper was before
    return Record(now.pid, now.create_time(), _executable(now), marker, port, kind)


def _executable(process: psutil.Process) -> str:
    try:
        return process.exe().removesuffix(_DELETED)
    except psutil.Error:
        return ""


def _is_program(process: psutil.Process, program: str) -> bool:
    return Path(_executable(process)).name.startswith(program)


def _has_marker(process: psutil.Process, marker: str) -> bool:
    try:
        return marker in process.cmdline()
    except psutil.Error:
        return False


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, user: User | None) -> psutil.Process:
    """Start a server in a session of its own, so that it outlives the terminal; its output goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            umask=0o077,
            start_new_session=True,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
    # Python warns about a Popen that is dropped while its child runs; this child is meant to run on.
    child.returncode = 0
    return psutil.Process(child.pid)


def wait_until_ready(process: psutil.Process, is_ready: Callable[[], bool], timeout_seconds: float) -> bool:
    """Whether the server became ready; False when it ended or the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while is_alive(process) and time.monotonic() < deadline:
        if is_ready():
            return True
        time.sleep(_POLL_SECONDS)
    return False


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a server's log, for an error message."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def stop(record: Record, gently: Sequence[tuple[signal.Signals, float]]) -> bool:
    """Stop the record's process and its children: each signal in turn with its seconds, then SIGKILL.

    Returns False, and touches nothing, when the process is not ours or has ended. Raises :class:`StackError` when
    even SIGKILL didn't help.
    """
    process = owned(record)
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    for number, seconds in (*gently, (signal.SIGKILL, 10.0)):
        _send(family if number == signal.SIGKILL else [process], number)
        if _gone(family, seconds):
            return True
    raise StackError(f"process {record.pid} ({record.kind}) cannot be stopped", todo="see what holds it: a dead disk?")


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _gone(processes: Sequence[psutil.Process], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while any([is_alive(process) for process in processes]):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
