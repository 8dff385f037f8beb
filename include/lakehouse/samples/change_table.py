"""The CRM's change table in PostgreSQL: made once, and each day's changes appended once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date

import psycopg
from psycopg import sql

from lakehouse.core.errors import SourceError
from lakehouse.samples.customers import COLUMNS, Change, day_changes, initial_changes
from lakehouse.samples.plan import Options
from lakehouse.samples.write import Written

SCHEMA = "crm"
_INITIAL = "initial"
# Dates are text, so that the table can hold what applications let through, as in 1980-02-30.
_TABLES = (
    """
    create table if not exists crm.customer_changes (
        change_id bigint generated always as identity primary key,
        transaction_id xid8 not null default pg_current_xact_id(),
        operation text, changed_at timestamptz, customer_id text, full_name text, email text, phone text,
        street text, city text, postcode text, country text, birth_date text, segment text,
        marketing_consent boolean, registered_at timestamptz
    )""",
    "create index if not exists customer_changes_transaction on crm.customer_changes (transaction_id)",
    """
    create table if not exists crm.sample_days (
        part text primary key, options text not null, change_count bigint not null
    )""",
)


class ChangeTable:
    """A connection that may write the table. Every call commits what it did, or nothing."""

    def __init__(self, connection: psycopg.Connection, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._label = f"seed {options.seed}, size {options.size}{', clean' if options.is_clean else ''}"

    def prepare(self) -> None:
        """Make the tables where they are missing. Raises :class:`SourceError` if others than ours fill them."""
        with self._connection.transaction():
            self._connection.execute("select pg_advisory_xact_lock(hashtext('lakehouse sample crm'))")
            found = self._connection.execute("select 1 from pg_namespace where nspname = %s", (SCHEMA,)).fetchone()
            if found is None:
                self._connection.execute(sql.SQL("create schema {}").format(sql.Identifier(SCHEMA)))
            for statement in _TABLES:
                self._connection.execute(statement)
            self._refuse_other_options()

    def _refuse_other_options(self) -> None:
        query = "select options from crm.sample_days where options <> %s limit 1"
        other = self._connection.execute(query, (self._label,)).fetchone()
        if other is not None:
            raise SourceError(
                f"the CRM's change table already holds another sample ({other[0]}; asked for: {self._label})",
                where="crm.customer_changes",
                untouched="the table",
                todo="use the same --seed, --size and --clean, or drop the schema crm first",
            )

    def add_initial(self) -> int:
        """Insert the customers of old unless they are there; returns how many changes were added."""
        return self._add_once(_INITIAL, initial_changes(self._options))

    def add_day(self, day: date) -> int:
        """Append a day's changes in one transaction unless they are there; returns how many were added."""
        return self._add_once(str(day), day_changes(self._options, day))

    def _add_once(self, part: str, changes: Iterable[Change]) -> int:
        """The part's row is inserted first: a second writer waits for it, and then finds the part done."""
        claim = "insert into crm.sample_days values (%s, %s, 0) on conflict do nothing returning part"
        with self._connection.transaction():
            if self._connection.execute(claim, (part, self._label)).fetchone() is None:
                return 0
            count = self._copy(changes)
            self._connection.execute("update crm.sample_days set change_count = %s where part = %s", (count, part))
        return count

    def _copy(self, changes: Iterable[Change]) -> int:
        statement = sql.SQL("copy crm.customer_changes ({}) from stdin").format(
            sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        )
        count = 0
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for change in changes:
                copy.write_row(change.values)
                count += 1
        return count

    def written(self, added: int) -> Written:
        """What was added, with the table's size as it is now."""
        row = self._connection.execute("select pg_total_relation_size('crm.customer_changes')").fetchone()
        return Written(0, added, int(row[0]) if row else 0)


@contextmanager
def open_table(dsn: str, options: Options) -> Iterator[ChangeTable]:
    """Connect and prepare the table. Raises :class:`SourceError` without the connection's secrets."""
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            table = ChangeTable(connection, options)
            table.prepare()
            yield table
    except psycopg.OperationalError as error:
        raise SourceError(
            f"the CRM's database cannot be used: {type(error).__name__}",
            where="LAKEHOUSE_CONNECTIONS__CRM_OWNER",
            untouched="days that were finished stay",
            todo="start it (`lakehouse up`), or correct the connection",
        ) from None
    except psycopg.Error as error:
        message = error.diag.message_primary or type(error).__name__
        raise SourceError(
            f"the CRM's change table cannot be written: {message}",
            where="crm.customer_changes, by LAKEHOUSE_CONNECTIONS__CRM_OWNER",
            untouched="days that were finished stay",
            todo="connect as the owner of the schema crm",
        ) from None
