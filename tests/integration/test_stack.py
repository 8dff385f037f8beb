"""The local stack on real servers: what `up` promises, and what a killed or doubled `up` leaves."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from lakehouse.core.errors import StackError
from lakehouse.core.settings import Settings, load_settings
from lakehouse.stack import (
    StackStatus,
    backup_access,
    backups,
    buckets,
    down,
    postgres,
    processes,
    status,
    supervisor,
    up,
)
from lakehouse.stack.credentials import admin_path, env_path
from lakehouse.stack.local import identities

pytestmark = pytest.mark.integration

UP = "from lakehouse.core.settings import load_settings; from lakehouse.stack import up; up(load_settings())"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack's home of this module's own, with nothing of the caller's environment."""
    folder = tmp_path_factory.mktemp("stack") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
            patch.delenv(name)
        patch.setenv("LAKEHOUSE_HOME", str(folder))
        yield folder
        down(load_settings())
    assert processes_of(folder) == []


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that has to do with this home, found without the stack's own records."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in part for part in (process.cwd(), *process.cmdline())) and processes.is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def as_role(user: str, password: str, database: str | None = None) -> psycopg.Connection:
    settings = load_settings()
    return postgres.connect(settings.postgres_port, database or settings.catalog_database, user, password)


def transform() -> psycopg.Connection:
    settings = load_settings()
    return as_role(settings.catalog_user, settings.catalog_password.get_secret_value())


def pids(found: StackStatus) -> list[int]:
    return [server.pid for server in found.servers]


def test_up_is_ready_private_and_repeated_at_once(home: Path) -> None:
    first = up(load_settings())
    assert first.is_up and status(load_settings()) == first
    assert {path.stat().st_mode & 0o777 for path in (env_path(home), admin_path(home))} == {0o600}
    started = time.monotonic()
    assert up(load_settings()) == first
    assert time.monotonic() - started < 1.0
    load_settings().require_servers()
    assert buckets.problem(load_settings()) == ""


