"""Real servers for the whole run, and a fresh lake for whoever wants one. Started only by a test that asks for them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.sessions import small_session

from lakehouse.core.settings import Settings
from lakehouse.stack import buckets, credentials, down, roles, up

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.engine.publish import Lake

NewLake = Callable[[], "Lake"]
BACKUP_PLACE = (
    "backup_bucket", "backup_s3_endpoint", "backup_s3_access_key_id", "backup_s3_secret_access_key",
    "backup_pruner_s3_access_key_id", "backup_pruner_s3_secret_access_key", "backup_reader_s3_access_key_id",
    "backup_reader_s3_secret_access_key",
)  # fmt: skip
"""The settings that say where backups go, and as whom."""


def as_catalog_user(settings: Settings, **options: Any) -> psycopg.Connection:
    """A connection to the catalog's database, as whoever writes tables."""
    return psycopg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        dbname=settings.catalog_database,
        user=settings.catalog_user,
        password=settings.catalog_password.get_secret_value(),
        **options,
    )


def cut_locks(lake: Lake) -> None:
    """Let the server end the one connection that holds the locks of this lake."""
    with as_catalog_user(lake.settings) as other:
        cut = other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchall()
    assert cut == [(True,)]


@pytest.fixture(scope="session")
def servers(read_settings: Callable[[], Settings]) -> Iterator[Settings]:
    """PostgreSQL and an S3 server, started once, stopped at the end whatever happens."""
    settings = read_settings()
    try:
        up(settings)
        yield read_settings()
    finally:
        down(settings)


def another_place(servers: Settings) -> Settings:
    """Settings of a place that nobody used before: a catalog database and buckets of its own.

    Backups of it go to the lake's own server, where each test may make a bucket; tests/recovery has the other one.
    """
    mark = uuid.uuid4().hex[:12]
    mine = servers.model_copy(
        update={
            "catalog_database": f"lake_{mark}",
            "landing_bucket": f"landing-{mark}",
            "warehouse_bucket": f"warehouse-{mark}",
            **{name: type(getattr(servers, name))("") for name in BACKUP_PLACE},
        }
    )
    roles.provision(mine, mine.postgres_port, credentials.load_or_create(servers).passwords)
    buckets.create(mine)
    return mine


@pytest.fixture(scope="session")
def new_settings(servers: Settings) -> Callable[[], Settings]:
    """Makes settings of places that nobody used before."""
    return lambda: another_place(servers)


@pytest.fixture(scope="session")
def new_lake(spark: SparkSession, new_settings: Callable[[], Settings]) -> NewLake:
    """Makes an empty lake: a session of its own in the run's JVM, with a catalog that no other session knows."""
    from lakehouse.engine.publish import Lake

    def make() -> Lake:
        mine = new_settings()
        return Lake(small_session(spark, mine), mine)

    return make


@pytest.fixture
def lake(new_lake: NewLake) -> Lake:
    """An empty lake."""
    return new_lake()


@pytest.fixture
def change_table(servers: Settings) -> str:
    """The owner's connection to the source database, with the feed's tables gone."""
    found = servers.connections["crm_owner"].get_secret_value()
    with psycopg.connect(found, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS crm.customer_changes, crm.sample_days")
    return found
