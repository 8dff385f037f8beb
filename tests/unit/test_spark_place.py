"""One setting says where Spark runs: what follows from it, without any JVM."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr, ValidationError

from lakehouse.core import spark_conf
from lakehouse.core.connect_conf import CODE, code_fingerprint, server_address, server_conf
from lakehouse.core.errors import LakehouseError, SettingsError, TransientError
from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings
from lakehouse.core.spark_conf import place_conf, session_conf
from lakehouse.core.spark_place import ConnectAddress, place_of
from lakehouse.engine import connect as client
from lakehouse.stack import connect, credentials, local
from lakehouse.stack.processes import Record
from lakehouse.stack.supervisor import Identity, Launch

PLACES = {
    "local": "process",
    "local[*]": "process",
    "local[2]": "process",
    "connect": "connect",
    "sc://spark.example:15002": "connect",
    "spark://127.0.0.1:7077": "cluster",
    "yarn": "cluster",
    "k8s://https://k8s.example:443": "cluster",
}
SECRETS = ("catalog-secret", "reader-secret", "s3-secret", "job-token", "reader-token", "cluster-secret")


def settings(home: Path, **more: Any) -> Settings:
    given = {
        "cache": home / "cache",
        "s3_access_key_id": "key",
        "s3_secret_access_key": SecretStr("s3-secret"),
        "postgres_port": 5432,
        "catalog_password": SecretStr("catalog-secret"),
        "reader_password": SecretStr("reader-secret"),
    }
    return Settings(home=home, **{**given, **more})


@pytest.fixture(autouse=True)
def no_jars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jars that nobody fetched."""
    monkeypatch.setattr(spark_conf, "jar_paths", lambda cache: (tmp_path / "a.jar", tmp_path / "b.jar"))
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("master", "place"), PLACES.items())
def test_a_master_is_a_place(master: str, place: str, tmp_path: Path) -> None:
    assert place_of(master) == place
    assert settings(tmp_path, spark_master=master).spark_master == master


@pytest.mark.parametrize("master", ["", "Connect", "sc:/x", "spark://", "k8s://", "local[", "mesos://x", "spark"])
def test_anything_else_is_refused(master: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="must be local"):
        settings(tmp_path, spark_master=master)


ADDRESSES = {
    "sc://localhost": ("sc://localhost:15002", False),
    "sc://127.0.0.1:7": ("sc://localhost:7", False),
    "sc://[::1]:7": ("sc://localhost:7", False),
    "sc://spark.example": ("sc://spark.example:15002", True),
    "sc://spark.example:443/": ("sc://spark.example:443", True),
    "sc://spark.example:443/;use_ssl=true": ("sc://spark.example:443", True),
    "sc://spark:15002/;use_ssl=false": ("sc://spark:15002", False),
    "sc://[fd00::1]:7": ("sc://[fd00::1]:7", True),
}


@pytest.mark.parametrize(("url", "found"), ADDRESSES.items())
def test_a_token_goes_in_the_clear_only_where_that_is_said(url: str, found: tuple[str, bool]) -> None:
    address = ConnectAddress.parse(url, "X")
    assert (address.url, address.uses_tls) == found


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "sc://",
        "sc://x:port",
        "sc://x/;token=s3cret",
        "sc://me:s3cret@x",
        "sc://x/path",
        "sc://x/;use_ssl=1",
    ],
)
def test_another_address_is_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(SettingsError, match="LAKEHOUSE_X is no address") as refused:
        ConnectAddress.parse(url, "LAKEHOUSE_X")
    assert "s3cret" not in str(refused.value)


def test_in_its_own_process_and_beside_a_server_spark_stays_on_loopback(tmp_path: Path) -> None:
    for master, wanted in (("local[2]", "local[2]"), ("connect", "local[*]"), ("sc://x", "local[*]")):
        conf = session_conf(settings(tmp_path, spark_master=master))
        assert conf["spark.master"] == wanted
        assert conf["spark.driver.host"] == conf["spark.driver.bindAddress"] == "127.0.0.1"
        assert "spark.jars" not in conf, "copied for each session"