def test_servers_listen_on_loopback_only(home: Path) -> None:
    found = up(load_settings())
    connections = [c for pid in pids(found) for c in psutil.Process(pid).net_connections(kind="tcp")]
    listening = [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert [address for address in listening if not ipaddress.ip_address(address).is_loopback] == []
    families = [c.family.name for c in psutil.Process(pids(found)[0]).net_connections(kind="unix")]
    assert families == [], "PostgreSQL has a Unix socket"


def test_no_secret_is_in_a_command_line(home: Path) -> None:
    found = up(load_settings())
    secrets = [value for _, _, value in (line.partition("=") for line in admin_path(home).read_text().splitlines()[1:])]
    assert len(secrets) >= 9
    for pid in pids(found):
        said = " ".join(psutil.Process(pid).cmdline())
        assert not [secret for secret in secrets if secret in said]
    logs = "".join(path.read_text() for path in (home / "logs").glob("*.log"))
    assert logs and not [secret for secret in secrets if secret in logs]


def test_wrong_password_is_refused_and_every_rule_is_scram(home: Path) -> None:
    settings = up(load_settings()) and load_settings()
    for user in (settings.catalog_user, settings.reader_user, "postgres", "crm_owner"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            as_role(user, "wrong")
    rules = [line.split() for line in (home / "postgres" / "pg_hba.conf").read_text().splitlines()]
    methods = {rule[-1] for rule in rules if rule and not rule[0].startswith("#")}
    assert methods == {"scram-sha-256"}


def test_reader_reads_what_transform_makes_and_writes_nothing() -> None:
    up(load_settings())
    settings = load_settings()
    with transform() as owner:
        owner.execute("create table if not exists public.seen (n int)")
        owner.execute("insert into public.seen values (1)")
    with as_role(settings.reader_user, settings.reader_password.get_secret_value()) as reader:
        assert reader.execute("select n from public.seen").fetchone() == (1,)
        for statement in ("insert into public.seen values (2)", "create table public.mine (n int)"):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                reader.execute(statement)
        reader.execute("set default_transaction_read_only = off")
        for statement in ("insert into public.seen values (2)", "create table public.mine (n int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)


def test_source_is_read_by_ingest_and_closed_to_the_others() -> None:
    up(load_settings())
    connections = {name: dsn.get_secret_value() for name, dsn in load_settings().connections.items()}
    with psycopg.connect(connections["crm_owner"], autocommit=True) as owner:
        owner.execute("create table if not exists crm.people (n int)")
    with psycopg.connect(connections["crm"], autocommit=True) as ingest:
        assert ingest.execute("select count(*) from crm.people").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ingest.execute("insert into crm.people values (1)")
    settings = load_settings()
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        as_role(settings.catalog_user, settings.catalog_password.get_secret_value(), "sources")


def test_down_leaves_no_process_and_up_finds_data_and_credentials(home: Path) -> None:
    up(load_settings())
    before = load_settings()
    buckets.client(before).put_object(Bucket=before.landing_bucket, Key="kept", Body=b"bytes")
    with transform() as owner:
        owner.execute("create table if not exists public.kept (n int)")
    assert set(down(before).kinds) == {"postgres", "minio", "backups"}
    assert processes_of(home) == []
    assert not status(before).is_up and down(before).kinds == ()
    up(load_settings())
    assert load_settings() == before, "ports or credentials changed"
    assert buckets.client(before).get_object(Bucket=before.landing_bucket, Key="kept")["Body"].read() == b"bytes"
    with transform() as owner:
        assert owner.execute("select count(*) from public.kept").fetchone() == (0,)


def test_up_recovers_servers_that_were_killed(home: Path) -> None:
    first = up(load_settings())
    for pid in pids(first):
        os.kill(pid, signal.SIGKILL)
    second = up(load_settings())
    assert second.is_up and not set(pids(first)) & set(pids(second))
    transform().close()


def test_server_that_was_never_written_down_is_found_and_stopped(home: Path) -> None:
    """As when `up` is killed between starting a server and recording it."""
    found = up(load_settings())
    for identity in (*identities(home), backups.identity(load_settings())):
        identity.record_path.unlink(missing_ok=True)
    assert not status(load_settings()).is_up
    assert set(down(load_settings()).kinds) == {"postgres", "minio", "backups"}
    gone = pids(found)
    assert [one for one in psutil.process_iter() if one.pid in gone and processes.is_alive(one)] == []
    assert processes_of(home) == []


@pytest.mark.parametrize("seconds", [0.6, 0.9, 1.3])
def test_up_killed_halfway_is_taken_up_again(tmp_path: Path, seconds: float) -> None:
    home = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_HOME", str(home))
        with subprocess.Popen([sys.executable, "-c", UP], stderr=subprocess.DEVNULL) as starting:
            try:
                starting.wait(seconds)
            except subprocess.TimeoutExpired:
                starting.kill()
        assert up(load_settings()).is_up
        assert buckets.problem(load_settings()) == ""
        transform().close()
        down(load_settings())
    assert processes_of(home) == [] and not list(home.glob("postgres.unfinished-*"))


def test_two_ups_at_once_start_one_stack(home: Path) -> None:
    down(load_settings())
    starters = [subprocess.Popen([sys.executable, "-c", UP]) for _ in range(2)]
    assert [starter.wait(60) for starter in starters] == [0, 0]
    ours = processes_of(home)
    roots = [process.name() for process in ours if process.ppid() not in [other.pid for other in ours]]
    assert sorted(roots) == ["minio", "minio", "postgres"]
    assert status(load_settings()).is_up


def test_port_that_was_taken_meanwhile_is_replaced(home: Path) -> None:
    import socket

    up(load_settings())
    before = load_settings()
    down(before)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", before.postgres_port))
        thief.listen()
        assert up(load_settings()).is_up
        after = load_settings()
    assert after.postgres_port != before.postgres_port
    assert after.catalog_password == before.catalog_password
    transform().close()


def test_external_server_is_checked_and_never_started(tmp_path: Path, home: Path) -> None:
    """Another stack's S3 server, named in the environment, is used; a second one is not started."""
    up(load_settings())
    lake = load_settings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_HOME", str(tmp_path / "other"))
        patch.setenv("LAKEHOUSE_S3_ENDPOINT", lake.s3_endpoint)
        patch.setenv("LAKEHOUSE_S3_ACCESS_KEY_ID", lake.s3_access_key_id)
        patch.setenv("LAKEHOUSE_S3_SECRET_ACCESS_KEY", lake.s3_secret_access_key.get_secret_value())
        found = up(load_settings())
        assert [(server.kind, server.state) for server in found.servers] == [("postgres", "up"), ("external", "up")]
        assert supervisor.current(identities(tmp_path / "other")[1]) is None
        assert down(load_settings()).kinds == ("postgres",)
    assert status(load_settings()).servers[1].state == "up"


def test_doctor_finds_a_running_stack_healthy(home: Path) -> None:
    from lakehouse.stack.doctor import run_checks

    up(load_settings())
    about = ("postgresql", "s3", "clock", "credentials")
    found = {check.name: check.result for check in run_checks(load_settings()) if check.name.startswith(about)}
    assert len(found) >= 7
    assert set(found.values()) == {"ok"}
    env_path(home).chmod(0o644)
    failed = [check.name for check in run_checks(load_settings()) if check.result == "fail" and "cred" in check.name]
    env_path(home).chmod(0o600)
    assert failed == ["credentials stack.env"]


def test_moto_stands_in_where_it_is_chosen(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_HOME", str(tmp_path / "moto"))
        patch.setenv("LAKEHOUSE_S3_SERVER", "moto")
        found = up(load_settings())
        assert found.servers[1].kind == "moto" and found.is_up
        assert "MEMORY ONLY" in found.notices[0]
        assert buckets.problem(load_settings()) == ""
        assert set(down(load_settings()).kinds) == {"postgres", "moto"}
    assert processes_of(tmp_path / "moto") == []


def test_settings_are_a_fixed_point_of_stack_env(home: Path) -> None:
    """Exporting stack.env into the environment makes nothing external."""
    up(load_settings())
    lines = [line.partition("=") for line in env_path(home).read_text().splitlines() if not line.startswith("#")]
    with pytest.MonkeyPatch.context() as patch:
        for name, _, value in lines:
            patch.setenv(name, value)
        settings: Settings = load_settings()
        assert [server.kind for server in up(settings).servers] == ["postgres", "minio", "backups"]


def test_backups_go_to_a_server_that_keeps_them(home: Path) -> None:
    """Another port, folder and root; and whoever writes there is not its root."""
    found, settings = up(load_settings()), load_settings()
    server = found.server("backups")
    assert server and server.state == "up" and server.detail == str(home / "backups")
    assert settings.backup_s3_endpoint == f"http://{server.address}" != settings.s3_endpoint
    assert backup_access.problem(settings) == "" and backup_access.weaknesses(settings) == ()
    admin = dict(line.partition("=")[::2] for line in admin_path(home).read_text().splitlines()[1:])
    written = env_path(home).read_text()
    assert admin["BACKUP_ROOT_SECRET_ACCESS_KEY"] not in written and admin["BACKUP_SIGNING_KEY"] in written
    key = settings.backup_signing_key
    down(settings)
    up(load_settings())
    assert load_settings().backup_signing_key == key


def test_a_place_that_somebody_gives_wins(home: Path, tmp_path: Path) -> None:
    """Then no server is started; and data on another disk are looked for where they were."""
    up(load_settings())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_BACKUP_S3_ENDPOINT", load_settings().s3_endpoint)
        assert up(load_settings()).server("backups") is None
        assert "LAKEHOUSE_BACKUP_S3_ENDPOINT" not in env_path(home).read_text()
    disk = tmp_path / "disk"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_BACKUP_DATA", str(disk))
        server = up(load_settings()).server("backups")
        assert server and server.detail == str(disk)
    assert up(load_settings()).server("backups") == server, "the folder was forgotten"
    down(load_settings())
    disk.rename(tmp_path / "unmounted")
    with pytest.raises(StackError, match="the folder of backups is gone"):
        up(load_settings())
    (tmp_path / "unmounted").rename(disk)
    assert up(load_settings()).is_up
    down(load_settings())
    with pytest.MonkeyPatch.context() as patch:  # a new machine that has nothing but the disk
        patch.setenv("LAKEHOUSE_HOME", str(tmp_path / "new"))
        patch.setenv("LAKEHOUSE_BACKUP_DATA", str(disk))
        assert up(load_settings()).is_up and backup_access.weaknesses(load_settings()) == ()
        down(load_settings())
