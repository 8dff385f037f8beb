"""Ownership of processes: what is not ours is never touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lakehouse.stack import processes, supervisor
from lakehouse.stack.processes import Record

WAIT = "import sys, signal, subprocess; print('ready', flush=True); signal.pause()"
PARENT = (
    "import subprocess, sys, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    "print('ready', flush=True); signal.pause()"
)
SOON = ((signal.SIGTERM, 0.2),)


def start(code: str, marker: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", code, marker], stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"ready\n"
    return child


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = start(WAIT, str(tmp_path / "data"))
    with child:
        yield child
        child.kill()


@pytest.fixture
def record(server: subprocess.Popen[bytes], tmp_path: Path) -> Record:
    return processes.record_of(psutil.Process(server.pid), str(tmp_path / "data"), 1, "minio")


def test_a_process_is_ours_only_when_everything_fits(record: Record) -> None:
    assert processes.owned(record) is not None
    foreign = (
        replace(record, create_time=record.create_time - 60),
        replace(record, executable="/usr/bin/other"),
        replace(record, marker="/another/folder"),
        replace(record, pid=os.getpid()),
    )
    assert [processes.owned(one) for one in foreign] == [None] * 4


def test_a_foreign_process_is_not_stopped(record: Record, server: subprocess.Popen[bytes]) -> None:
    assert processes.stop(replace(record, marker="/another/folder"), SOON) is False
    assert server.poll() is None


def test_stop_ends_the_process_and_its_children_even_if_it_ignores_the_signal(tmp_path: Path) -> None:
    with start(PARENT, str(tmp_path / "data")) as child:
        record = processes.record_of(psutil.Process(child.pid), str(tmp_path / "data"), 1, "minio")
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children()]
        assert len(family) == 2
        assert processes.stop(record, SOON) is True
        assert [process for process in family if processes.is_alive(process)] == []
        assert processes.stop(record, SOON) is False


def test_an_unrecorded_server_is_found_by_its_folder(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    found = processes.find_unrecorded("python", str(tmp_path / "data"))
    assert found is not None and found.pid == server.pid
    assert processes.find_unrecorded("minio", str(tmp_path / "data")) is None
    assert processes.find_unrecorded("python", str(tmp_path / "dat")) is None


def test_a_stale_record_is_cleaned_and_kills_nobody(
    record: Record, server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    identity = supervisor.Identity("s3", "minio", "minio", tmp_path, SOON)
    processes.write_record(identity.record_path, replace(record, create_time=1.0))
    assert identity.record_path.stat().st_mode & 0o777 == 0o600
    assert supervisor.current(identity) is None
    assert supervisor.ensure_down(identity) is False
    assert not identity.record_path.exists() and server.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert processes.read_record(tmp_path / "record") is None


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    from lakehouse.core.errors import StackError

    identity = supervisor.Identity("s3", "minio", "python", tmp_path, SOON)
    launch = supervisor.Launch(
        wanted_port=0,
        remembered_port=0,
        port_setting="LAKEHOUSE_S3_PORT",
        ready_for="x",
        prepare=lambda: None,
        command=lambda port: [sys.executable, "-c", "raise SystemExit('no disk')", str(identity.data)],
        environment={},
        is_ready=lambda port: False,
        make_ready=lambda port: None,
        start_seconds=20,
    )
    with pytest.raises(StackError, match="(?s)ended at once.*no disk"):
        supervisor.ensure_up(identity, launch, lambda port: None)
    assert not identity.record_path.exists()