def test_executors_get_jars_interpreter_and_code(tmp_path: Path) -> None:
    conf = place_conf(settings(tmp_path, spark_master="spark://127.0.0.1:7077"))
    assert conf["spark.jars"] == f"{tmp_path / 'a.jar'},{tmp_path / 'b.jar'}"
    assert conf["spark.pyspark.python"] == sys.executable
    assert conf["spark.executorEnv.PYTHONPATH"] == str(PROJECT_ROOT / "include")
    assert conf["spark.driver.host"] == "127.0.0.1" and "spark.authenticate" not in conf


def test_a_cluster_elsewhere_needs_a_secret(tmp_path: Path) -> None:
    elsewhere = settings(tmp_path, spark_master="spark://spark.example:7077")
    with pytest.raises(SettingsError, match="LAKEHOUSE_SPARK_CONF"):
        session_conf(elsewhere)
    conf = session_conf(elsewhere.model_copy(update={"spark_conf": {"spark.authenticate.secret": "cluster-secret"}}))
    assert conf["spark.authenticate.secret"] == "cluster-secret"
    assert conf["spark.authenticate"] == conf["spark.network.crypto.enabled"] == "true"
    assert "spark.driver.host" not in conf, "executors could not reach loopback"
    conf = session_conf(settings(tmp_path, spark_master="yarn"))
    assert conf["spark.authenticate"] == "true" and "spark.authenticate.secret" not in conf


def test_readers_sign_in_as_readers(tmp_path: Path) -> None:
    one = settings(tmp_path, reader_s3_access_key_id="reader", reader_s3_secret_access_key=SecretStr("reader-s3"))
    prefix = "spark.sql.catalog.lakehouse."
    users = [
        [server_conf(one, read_only=read_only)[prefix + key] for key in ("jdbc.user", "s3.access-key-id")]
        for read_only in (False, True)
    ]
    assert users == [["lakehouse_transform", "key"], ["lakehouse_reader", "reader"]]
    conf = server_conf(settings(tmp_path), read_only=True)
    assert conf[prefix + "jdbc.password"] == "reader-secret" and conf[prefix + "s3.access-key-id"] == "key"
    assert "catalog-secret" not in "".join(conf.values())


def test_a_server_is_a_job_that_stays(tmp_path: Path) -> None:
    one = settings(tmp_path, spark_master="connect", connect_token=SecretStr("job-token"), connect_reader_memory="3g")
    jobs, readers = (server_conf(one, read_only=read_only) for read_only in (False, True))
    job = session_conf(one)
    assert {key: value for key, value in job.items() if jobs[key] != value} == {}
    assert jobs["spark.connect.grpc.binding.address"] == "127.0.0.1" and jobs["spark.master"] == "local[*]"
    assert (jobs["spark.driver.memory"], readers["spark.driver.memory"]) == ("2g", "3g")
    assert "job-token" not in "".join(jobs.values()), "whoever may ask for the configuration would have it"
    assert len(jobs[CODE]) == 16


@pytest.fixture
def servers(tmp_path: Path) -> tuple[Settings, credentials.Credentials]:
    one = settings(tmp_path, connect_token=SecretStr("job-token"), connect_reader_token=SecretStr("reader-token"))
    return one, credentials.load_or_create(one)


def test_nothing_secret_is_in_a_command_line(servers: tuple[Settings, credentials.Credentials]) -> None:
    one, kept = servers
    for identity, read_only in zip(connect.identities(one.home), (False, True), strict=True):
        launch = connect.launch(one, kept, identity, read_only=read_only)
        command = launch.command(4711)
        assert command[-1] == str(identity.data), "how the server is told from any other JVM"
        assert "spark.connect.grpc.binding.port=4711" in command
        assert [secret for secret in SECRETS if secret in " ".join(command)] == []
        token = "reader-token" if read_only else "job-token"
        assert launch.environment["SPARK_CONNECT_AUTHENTICATE_TOKEN"] == token


