"""Every runbook, on a lake that has just been hurt in the way that its page is about.

The lake is one for all: like that of whoever is called at night, it has been through other pages before. At the end of
each it is whole, its old snapshots can be read, and its tables say what they would say had nothing happened.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from tests.recovery.conftest import Home, in_a_folder, new_home
from tests.recovery.runbook import PAGES, Runbook
from tests.recovery.world import Moment, heads, require_readable

from lakehouse.backup.vault import Vault
from lakehouse.core.clock import SystemClock
from lakehouse.core.names import TableName
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table, open_catalog
from lakehouse.stack import credentials, postgres
from lakehouse.stack.credentials import admin_path

DIMENSION = "silver.dim_customer"
FACT = "silver.fact_sales_line"
SAYS = ("silver", "gold")
"""What tables of these namespaces say is a function of what landed."""


def back_up(machine: Home) -> Moment:
    """A set of what the lake says now."""
    machine.say("lakehouse backup create --json")
    return machine.look()


def require_whole(machine: Home, then: Moment) -> None:
    """Everything of then is there; tables say what they said, and nothing is pending."""
    now = machine.look()
    require_readable(now, then)
    assert heads(now, SAYS) == heads(then, SAYS)
    assert "Nothing is pending" in machine.say("lakehouse run")


def test_files_lost(machine: Home) -> None:
    then = back_up(machine)
    warehouse = ObjectStore.open(machine.settings, machine.settings.warehouse_bucket)
    table = load_table(open_catalog(machine.settings), TableName.parse(FACT))
    assert table is not None
    data = [task.file.file_path for task in table.scan().plan_files()]
    manifest = table.current_snapshot().manifests(table.io)[0].manifest_path  # type: ignore[union-attr]
    lost, torn = (uri.split("/", 3)[3] for uri in (data[0], manifest))
    warehouse.client.delete_object(Bucket=warehouse.bucket, Key=lost)
    warehouse.client.put_object(Bucket=warehouse.bucket, Key=torn, Body=warehouse.get(torn)[:-100])
    Runbook.read("files-lost").do(machine.shell)
    require_whole(machine, then)


def test_table_dropped(machine: Home) -> None:
    then = machine.look()
    open_catalog(machine.settings).drop_table(DIMENSION)
    machine.grow()
    Runbook.read("table-dropped").do(machine.shell, TABLE=DIMENSION)
    now = machine.look()
    require_readable(now, then)
    assert now[DIMENSION].head != then[DIMENSION].head  # the day that came meanwhile


def test_bad_data_published(machine: Home) -> None:
    then = machine.look()
    file = max(Path(machine.settings.sources_root).glob("retail/sales/*.csv"))
    good = file.read_text("utf-8")
    file.write_text(re.sub(r",(\d+)\.(\d\d),", r",\1\2.00,", good), "utf-8")  # prices a hundred times too high
    machine.say("lakehouse land --json")
    machine.say("lakehouse run --json")
    bad = machine.look(snapshots=False)
    wrong = {name for name, said in heads(then, SAYS).items() if bad[name].content != said}
    assert {FACT, "gold.sales_star", "gold.daily_sales"} <= wrong

    def send_again() -> None:
        assert heads(machine.look(snapshots=False), SAYS) == heads(then, SAYS)
        file.write_text(good, "utf-8")

    page = Runbook.read("bad-data-published")
    page.do(machine.shell, {"lakehouse land": send_again}, TABLE=FACT, RIGHT=str(then[FACT].head))
    require_whole(machine, then)


def test_bucket_lost(machine: Home) -> None:
    then = back_up(machine)
    machine.grow()
    machine.say("lakehouse run --json")
    after = machine.look(snapshots=False)
    for bucket in (machine.settings.warehouse_bucket, machine.settings.landing_bucket):
        empty(ObjectStore.open(machine.settings, bucket))
    Runbook.read("bucket-lost").do(machine.shell)
    require_readable(machine.look(), then)
    assert heads(machine.look(snapshots=False), SAYS) == heads(after, SAYS)


def test_ransomware(machine: Home) -> None:
    then = back_up(machine)
    vault = Vault.open(machine.settings, SystemClock().now())
    good = sorted(vault.folders("sets/"))[-1]
    for bucket in (machine.settings.warehouse_bucket, machine.settings.landing_bucket):
        store = ObjectStore.open(machine.settings, bucket)
        for each in list(store.list_after("")):
            store.client.put_object(Bucket=bucket, Key=each.key, Body=b"\0" * each.size_bytes)
    for key in vault.keys("objects/"):
        vault.store.client.put_object(Bucket=vault.store.bucket, Key=key, Body=b"pay")
        with pytest.raises(ClientError):
            vault.store.client.delete_object(Bucket=vault.store.bucket, Key=key)
    Runbook.read("ransomware").do(machine.shell, SET=good)
    require_whole(machine, then)


def test_catalog_lost(machine: Home) -> None:
    then, at = machine.look(), datetime.now(UTC)
    machine.say("lakehouse backup databases --json")  # not from this one, which is younger, but from that and its log
    drop_catalog(machine)
    Runbook.read("catalog-lost").do(machine.shell, MOMENT=at.isoformat())
    require_whole(machine, then)


def test_everything_lost(machine: Home) -> None:
    then = back_up(machine)
    saved = machine.folder / "saved.env"
    shutil.copy(admin_path(machine.settings.home), saved)
    key = machine.settings.backup_signing_key.get_secret_value()
    sources = Path(machine.settings.sources_root)
    machine.say("lakehouse down")
    with another_machine() as other:
        disk = machine.folder / "disk2"
        Runbook.read("everything-lost").do(
            other.shell,
            {
                "lakehouse land": lambda: (
                    shutil.copytree(sources, other.settings.sources_root, dirs_exist_ok=True) and None
                )
            },
            SAVED=str(saved),
            LAKEHOUSE_BACKUP_DATA=str(disk),
            LAKEHOUSE_BACKUP_SIGNING_KEY=key,
        )
        require_whole(other, then)


def test_region_move(machine: Home) -> None:
    machine.say("lakehouse up")
    then = back_up(machine)
    key = machine.settings.backup_signing_key.get_secret_value()
    machine.say("lakehouse down")
    with another_machine(warehouse_bucket="eu-warehouse", landing_bucket="eu-landing") as other:
        Runbook.read("region-move").do(
            other.shell,
            LAKEHOUSE_WAREHOUSE_BUCKET="eu-warehouse",
            LAKEHOUSE_LANDING_BUCKET="eu-landing",
            LAKEHOUSE_BACKUP_DATA=str(machine.folder / "disk2"),
            LAKEHOUSE_BACKUP_SIGNING_KEY=key,
        )
        require_whole(other, then)


def test_every_page_is_done_here() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert {name.replace("-", "_") for name in pages} == {
        name.removeprefix("test_")
        for name in globals()
        if name.startswith("test_") and name != "test_every_page_is_done_here"
    }
    index = (PAGES / "README.md").read_text("utf-8")
    assert all(f"({name}.md)" in index for name in pages)


@contextmanager
def another_machine(**given: str) -> Iterator[Home]:
    """A home in which nothing is."""
    with in_a_folder() as folder:
        other = new_home(folder, **given)
        try:
            yield other
        finally:
            other.shell.run("lakehouse down")


def drop_catalog(machine: Home) -> None:
    """The catalog's database is gone, whoever worked with it."""
    settings = machine.settings
    password = credentials.load_or_create(settings).passwords.superuser
    with postgres.connect(settings.postgres_port, "postgres", postgres.SUPERUSER, password) as connection:
        connection.execute(f'DROP DATABASE "{settings.catalog_database}" WITH (FORCE)')


def empty(store: ObjectStore) -> None:
    """Nothing is left in a bucket."""
    for each in list(store.list_after("")):
        store.client.delete_object(Bucket=store.bucket, Key=each.key)
