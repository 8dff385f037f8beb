"""Bring one local server up or down, whatever state an earlier, perhaps killed, attempt left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from lakehouse.core.errors import StackError
from lakehouse.stack import ports, processes
from lakehouse.stack.processes import Record, User

_PORT_ATTEMPTS = 3
Signals = Sequence[tuple[signal.Signals, float]]


@dataclass(frozen=True)
class Identity:
    """How one of our servers is told from any other process: its program and its data folder.

    ``folder`` is where its data are if not in the home.
    """

    name: str
    kind: str
    program: str
    home: Path
    stop_signals: Signals
    folder: Path | None = None

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.folder or self.home / self.kind

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self.home / "logs" / f"{self.kind}.log"

    @property
    def record_path(self) -> Path:
        """Where the running process is written down."""
        return self.home / "run" / f"{self.kind}.json"


@dataclass(frozen=True)
class Launch:
    """How to start a server and make it ready. ``wanted_port`` 0 means any free one."""

    wanted_port: int
    remembered_port: int
    port_setting: str
    ready_for: str
    prepare: Callable[[], User | None]
    command: Callable[[int], list[str]]
    environment: Mapping[str, str] | Callable[[int], Mapping[str, str]]
    is_ready: Callable[[int], bool]
    make_ready: Callable[[int], None]
    start_seconds: float


def current(identity: Identity) -> Record | None:
    """The record of the running server; None when it doesn't run. Cheap; trusts nothing but the process itself."""
    record = processes.read_record(identity.record_path)
    return record if record and processes.owned(record) else None


def find(identity: Identity) -> Record | None:
    """As :func:`current`, and also finds a server whose start was cut short before it was written down."""
    if record := current(identity):
        return record
    process = processes.find_unrecorded(identity.program, str(identity.data))
    return processes.record_of(process, str(identity.data), 0, identity.kind) if process else None


def ensure_down(identity: Identity) -> bool:
    """Stop the server if it is ours and runs; returns whether it did. The data stays."""
    record = find(identity)
    was_stopped = record is not None and processes.stop(record, identity.stop_signals)
    identity.record_path.unlink(missing_ok=True)
    return was_stopped


def ensure_up(identity: Identity, launch: Launch, on_port: Callable[[int], None]) -> Record:
    """The running, ready server: the one that is there if it was set up like this, else a new one.

    ``on_port`` is told the port before the server starts. Raises :class:`StackError` when it doesn't start.
    """
    record = current(identity)
    if record and record.ready_for == launch.ready_for and ports.is_answered(ports.LOOPBACK, record.port):
        on_port(record.port)
        return record
    ensure_down(identity)
    user = launch.prepare()
    record = _start(identity, launch, user, on_port)
    launch.make_ready(record.port)
    record = replace(record, ready_for=launch.ready_for)
    processes.write_record(identity.record_path, record)
    return record


def _start(identity: Identity, launch: Launch, user: User | None, on_port: Callable[[int], None]) -> Record:
    """Start on a port, and again on another one if a third program was quicker to take it."""
    remembered = launch.remembered_port
    for _ in range(_PORT_ATTEMPTS):
        port = ports.choose(launch.wanted_port, remembered, launch.port_setting)
        on_port(port)
        environment = launch.environment(port) if callable(launch.environment) else launch.environment
        process = processes.start(launch.command(port), environment, identity.log, user)
        record = processes.record_of(process, str(identity.data), port, identity.kind)
        processes.write_record(identity.record_path, record)
        if processes.wait_until_ready(process, lambda port=port: launch.is_ready(port), launch.start_seconds):  # type: ignore[misc]
            # Written again: a program that was a wrapper has become the real one by now.
            return processes.record_of(process, str(identity.data), port, identity.kind)
        if launch.wanted_port or processes.is_alive(process) or ports.is_free(port):
            break
        remembered = 0
    raise _not_started(identity, process)


def _not_started(identity: Identity, process: psutil.Process) -> StackError:
    was_alive = processes.is_alive(process)
    ensure_down(identity)
    return StackError(
        f"{identity.name} ({identity.kind}) {'did not become ready in time' if was_alive else 'ended at once'}:\n"
        f"{processes.last_lines(identity.log)}",
        where=str(identity.log),
        untouched="its data",
        todo="read the log, fix what it names, then run `lakehouse up` again",
    )