def test_a_server_gets_nothing_of_the_callers_environment(
    servers: tuple[Settings, credentials.Credentials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("LAKEHOUSE_CATALOG_PASSWORD", "mine")
    found = connect.environment(connect.identities(servers[0].home)[0], "t")
    assert "mine" not in found.values() and found["PYSPARK_PYTHON"] == sys.executable


def test_a_server_that_is_not_as_it_should_be_is_started_anew(
    servers: tuple[Settings, credentials.Credentials], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, kept = servers
    identity = connect.identities(one.home)[0]

    def mark(of: Settings, kept: credentials.Credentials = kept) -> str:
        return connect.launch(of, kept, identity, read_only=False).ready_for

    assert mark(one) == mark(one)
    changed = [
        mark(one.model_copy(update={"spark_driver_memory": "3g"})),
        mark(one.model_copy(update={"postgres_port": 1})),
        mark(one, credentials.load_or_create(one.model_copy(update={"connect_token": SecretStr("another")}))),
    ]
    monkeypatch.setattr("lakehouse.core.connect_conf.code_fingerprint", lambda: "other code")
    assert len({mark(one), *changed}) == 4


def test_servers_are_wanted_when_asked_for_or_when_jobs_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings(tmp_path)
    assert not connect.are_wanted(one, asked=False)
    assert connect.are_wanted(one, asked=True)
    assert connect.are_wanted(settings(tmp_path, spark_master="connect"), asked=False)
    assert not connect.are_wanted(settings(tmp_path, spark_master="sc://x"), asked=False)
    kinds = [server.kind for server in local.status(settings(tmp_path, spark_master="connect")).servers]
    assert kinds[2:] == ["connect", "connect-reader"] and len(local.status(one).servers) == 2
    running = Record(1, 1.0, "java", str(tmp_path), 1, "connect-reader")
    monkeypatch.setattr(
        connect.supervisor, "current", lambda identity: running if identity.kind == running.kind else None
    )
    assert connect.are_wanted(one, asked=False), "the one that was killed comes back with the other"


@pytest.fixture
def started(servers: tuple[Settings, credentials.Credentials], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of servers that `up` would have started."""
    found: list[str] = []

    def ensure_up(identity: Identity, launch: Launch, on_port: Callable[[int], None]) -> None:
        found.append(identity.kind)
        on_port(7)

    monkeypatch.setattr(local.supervisor, "ensure_up", ensure_up)
    monkeypatch.delenv("LAKEHOUSE_SPARK_MASTER", raising=False)
    return found


def spark_up(home: Path, kept: credentials.Credentials, *, asked: bool) -> str:
    """What `up` does for Spark; where jobs run afterwards by what it wrote."""
    lines: dict[str, str] = {}
    local._spark_up(settings(home, spark_master=load_settings(home).spark_master), kept, lines, asked=asked)
    credentials.write_stack_env(home, lines)
    return load_settings(home).spark_master


def test_a_server_that_is_there_is_used_until_it_is_gone(
    servers: tuple[Settings, credentials.Credentials], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, kept = servers
    assert (spark_up(one.home, kept, asked=False), started) == ("local[*]", [])
    both = ["connect", "connect-reader"]
    assert (spark_up(one.home, kept, asked=True), started) == ("connect", both)
    assert connect.is_place_chosen(load_settings(one.home)) is False
    with monkeypatch.context() as patch:
        patch.setattr(connect.supervisor, "current", lambda identity: object())
        assert (spark_up(one.home, kept, asked=False), started) == ("connect", both * 2)
    assert (spark_up(one.home, kept, asked=False), started) == ("local[*]", both * 2), "after `down`, `up` stays small"


def test_up_tells_how_things_are_now_and_not_before_the_last_down(
    servers: tuple[Settings, credentials.Credentials], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, kept = servers
    assert spark_up(one.home, kept, asked=True) == "connect"
    for name in ("_postgres_up", "_s3_up"):
        monkeypatch.setattr(local, name, lambda *_: None)
    del started[:]
    told = local.up(load_settings(one.home))
    assert ([server.kind for server in told.servers], started) == (["postgres", "minio"], [])
    assert load_settings(one.home).spark_master == "local[*]"


@pytest.mark.parametrize("place", ["local[*]", "local[2]", "connect", "spark://host:7077"])
def test_what_somebody_chose_stays(
    place: str,
    servers: tuple[Settings, credentials.Credentials],
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, kept = servers
    spark_up(one.home, kept, asked=True)
    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", place)
    assert spark_up(one.home, kept, asked=True) == place
    assert "LAKEHOUSE_SPARK_MASTER" not in credentials.read_stack_env(one.home)
    del started[:]
    spark_up(one.home, kept, asked=False)
    assert bool(started) == (place == "connect")


def test_jobs_find_the_servers_that_were_started(servers: tuple[Settings, credentials.Credentials]) -> None:
    one, kept = servers
    assert server_address(one, read_only=False) is None
    lines = {}
    for port, read_only in ((7, False), (8, True)):
        lines |= credentials.connect_lines(kept, port, read_only=read_only)
    credentials.write_stack_env(one.home, lines)
    assert [credentials.remembered_connect_port(one.home, read_only=r) for r in (False, True)] == [7, 8]
    told = local._as_written(one, lines)
    assert (told.connect_token, told.connect_reader_token) == (one.connect_token, one.connect_reader_token)
    assert [server_address(told, read_only=r) for r in (False, True)] == [
        ConnectAddress.local(7),
        ConnectAddress.local(8),
    ]
    elsewhere = told.model_copy(update={"spark_master": "sc://jobs", "connect_reader": "sc://readers:1"})
    found = [server_address(elsewhere, read_only=r) for r in (False, True)]
    assert [address.url for address in found if address] == ["sc://jobs:15002", "sc://readers:1"]


def test_settings_as_written_are_those_that_will_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_S3_ENDPOINT", "http://127.0.0.1:1")
    one = settings(tmp_path, spark_conf={"a": "b"}, connections={"crm": SecretStr("postgresql://x")})
    told = local._as_written(one, {"LAKEHOUSE_S3_ENDPOINT": "http://127.0.0.1:2", "LAKEHOUSE_POSTGRES_PORT": "77"})
    assert (told.s3_endpoint, told.postgres_port, told.home) == ("http://127.0.0.1:2", 77, tmp_path)
    assert told == one.model_copy(update={"s3_endpoint": "http://127.0.0.1:2", "postgres_port": 77})


def test_no_server_is_known(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lakehouse up --spark"):
        client.start_connected(settings(tmp_path, spark_master="connect"), "x", read_only=False)
    with pytest.raises(SettingsError, match="(?s)no read-only.*LAKEHOUSE_CONNECT_READER"):
        client.start_connected(settings(tmp_path, spark_master="sc://x"), "x", read_only=True)


def test_a_server_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one = settings(tmp_path, spark_master=f"sc://127.0.0.1:{port}", connect_token=SecretStr("job-token"))
    with pytest.raises(TransientError, match="does not answer") as away:
        client.start_connected(one, "x", read_only=False)
    assert "job-token" not in str(away.value) and "SPARK_CONNECT_MODE_ENABLED" not in os.environ


CHANNELS = [
    (ConnectAddress.local(1), True, "token"),
    (ConnectAddress("spark.example", 1, uses_tls=True), True, "token"),
    (ConnectAddress("spark", 1, uses_tls=False), False, "header"),
]


@pytest.mark.parametrize(("address", "is_secure", "how"), CHANNELS)
def test_a_token_travels_as_the_channel_wants_it(address: ConnectAddress, is_secure: bool, how: str) -> None:
    builder = client._channel(address, "job-token", "lakehouse run")
    assert builder.secure is is_secure
    assert dict(builder.metadata()) == ({"authorization": "Bearer job-token"} if how == "header" else {})
    assert (builder.token == "job-token") is (how == "token")
    assert "job-token" not in builder.url.geturl()


class _Conf:
    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def get(self, key: str, default: str) -> str:
        return self._values.get(key, default)


def ask(one: Settings, conf: dict[str, str], *, read_only: bool = False) -> None:
    spark = cast(Any, SimpleNamespace(conf=_Conf(conf)))
    client._require_same_lake(spark, one, ConnectAddress.local(1), read_only)


def test_the_server_must_serve_this_lake_with_this_code(tmp_path: Path) -> None:
    one = settings(tmp_path)
    ask(one, server_conf(one, read_only=False))
    ask(one.model_copy(update={"postgres_host": "db.elsewhere"}), server_conf(one, read_only=False))
    ask(one, server_conf(one, read_only=True), read_only=True)
    for changed, words in (
        ({"catalog_database": "another"}, "database is another there"),
        ({"warehouse_bucket": "another"}, "warehouse is s3://another"),
        ({"catalog_user": "another"}, "user is another there"),
    ):
        with pytest.raises(SettingsError, match=words):
            ask(one, server_conf(one.model_copy(update=changed), read_only=False))
    with pytest.raises(SettingsError, match="user is lakehouse_transform there and lakehouse_reader here"):
        ask(one, server_conf(one, read_only=False), read_only=True)
    with pytest.raises(SettingsError, match="another version of this project's code"):
        ask(one, server_conf(one, read_only=False) | {CODE: "older"})
    with pytest.raises(SettingsError, match="not set there"):
        ask(one, {})


def test_the_codes_fingerprint_is_that_of_the_files() -> None:
    assert code_fingerprint() == code_fingerprint() and int(code_fingerprint(), 16)


TOLD = """
import sys, threading
from lakehouse.engine.connect import ending_when_told
with ending_when_told():
    try:
        print("ready", flush=True)
        threading.Event().wait()
    finally:
        print("releasing", flush=True)
        sys.stdin.readline()
        print("released", flush=True)
"""


def test_a_process_that_is_told_to_end_releases_what_it_has() -> None:
    """Its parent's end tells it twice: by the kernel, and by its own watch."""
    process = subprocess.Popen(
        [sys.executable, "-c", TOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin as answer, process.stdout as said:
        assert said.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert said.readline() == "releasing\n"
        process.send_signal(signal.SIGTERM)
        answer.write("\n")
        assert said.readline() == "released\n"
    assert process.wait(120) == 128 + signal.SIGTERM


def test_the_handler_of_somebody_else_stays() -> None:
    def theirs(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with client.ending_when_told():
            assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    with client.ending_when_told():
        assert signal.getsignal(signal.SIGTERM) is client._end
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with client.ending_when_told():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failed == []


def test_a_bad_master_is_told_with_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lakehouse.core.settings import load_settings

    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", "mesos://x")
    with pytest.raises(LakehouseError, match="LAKEHOUSE_SPARK_MASTER.*must be local"):
        load_settings(tmp_path)


HANDLE = re.compile(r"\.(_jvm|_jdf|_jc|_jsc|_sc|_jsparkSession|_instantiatedSession|sparkContext|rdd)\b")


def test_jobs_use_nothing_that_a_server_does_not_have() -> None:
    files = [path for folder in ("include/lakehouse", "spark_jobs") for path in (PROJECT_ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert {str(path): found for path in files if (found := HANDLE.findall(path.read_text("utf-8")))} == {}
    assert HANDLE.findall("x = spark.sparkContext\nspark._jvm.java\nspark.conf") == ["sparkContext", "_jvm"]
