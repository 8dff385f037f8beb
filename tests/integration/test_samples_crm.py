"""The change table on a real PostgreSQL: each day once, whoever adds it and however often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from lakehouse.cli.sample import register
from lakehouse.core.errors import SourceError
from lakehouse.core.settings import Settings, settings
from lakehouse.samples import customers
from lakehouse.samples.make import CUSTOMERS, make_samples
from lakehouse.samples.plan import EPOCH, Options, days

pytestmark = pytest.mark.integration
OPTIONS = Options(size=0.2)
CONTENT = f"select {', '.join(customers.COLUMNS)} from crm.customer_changes order by {', '.join(customers.COLUMNS)}"  # noqa: S608


@pytest.fixture
def dsn(servers: Settings) -> str:
    """The owner's connection, with the feed's tables gone."""
    found = servers.connections["crm_owner"].get_secret_value()
    with psycopg.connect(found, autocommit=True) as connection:
        connection.execute("drop table if exists crm.customer_changes, crm.sample_days")
    return found


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def add(dsn: str, root: Path, wanted: list[date], options: Options = OPTIONS) -> int:
    return make_samples(options, wanted, root, crm_dsn=dsn, domains=["crm"]).parts[CUSTOMERS].rows


def test_days_are_added_once(dsn: str, tmp_path: Path) -> None:
    first = add(dsn, tmp_path, days(EPOCH, 3))
    assert first > 70 and rows(dsn, "select count(*) from crm.customer_changes") == [(first,)]
    assert add(dsn, tmp_path, days(EPOCH, 3)) == 0
    before = rows(dsn, "select * from crm.customer_changes order by change_id")
    more = add(dsn, tmp_path, days(EPOCH, 5))
    after = rows(dsn, "select * from crm.customer_changes order by change_id")
    assert more > 0 and len(after) == first + more and after[:first] == before
    assert rows(dsn, "select sum(change_count), count(*) from crm.sample_days") == [(first + more, 6)]
    assert rows(dsn, "select count(distinct transaction_id) from crm.customer_changes") == [(6,)]


def test_content_is_the_same_whatever_the_order(dsn: str, tmp_path: Path) -> None:
    add(dsn, tmp_path, days(EPOCH, 14))
    at_once = rows(dsn, CONTENT)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop table crm.customer_changes, crm.sample_days")
    for offset in (9, 0, 3, 1, 2, 13, *range(14)):
        add(dsn, tmp_path, [EPOCH + timedelta(days=offset)])
    assert rows(dsn, CONTENT) == at_once and len(at_once) > 150


def test_two_at_once_add_each_day_once(dsn: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        added = list(pool.map(lambda name: add(dsn, tmp_path / name, days(EPOCH, 6)), ["a", "b"]))
    assert rows(dsn, "select count(*) from crm.customer_changes") == [(sum(added),)]
    assert rows(dsn, "select sum(change_count), count(*) from crm.sample_days") == [(sum(added), 7)]


def test_a_day_that_fails_leaves_nothing(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse.samples import change_table

    def torn(options: Options, day: date) -> Iterator[customers.Change]:
        for number, change in enumerate(customers.day_changes(options, day)):
            if number == 5:
                raise KeyboardInterrupt
            yield change

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(change_table, "day_changes", torn)
        add(dsn, tmp_path, [EPOCH])
    assert rows(dsn, "select part from crm.sample_days") == [("initial",)]
    add(dsn, tmp_path, [EPOCH])
    expected = sum(1 for _ in customers.initial_changes(OPTIONS)) + sum(
        1 for _ in customers.day_changes(OPTIONS, EPOCH)
    )
    assert rows(dsn, "select count(*) from crm.customer_changes") == [(expected,)]


def test_another_sample_is_refused(dsn: str, tmp_path: Path) -> None:
    add(dsn, tmp_path, [EPOCH])
    before = rows(dsn, CONTENT)
    with pytest.raises(SourceError, match="already holds another sample"):
        add(dsn, tmp_path, [EPOCH], Options(size=0.2, seed=8))
    assert rows(dsn, CONTENT) == before


def test_the_readers_role_reads_but_cannot_sample(servers: Settings, dsn: str, tmp_path: Path) -> None:
    add(dsn, tmp_path, [EPOCH])
    reader = servers.connections["crm"].get_secret_value()
    assert rows(reader, "select count(*) from crm.customer_changes")[0][0] > 0
    with pytest.raises(SourceError, match="cannot be written") as raised:
        add(reader, tmp_path, [EPOCH + timedelta(days=1)])
    password = psycopg.conninfo.conninfo_to_dict(reader)["password"]
    assert str(password) not in str(raised.value) and raised.value.__cause__ is None


def test_a_wrong_password_is_told_without_it(dsn: str, tmp_path: Path) -> None:
    wrong = psycopg.conninfo.make_conninfo(dsn, password="not-the-password")
    with pytest.raises(SourceError) as raised:
        add(wrong, tmp_path, [EPOCH])
    assert "not-the-password" not in str(raised.value) and "lakehouse up" in str(raised.value)


def test_the_index_serves_incremental_reads(dsn: str, tmp_path: Path) -> None:
    add(dsn, tmp_path, [EPOCH])
    found = rows(dsn, "select indexdef from pg_indexes where tablename = 'customer_changes'")
    assert any("(transaction_id)" in definition for (definition,) in found)


def test_command(dsn: str, servers: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(servers.home))
    settings.cache_clear()
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    try:
        result = CliRunner().invoke(
            app, ["sample", "--days", "2", "--size", "0.1", "--json", "--out", str(tmp_path)], catch_exceptions=False
        )
    finally:
        settings.cache_clear()
    told = json.loads(result.stdout)
    assert told["notices"] == []
    assert [(told["parts"][CUSTOMERS]["rows"],)] == rows(dsn, "select count(*) from crm.customer_changes")
