"""Credentials' files, the lock and ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.core.errors import SettingsError, StackError
from lakehouse.core.settings import Settings
from lakehouse.stack import credentials, external, ports
from lakehouse.stack.accounts import _can_enter, _grant
from lakehouse.stack.files import file_lock, read_env, write_env, write_private
from lakehouse.stack.processes import User


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)


def settings_at(home: Path, **values: object) -> Settings:
    return Settings(_env_file=credentials.env_path(home), home=home, **values)


def test_a_private_file_is_private_whatever_the_umask_and_replaced_whole(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "secret", "one")
        write_private(tmp_path / "secret", "two")
    finally:
        os.umask(before)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == "two"


printable = st.text(max_size=40).filter(lambda text: text.isprintable() and "${" not in text)


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,20}", fullmatch=True), printable))
def test_env_files_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("env") / "file.env"
    write_env(path, values, "a comment with = in it")
    assert read_env(path) == values
    assert dotenv_values(path) == values, "the settings would read something else"


@pytest.mark.parametrize("value", ["two\nlines", "${HOME}", "\x00"])
def test_a_value_that_no_env_file_can_hold_is_refused_unseen(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="PASSWORD cannot be kept") as raised:
        write_env(tmp_path / "file.env", {"PASSWORD": value}, "x")
    assert value not in str(raised.value) and not (tmp_path / "file.env").exists()


def test_credentials_are_made_once_and_differ_from_each_other(tmp_path: Path) -> None:
    first = credentials.load_or_create(settings_at(tmp_path))
    assert credentials.load_or_create(settings_at(tmp_path)) == first
    secrets = [*vars(first.passwords).values(), first.s3_access_key_id, first.s3_secret_access_key]
    assert len(set(secrets)) == len(secrets) == 10
    assert min(map(len, secrets)) >= 24
    assert credentials.admin_path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert not [secret for secret in secrets if secret in repr(first) and secret != first.s3_access_key_id]


def test_settings_read_back_what_stack_env_says(tmp_path: Path) -> None:
    made = credentials.load_or_create(settings_at(tmp_path))
    lines = {**credentials.s3_lines(made, 9001), **credentials.postgres_lines(settings_at(tmp_path), made, 5433)}
    credentials.write_stack_env(tmp_path, lines)
    read = settings_at(tmp_path)
    read.require_servers()
    assert read.s3_endpoint == "http://127.0.0.1:9001" and read.postgres_port == 5433
    assert set(read.connections) == {"crm", "crm_owner"}
    assert credentials.remembered_s3_port(tmp_path) == 9001
    assert credentials.remembered_postgres_port(tmp_path) == 5433
    assert credentials.env_path(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_password_from_the_environment_wins_and_changes_the_fingerprint(tmp_path: Path) -> None:
    generated = credentials.load_or_create(settings_at(tmp_path))
    given_one = credentials.load_or_create(settings_at(tmp_path, catalog_password="my own"))
    assert given_one.passwords.catalog == "my own"
    assert given_one.fingerprint(1) != generated.fingerprint(1) == generated.fingerprint(1) != generated.fingerprint(2)


def test_external_is_judged_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.write_stack_env(tmp_path, {"LAKEHOUSE_S3_ENDPOINT": "http://127.0.0.1:9001"})
    assert not external.is_s3_external(settings_at(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_S3_ENDPOINT", "http://127.0.0.1:9001")
    assert not external.is_s3_external(settings_at(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_S3_ENDPOINT", "https://s3.example.com")
    assert external.is_s3_external(settings_at(tmp_path))
    monkeypatch.delenv("LAKEHOUSE_S3_ENDPOINT")
    assert external.is_s3_external(settings_at(tmp_path, s3_server="external"))
    assert not external.is_postgres_external(settings_at(tmp_path))
    assert external.is_postgres_external(settings_at(tmp_path, postgres_host="db.example.com"))
    assert external.is_postgres_external(settings_at(tmp_path, postgres_server="external"))


def test_lock_is_held_against_others_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib, signal; from lakehouse.stack.files import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1]), 1, 'x'): print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with pytest.raises(StackError, match="busy with tests"), file_lock(lock, 0.2, "tests"):
            pytest.fail("the lock was given twice")
        holder.kill()
        holder.wait()
        with file_lock(lock, 5, "tests"):
            assert lock.exists()


def test_ports_are_as_asked_else_as_before_else_free() -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ports.is_free(port) and ports.is_answered(ports.LOOPBACK, port)
        with pytest.raises(StackError, match=f"port {port} is taken(?s:.*)LAKEHOUSE_S3_PORT"):
            ports.choose(port, 0, "LAKEHOUSE_S3_PORT")
        assert ports.choose(0, port, "LAKEHOUSE_S3_PORT") not in (0, port)
    assert ports.choose(0, port, "LAKEHOUSE_S3_PORT") == port
    assert ports.choose(port, 1, "LAKEHOUSE_S3_PORT") == port
    assert not ports.is_answered(ports.LOOPBACK, port)


@pytest.mark.skipif(sys.platform != "linux", reason="access lists by extended attribute are Linux's")
def test_entering_is_granted_to_one_account_and_again_after_chmod(tmp_path: Path) -> None:
    folder, user = tmp_path / "closed", User(12345, 12345)
    folder.mkdir(mode=0o700)
    assert not _can_enter(user, folder)
    _grant(user, folder)
    assert _can_enter(user, folder) and not _can_enter(User(54321, 54321), folder)
    assert folder.stat().st_mode & 0o007 == 0
    folder.chmod(0o700)
    assert not _can_enter(user, folder)
    _grant(user, folder)
    assert _can_enter(user, folder)
