"""`prepare` of docker-compose.yaml, on real servers that know nothing yet but a superuser and a key."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping

import psycopg
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.compose import Here, fresh_servers

from lakehouse.core.settings import Settings
from lakehouse.stack import buckets, postgres, roles

CATALOG, SOURCES, AIRFLOW = "lakehouse_catalog", roles.SOURCES_DATABASE, roles.AIRFLOW_DATABASE
BUCKETS = ("landing", "warehouse")
UNSIGNED_CONFIG = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Settings, Here]]:
    """Servers that nothing was prepared on, and the services of docker-compose.yaml beside them."""
    with fresh_servers() as started:
        yield started


@pytest.fixture(scope="module")
def settings(servers: tuple[Settings, Here]) -> Settings:
    """Where the servers are, with the key of the S3 server."""
    return servers[0]


@pytest.fixture(scope="module")
def here(servers: tuple[Settings, Here]) -> Here:
    """The services."""
    return servers[1]


def run(here: Here, service: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A service's command, or another one, in its environment."""
    return subprocess.run(
        here.command(service, *command),
        env=here.environment(service, **environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def passwords(env: Mapping[str, str]) -> dict[str, str]:
    """What .env says that each role signs in with."""
    fields = roles.Passwords.__dataclass_fields__
    named = {name: env[f"LAKEHOUSE_{name.upper()}_PASSWORD"] for name in fields}
    return roles.passwords_of(Settings(), roles.Passwords(**named))


@pytest.fixture(scope="module")
def said(here: Here, settings: Settings) -> str:
    """What the first run said. Before it there was nothing."""
    with superuser(here, settings) as server:
        known = server.execute("select rolname from pg_roles where rolname !~ '^pg_'").fetchall()
        databases = server.execute("select datname from pg_database where not datistemplate").fetchall()
    assert (known, databases) == ([(postgres.SUPERUSER,)], [("postgres",)])
    assert buckets.client(settings).list_buckets()["Buckets"] == []
    done = run(here, "prepare")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def superuser(here: Here, settings: Settings, database: str = "postgres") -> psycopg.Connection:
    password = here.env["LAKEHOUSE_SUPERUSER_PASSWORD"]
    return postgres.connect(settings.postgres_port, database, postgres.SUPERUSER, password)


def test_it_says_what_is_there_now_and_no_secret(said: str, here: Here, settings: Settings) -> None:
    assert said == (
        f"PostgreSQL at 127.0.0.1:{settings.postgres_port}: roles lakehouse_transform, lakehouse_reader, "
        "lakehouse_backup, lakehouse_restorer, crm_owner, lakehouse_ingest, lakehouse_airflow; "
        "databases lakehouse_catalog, sources, lakehouse_airflow\n"
        f"S3 at {settings.s3_endpoint}: buckets landing, warehouse\n"
        f"backups: s3://lake-backups at {settings.backup_s3_endpoint}\n"
    )


@pytest.mark.usefixtures("said")
def test_who_writes_backups_cannot_delete_them(here: Here, settings: Settings) -> None:
    names = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    for who, may in (("", {"put_object"}), ("PRUNER_", {"delete_object"}), ("READER_", set())):
        key = [here.env[f"LAKEHOUSE_BACKUP_{who}S3_{name}"] for name in names]
        client = buckets.client_at(settings.backup_s3_endpoint, settings.s3_region, *key)
        for act in ("put_object", "delete_object"):
            allowed = True
            try:
                getattr(client, act)(Bucket="lake-backups", Key="probe")
            except ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDenied"
                allowed = False
            assert allowed == (act in may), (who, act)


@pytest.mark.usefixtures("said")
def test_each_role_enters_its_databases_and_no_other(here: Here, settings: Settings) -> None:
    allowed = {
        CATALOG: {"lakehouse_transform", "lakehouse_reader", "lakehouse_backup", "lakehouse_restorer"},
        SOURCES: {"crm_owner", "lakehouse_ingest"},
        AIRFLOW: {"lakehouse_airflow"},
        "postgres": set(),
    }
    entered: dict[str, set[str]] = {database: set() for database in allowed}
    for role, password in passwords(here.env).items():
        for database in allowed:
            try:
                postgres.connect(settings.postgres_port, database, role, password).close()
            except psycopg.OperationalError as error:
                assert "permission denied for database" in str(error)
            else:
                entered[database].add(role)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            postgres.connect(settings.postgres_port, CATALOG, role, "wrong")
    assert entered == allowed


@pytest.mark.usefixtures("said")
def test_rights_are_those_of_the_native_stack(here: Here, settings: Settings) -> None:
    known = passwords(here.env)
    with superuser(here, settings) as server:
        powers = server.execute(
            "select rolname from pg_roles where rolname = any(%s) and "
            "(rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)",
            (list(known),),
        ).fetchall()
        owners = server.execute(
            "select datname, pg_get_userbyid(datdba) from pg_database where datname = any(%s)",
            ([CATALOG, SOURCES, AIRFLOW],),
        ).fetchall()
    assert powers == [(roles.BACKUP,)]  # it may read the server's log, and nothing else
    assert dict(owners) == roles.owners_of(Settings())
    user, reader = "lakehouse_transform", "lakehouse_reader"
    with postgres.connect(settings.postgres_port, CATALOG, user, known[user]) as owner:
        owner.execute("create table public.kept as select 7 as n")
    with postgres.connect(settings.postgres_port, CATALOG, reader, known[reader]) as console:
        assert console.execute("select n from public.kept").fetchone() == (7,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            console.execute("delete from public.kept")
        console.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            console.execute("delete from public.kept")
    address = here.env["STACK_AIRFLOW_DATABASE_URL"].replace("+psycopg2", "")
    with psycopg.connect(address, autocommit=True) as airflow:
        airflow.execute("create table public.dag_like (n int)")


@pytest.mark.usefixtures("said")
def test_buckets_are_there_for_the_key_and_for_nobody_else(settings: Settings) -> None:
    import boto3

    s3 = buckets.client(settings)
    assert tuple(bucket["Name"] for bucket in s3.list_buckets()["Buckets"]) == BUCKETS
    anyone = boto3.client("s3", endpoint_url=settings.s3_endpoint, region_name="us-east-1", config=UNSIGNED_CONFIG)
    for bucket in BUCKETS:
        s3.put_object(Bucket=bucket, Key="kept", Body=b"bytes")
        with pytest.raises(ClientError, match="AccessDenied"):
            anyone.get_object(Bucket=bucket, Key="kept")
        with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
            s3.get_bucket_policy(Bucket=bucket)


def test_again_nothing_changes_but_a_password_that_was_changed(said: str, here: Here, settings: Settings) -> None:
    before = fingerprint(here, settings)
    again = run(here, "prepare")
    assert (again.returncode, again.stderr, again.stdout) == (0, "", said)
    assert fingerprint(here, settings) == before
    old, new = here.env["LAKEHOUSE_READER_PASSWORD"], "a-new-one"
    assert run(here, "prepare", LAKEHOUSE_READER_PASSWORD=new).returncode == 0
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres.connect(settings.postgres_port, CATALOG, "lakehouse_reader", old)
    postgres.connect(settings.postgres_port, CATALOG, "lakehouse_reader", new).close()
    assert run(here, "prepare").returncode == 0
    postgres.connect(settings.postgres_port, CATALOG, "lakehouse_reader", old).close()


def fingerprint(here: Here, settings: Settings) -> list[object]:
    """Roles and rights, rows and objects: all that a second run could change. A verifier has a salt of its own."""
    found: list[object] = []
    for database in ("postgres", CATALOG, SOURCES, AIRFLOW):
        with superuser(here, settings, database) as server:
            for statement in (
                "select rolname, rolcanlogin, rolconfig from pg_roles order by 1",
                "select datname, pg_get_userbyid(datdba), datacl::text from pg_database order by 1",
                "select nspname, pg_get_userbyid(nspowner), nspacl::text from pg_namespace order by 1",
                "select defaclobjtype::text, defaclacl::text from pg_default_acl order by 1, 2",
                "select relname, relacl::text from pg_class where relnamespace = 'public'::regnamespace order by 1",
            ):
                found.append(server.execute(statement).fetchall())
    s3 = buckets.client(settings)
    found += [[each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])] for bucket in BUCKETS]
    return found


@pytest.mark.usefixtures("said")
def test_without_the_superusers_password_postgres_is_only_checked(here: Here, settings: Settings) -> None:
    without = here.with_env(LAKEHOUSE_SUPERUSER_PASSWORD="")
    checked = run(without, "prepare", *("lakehouse", "prepare", "--json"))
    assert checked.returncode == 0
    assert json.loads(checked.stdout) == {
        "postgres": f"127.0.0.1:{settings.postgres_port}",
        "roles": [],
        "databases": [],
        "s3": settings.s3_endpoint,
        "buckets": list(BUCKETS),
        "backups": f"s3://{settings.backup_bucket} at {settings.backup_s3_endpoint}",
    }
    refused = run(without.with_env(LAKEHOUSE_CATALOG_PASSWORD="wrong"), "prepare")
    assert refused.returncode == 5
    assert "the external postgresql cannot be used" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.usefixtures("said")
def test_a_wrong_superusers_password_is_said_without_a_traceback(here: Here) -> None:
    refused = run(here.with_env(LAKEHOUSE_SUPERUSER_PASSWORD="wrong"), "prepare")
    assert refused.returncode == 5
    assert 'password authentication failed for user "postgres"' in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.usefixtures("said")
def test_the_command_line_finds_both_servers_and_the_source_database(here: Here) -> None:
    status = run(here, "lakehouse", "lakehouse", "status", "--json")
    assert status.returncode == 0, status.stderr
    found = json.loads(status.stdout)
    assert found["is_up"] and [server["kind"] for server in found["servers"]] == ["external", "external"]
    sample = run(here, "lakehouse", "lakehouse", "sample", "--days", "2", "--size", "0.01")
    assert sample.returncode == 0, sample.stderr
    landed = run(here, "lakehouse", "lakehouse", "land")
    assert landed.returncode == 0, landed.stderr
    with psycopg.connect(json.loads(here.env["LAKEHOUSE_CONNECTIONS"])["crm"]) as ingest:
        rows = ingest.execute("select count(*) from crm.customer_changes").fetchone()
    assert rows and rows[0] > 0
