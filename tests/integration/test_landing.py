"""Landing against real servers: races, kills, and a change table that is written to while it is read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import tracemalloc
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest
import zstandard
from psycopg import sql
from pydantic import SecretStr

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.clock import FixedClock
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.landing.land import Request, land
from lakehouse.landing.results import LandResult
from lakehouse.ledger.log import Batch, read_log
from lakehouse.ledger.store import ObjectStore

pytestmark = pytest.mark.integration

CLOCK = FixedClock(datetime(2024, 4, 10, 6, tzinfo=UTC))
DAYS = [f"2024-04-{day:02d}" for day in range(1, 13)]
FAILPOINTS = ["land.before_upload", "land.after_upload", "land.before_log", "land.after_log"]


@pytest.fixture
def bucket(servers: Settings) -> Settings:
    """Settings with an empty landing bucket."""
    mine = servers.model_copy(update={"landing_bucket": f"landing-{uuid.uuid4().hex[:12]}"})
    store(mine).client.create_bucket(Bucket=mine.landing_bucket)
    return mine


@pytest.fixture
def owner(servers: Settings) -> Iterator[psycopg.Connection]:
    """The owner of the source database, with an empty change table."""
    with psycopg.connect(servers.connections["crm_owner"].get_secret_value(), autocommit=True) as opened:
        opened.execute("CREATE SCHEMA IF NOT EXISTS crm")
        opened.execute("DROP TABLE IF EXISTS crm.customer_changes")
        opened.execute(
            "CREATE TABLE crm.customer_changes (change_id bigint GENERATED ALWAYS AS IDENTITY,"
            " transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(), operation char(1), changed_at timestamptz,"
            " customer_id text, full_name text, marketing_consent boolean, balance numeric(12,2))"
        )
        yield opened


def store(settings: Settings) -> ObjectStore:
    return ObjectStore.open(settings)


def contract(name: str) -> Contract:
    return load_contracts(PROJECT_ROOT / "include" / "contracts")[name]


def feed(**changes: object) -> Contract:
    """The contract of the change table, altered."""
    found = contract("crm.customers")
    assert found.source.postgres is not None
    postgres = found.source.postgres.model_copy(update=changes)
    return found.model_copy(update={"source": found.source.model_copy(update={"postgres": postgres})})


def land_feed(settings: Settings, source: Contract | None = None) -> LandResult:
    return land(settings, [source or feed()], Request(), clock=CLOCK)


def insert(connection: psycopg.Connection, *customers: str) -> None:
    for customer in customers:
        connection.execute("INSERT INTO crm.customer_changes (customer_id) VALUES (%s)", (customer,))


def rows(settings: Settings, batch: Batch) -> list[dict[str, str | None]]:
    body = zstandard.ZstdDecompressor().decompressobj().decompress(store(settings).get(batch.files[0].key))
    found = [json.loads(line) for line in body.decode().splitlines()]
    assert len(found) == batch.records
    return found


def customers(settings: Settings) -> list[list[str | None]]:
    return [
        [row["customer_id"] for row in rows(settings, batch)] for batch in read_log(store(settings), "crm.customers")
    ]


def make_days(root: Path) -> Path:
    folder = root / "retail" / "sales"
    folder.mkdir(parents=True)
    for day in DAYS:
        (folder / f"{day}.csv").write_text(f"InvoiceNo\n{day}\n")
    return root


def content(batches: list[Batch]) -> list[tuple[int, date, tuple[str, ...], int | None]]:
    """What a log says, without the moments."""
    return [(batch.number, batch.unit, batch.hashes, batch.records) for batch in batches]


def land_in_process(settings: Settings, source: str, root: Path | str, failpoints: str = "") -> int:
    """Land in a process of its own, as the command does; its exit code."""
    program = (
        "import sys; from pathlib import Path; from lakehouse.core.settings import settings;"
        "from lakehouse.contracts.load import load_contracts; from lakehouse.landing.land import Request, land;"
        "land(settings(), [load_contracts(settings().contracts)[sys.argv[1]]], Request(root=sys.argv[2]))"
        ".raise_if_refused()"
    )
    environment = {
        **os.environ,
        "LAKEHOUSE_HOME": str(settings.home),
        "LAKEHOUSE_LANDING_BUCKET": settings.landing_bucket,
        "LAKEHOUSE_FAILPOINTS": failpoints,
    }
    done = subprocess.run([sys.executable, "-c", program, source, str(root)], env=environment, timeout=120, check=False)
    return done.returncode


def test_two_landers_of_the_same_days_make_one_log(bucket: Settings, tmp_path: Path) -> None:
    make_days(tmp_path)
    barrier = threading.Barrier(3)

    def lander(_: int) -> LandResult:
        barrier.wait()
        return land(bucket, [contract("retail.sales")], Request(root=str(tmp_path)))

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lander, range(3)))
    log = read_log(store(bucket), "retail.sales")
    assert [batch.number for batch in log] == list(range(1, len(DAYS) + 1))
    assert sorted(batch.unit.isoformat() for batch in log) == DAYS
    assert sum(len(result.of("landed")) for result in results) == len(DAYS)


def test_landers_of_different_days_make_one_dense_log(bucket: Settings, tmp_path: Path) -> None:
    make_days(tmp_path)

    def lander(day: str) -> LandResult:
        unit = date.fromisoformat(day)
        return land(bucket, [contract("retail.sales")], Request(unit, unit, str(tmp_path)))

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lander, DAYS))
    assert all(len(result.of("landed")) == 1 for result in results)
    log = read_log(store(bucket), "retail.sales")
    assert sorted(batch.unit.isoformat() for batch in log) == DAYS


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_killed_landing_of_files_is_completed_by_the_next(bucket: Settings, tmp_path: Path, failpoint: str) -> None:
    make_days(tmp_path)
    assert land_in_process(bucket, "retail.sales", tmp_path, f"{failpoint}=kill") == -9
    before = read_log(store(bucket), "retail.sales")
    assert len(before) == (1 if failpoint == "land.after_log" else 0)
    assert land_in_process(bucket, "retail.sales", tmp_path) == 0
    log = read_log(store(bucket), "retail.sales")
    assert [batch.unit.isoformat() for batch in log] == DAYS
    assert log[: len(before)] == before
    for batch in log:
        assert store(bucket).get(batch.files[0].key).decode() == f"InvoiceNo\n{batch.unit}\n"
    assert land_in_process(bucket, "retail.sales", tmp_path) == 0
    assert read_log(store(bucket), "retail.sales") == log


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_killed_landing_of_a_feed_is_completed_by_the_next(
    bucket: Settings, owner: psycopg.Connection, failpoint: str
) -> None:
    insert(owner, "1", "2")
    assert land_in_process(bucket, "crm.customers", "-", f"{failpoint}=kill") == -9
    insert(owner, "3")
    assert land_in_process(bucket, "crm.customers", "-") == 0
    expected = [["1", "2"], ["3"]] if failpoint == "land.after_log" else [["1", "2", "3"]]
    assert customers(bucket) == expected
    assert land_feed(bucket).units[0].status == "unchanged"


def test_the_command_lands_and_says_so(bucket: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    from lakehouse.cli import land as command

    make_days(tmp_path)
    (tmp_path / "retail" / "sales" / "2024-02-30.csv").write_text("x")
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    monkeypatch.setattr(command, "settings", lambda: bucket)
    arguments = ["land", "retail.sales", "--root", str(tmp_path), "--from", DAYS[0], "--to", DAYS[1]]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert [unit["status"] for unit in json.loads(done.stdout)["units"]] == ["landed", "landed"]
    assert "2024-02-30 is not a date" in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 4
    again = CliRunner().invoke(app, arguments)
    assert "2 unchanged" in again.stdout
    wrong = CliRunner().invoke(app, ["land", "retail.sale"])
    assert "name one of" in str(wrong.exception)


def test_a_transaction_that_commits_late_is_neither_skipped_nor_read_twice(
    bucket: Settings, servers: Settings, owner: psycopg.Connection
) -> None:
    with psycopg.connect(servers.connections["crm_owner"].get_secret_value()) as slow:
        insert(slow, "slow-1")  # takes the lower transaction id and the lower change_id, and commits last
        insert(owner, "quick-1")
        land_feed(bucket)
        insert(owner, "quick-2")
        insert(slow, "slow-2")
        land_feed(bucket)
        slow.commit()
        land_feed(bucket)
    assert land_feed(bucket).units[0].status == "unchanged"
    assert customers(bucket) == [["quick-1"], ["quick-2"], ["slow-1", "slow-2"]]
    log = read_log(store(bucket), "crm.customers")
    assert [batch.cursor_from for batch in log] == [None, log[0].cursor_to, log[1].cursor_to]
    assert {batch.unit for batch in log} == {CLOCK.at.date()}


def test_a_rolled_back_row_is_never_read(bucket: Settings, servers: Settings, owner: psycopg.Connection) -> None:
    with psycopg.connect(servers.connections["crm_owner"].get_secret_value()) as undone:
        insert(undone, "never")
        insert(owner, "1")
        land_feed(bucket)
        undone.rollback()
    insert(owner, "2")
    land_feed(bucket)
    assert customers(bucket) == [["1"], ["2"]]


def test_concurrent_writers_and_landers_take_every_row_once(
    bucket: Settings, servers: Settings, owner: psycopg.Connection
) -> None:
    dsn = servers.connections["crm_owner"].get_secret_value()
    writing = threading.Event()
    writing.set()

    def write(number: int) -> list[str]:
        chance, committed = random.Random(number), []  # noqa: S311 - a seed, not a secret
        with psycopg.connect(dsn) as connection:
            for step in range(40):
                names = [f"{number}-{step}-{i}" for i in range(chance.randint(1, 3))]
                with connection.transaction(force_rollback=chance.random() < 0.2) as _:
                    insert(connection, *names[:1])
                    with connection.transaction():  # a savepoint has a transaction id of its own
                        insert(connection, *names[1:])
                    connection.execute("SELECT pg_sleep(%s)", (chance.random() / 50,))
                committed += names
        return committed

    def keep_landing(_: int) -> None:
        while writing.is_set():
            land_feed(bucket).raise_if_refused()

    with ThreadPoolExecutor(5) as pool:
        landers = [pool.submit(keep_landing, number) for number in range(2)]
        list(pool.map(write, range(3)))
        writing.clear()
        for lander in landers:
            lander.result()
    land_feed(bucket)
    taken = [customer for batch in customers(bucket) for customer in batch]
    there = [row[0] for row in owner.execute("SELECT customer_id FROM crm.customer_changes").fetchall()]
    assert sorted(filter(None, taken)) == sorted(there)
    log = read_log(store(bucket), "crm.customers")
    assert len(log) > 2
    assert [batch.cursor_from for batch in log[1:]] == [batch.cursor_to for batch in log[:-1]]


def test_values_are_text_null_stays_null_and_new_columns_come_along(
    bucket: Settings, owner: psycopg.Connection
) -> None:
    owner.execute('ALTER TABLE crm.customer_changes ADD COLUMN "Größe, in cm" double precision')
    owner.execute(
        "INSERT INTO crm.customer_changes (operation, changed_at, customer_id, full_name, marketing_consent, balance,"
        " \"Größe, in cm\") VALUES ('U', '2024-03-31 02:30:00.25+02', '17850', E'Zoë \"Z\"\\n\\\\N\\t', true, 1.10,"
        " 0.1), ('D', NULL, '', NULL, NULL, NULL, NULL)"
    )
    land_feed(bucket)
    first, second = rows(bucket, read_log(store(bucket), "crm.customers")[0])
    assert first == {
        "change_id": "1",
        "operation": "U",
        "changed_at": "2024-03-31T00:30:00.25+00:00",
        "customer_id": "17850",
        "full_name": 'Zoë "Z"\n\\N\t',
        "marketing_consent": "t",
        "balance": "1.10",
        "Größe, in cm": "0.1",
    }
    assert second["customer_id"] == "" and second["full_name"] is None and second["changed_at"] is None


def test_a_dry_run_of_a_feed_lands_nothing(bucket: Settings, owner: psycopg.Connection) -> None:
    insert(owner, "1", "2")
    result = land(bucket, [feed()], Request(is_dry_run=True), clock=CLOCK)
    assert [(unit.status, unit.records) for unit in result.units] == [("would_land", 2)]
    assert list(store(bucket).list_after("")) == []


def test_a_large_feed_is_read_in_constant_memory(bucket: Settings, owner: psycopg.Connection) -> None:
    count = 60_000
    owner.execute(
        "INSERT INTO crm.customer_changes (customer_id, full_name)"
        " SELECT md5(n::text), repeat(md5(n::text), 20) FROM generate_series(1, %s) n",
        (count,),
    )
    land_feed(bucket)  # what is imported and kept once
    append_again = "INSERT INTO crm.customer_changes (customer_id, full_name) SELECT customer_id, full_name"
    owner.execute(f"{append_again} FROM crm.customer_changes")
    tracemalloc.start()
    result = land_feed(bucket)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.units[0].records == count
    assert peak < 10_000_000 < count * 640


def test_what_is_wrong_with_the_source_is_said(bucket: Settings, owner: psycopg.Connection) -> None:
    insert(owner, "1")

    def reason(source: Contract, settings: Settings = bucket) -> str:
        (note,) = land_feed(settings, source).refused_files
        return note.reason

    assert "which is not set" in reason(feed(connection="erp"))
    assert "no table crm.nothing" in reason(feed(table="crm.nothing"))
    assert "of type xid8, it has bigint" in reason(feed(transaction_column="change_id"))
    assert "no_such" in reason(feed(order_by="no_such"))
    owner.execute("CREATE TABLE IF NOT EXISTS crm.closed AS SELECT * FROM crm.customer_changes")
    owner.execute("REVOKE ALL ON crm.closed FROM PUBLIC, lakehouse_ingest")
    assert "GRANT SELECT ON crm.closed" in reason(feed(table="crm.closed"))
    owner.execute("UPDATE crm.customer_changes SET transaction_id = '9000000000000'")
    assert "a future transaction_id" in reason(feed())
    owner.execute("ALTER TABLE crm.customer_changes ALTER transaction_id DROP NOT NULL")
    owner.execute("UPDATE crm.customer_changes SET transaction_id = NULL")
    assert "no transaction_id" in reason(feed())
    assert read_log(store(bucket), "crm.customers") == []


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("postgresql://{user}:s3cr3t@{host}:{port}/{database}", "refused"),
        ("postgresql://{user}:s3@cr3t@{host}:{port}/{database}", "does not answer"),
        ("postgresql://{user}:s3cr3t@{host}:1/{database}", "does not answer"),
        ("s3cr3t and nonsense", "cannot be understood"),
    ],
)
def test_no_error_shows_a_secret(bucket: Settings, template: str, said: str) -> None:
    known = psycopg.conninfo.conninfo_to_dict(bucket.connections["crm"].get_secret_value())
    text = template.format(user=known["user"], host=known["host"], port=known["port"], database=known["dbname"])
    result = land_feed(bucket.model_copy(update={"connections": {"crm": SecretStr(text)}}))
    (note,) = result.refused_files
    assert said in note.reason
    assert "s3cr3t" not in note.reason and "cr3t@" not in note.reason


def test_a_wrong_s3_credential_is_a_setting_and_is_not_shown(bucket: Settings) -> None:
    from lakehouse.core.errors import SettingsError, TransientError

    wrong = bucket.model_copy(update={"s3_secret_access_key": SecretStr("s3cr3t")})
    with pytest.raises(SettingsError, match="refused access") as caught:
        read_log(store(wrong), "retail.sales")
    assert "s3cr3t" not in str(caught.value)
    away = bucket.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    with pytest.raises(TransientError, match="does not answer"):
        read_log(store(away), "retail.sales")


def test_a_table_name_is_never_sql(bucket: Settings, owner: psycopg.Connection) -> None:
    """The contract's model refuses such names; the connector does not rely on it."""
    insert(owner, "1")
    hostile = feed(table='crm.x"; DROP TABLE crm.customer_changes; --')
    assert "no table" in land_feed(bucket, hostile).refused_files[0].reason
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("crm", "customer_changes"))
    assert owner.execute(query).fetchone() == (1,)
