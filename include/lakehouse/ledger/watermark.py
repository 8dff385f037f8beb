"""How far a table has consumed its inputs, as written in the summary of the snapshot that consumed them.

The nearest stamped ancestor of ``main``'s head is the truth. Reading it takes one metadata file and no JVM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import IntegrityError, SettingsError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

STAMP_PROPERTY = "lakehouse.stamp"
ATTEMPT_PROPERTY = "lakehouse.attempt"
STAMP_FORMAT = 1
BRANCH_PREFIX = "attempt_"
_REFUSED = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied for database",
)


@dataclass(frozen=True)
class Consumed:
    """One input: consumed through which batch and decision, holes (held, discarded), greatest effective time."""

    through: int = 0
    decisions: int = 0
    holes: tuple[int, ...] = ()
    max_effective: str = ""


Horizon = tuple[str, int, tuple[int, ...]]
"""A time as ISO text, the last batch that a trim considered, and those up to it that it passed over."""


@dataclass(frozen=True)
class Baseline:
    """From where a dimension is folded, since what was observed before ``effective`` is no longer all in bronze.

    ``effective`` is ISO text in UTC; ``snapshot_id`` the snapshot of ``ops.baseline_<table>`` with what is left of the
    observations before it, of the batches up to ``through``. ``trimmed`` has the batches that bronze lacks, each with
    the set that it was in and its rows; ``counts`` the rows by status of those that were live. ``partly`` has the live
    batches that stayed in bronze, each with the number of its good rows that went into the baseline, and
    ``passed`` those that stayed and did not count. ``former`` are the horizons of earlier trims, each with ``through``
    and ``passed`` of then.
    """

    effective: str
    snapshot_id: int
    through: int
    fingerprint: str
    trimmed: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    partly: Mapping[int, int] = field(default_factory=dict)
    passed: tuple[int, ...] = ()
    former: tuple[Horizon, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Baseline:
        """Read what :meth:`Stamp.to_json` wrote."""
        trimmed = {int(batch): (state, rows) for batch, (state, rows) in value["trimmed"].items()}
        partly = {int(batch): rows for batch, rows in value.get("partly", {}).items()}
        passed = tuple(value.get("passed", ()))
        former = tuple((effective, through, tuple(then)) for effective, through, then in value.get("former", ()))
        return cls(**{**value, "trimmed": trimmed, "partly": partly, "passed": passed, "former": former})

    @property
    def at(self) -> datetime:
        """The horizon as a time."""
        return datetime.fromisoformat(self.effective)

    @property
    def frozen(self) -> dict[int, str]:
        """The set that each trimmed batch stays in."""
        return {batch: state for batch, (state, _) in self.trimmed.items()}

    @property
    def horizons(self) -> tuple[Horizon, ...]:
        """Those of all trims: what a batch says of the time before one counts only if that trim took it in."""
        return *self.former, (self.effective, self.through, self.passed)

    def owed(self, live: frozenset[int]) -> int:
        """Good rows that count although their batch no longer does: they are in the baseline."""
        return sum(rows for batch, rows in self.partly.items() if batch not in live)

    @property
    def live(self) -> frozenset[int]:
        """The trimmed batches whose observations count."""
        return frozenset(batch for batch, (state, _) in self.trimmed.items() if state == "live")


@dataclass(frozen=True)
class Stamp:
    """What a snapshot says of the data in it. ``fingerprint`` is that of the contract's (or the models') semantics.

    ``inputs`` are sources; ``upstream`` are tables, each with the attempt that was the last to publish it.
    ``counts`` says what became of the rows of all batches that are live in the table, by status.
    ``held`` are the batches that a rule holds back from this table, each with the reason in words, and ``limits``
    those of the contract that they were judged by, as text (empty where nothing is held). ``baseline`` is kept by
    every later stamp. ``trimmed`` is bronze's own word of the batches that it lost to trims: it stands in the snapshot
    that lost them and in all later ones, so that a table whose baseline does not stand in for them can be told.
    """

    attempt: str
    fingerprint: str = ""
    inputs: Mapping[str, Consumed] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[int, str] = field(default_factory=dict)
    limits: str = ""
    baseline: Baseline | None = None
    trimmed: tuple[int, ...] = ()

    def to_json(self) -> str:
        """The stamp as it stands in a snapshot's summary."""
        return json.dumps({"format": STAMP_FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Stamp:
        """Read a summary's stamp; raises :class:`IntegrityError` on an unknown format."""
        value = json.loads(text)
        if value.get("format") != STAMP_FORMAT:
            raise IntegrityError(
                f"a snapshot's stamp has format {value.get('format')!r}, this version reads {STAMP_FORMAT}",
                todo="use the version of the lakehouse that wrote it, or upgrade",
            )
        inputs = {name: Consumed(**{**c, "holes": tuple(c["holes"])}) for name, c in value["inputs"].items()}
        held = {int(batch): reason for batch, reason in value.get("held", {}).items()}
        return cls(
            value["attempt"],
            value["fingerprint"],
            inputs,
            value["upstream"],
            value["counts"],
            held,
            value.get("limits", ""),
            Baseline.from_json(value["baseline"]) if value.get("baseline") else None,
            tuple(value.get("trimmed", ())),
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the stamp of an empty table that was just created."""
        return not self.inputs and not self.upstream


@dataclass(frozen=True)
class Head:
    """A table's ``main``: its snapshot, and the stamp that counts."""

    snapshot_id: int | None
    stamp: Stamp | None

    def consumed(self, source: str) -> Consumed:
        """How far this source was consumed; nothing if never."""
        return self.stamp.inputs.get(source, Consumed()) if self.stamp else Consumed()

    @property
    def held(self) -> frozenset[int]:
        """The batches that a rule held back when this was published."""
        return frozenset(self.stamp.held) if self.stamp else frozenset()

    @property
    def trimmed(self) -> frozenset[int]:
        """The batches that bronze lost to trims."""
        return frozenset(self.stamp.trimmed) if self.stamp else frozenset()

    @property
    def baseline(self) -> Baseline | None:
        """From where the table is folded; None from the first observation."""
        return self.stamp.baseline if self.stamp else None


NO_HEAD = Head(None, None)


def open_catalog(settings: Settings) -> Catalog:
    """PyIceberg's view of the catalog that Spark uses. Reads metadata only; no JVM."""
    from pyiceberg.catalog import load_catalog
    from sqlalchemy import URL

    settings.require_servers()
    url = URL.create(
        "postgresql+psycopg",
        username=settings.catalog_user,
        password=settings.catalog_password.get_secret_value(),
        host=settings.postgres_host,
        port=settings.postgres_port,
        database=settings.catalog_database,
        # A server that is gone without a word would hold the reader for hours.
        query={"connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"},
    )
    return load_catalog(
        CATALOG,
        **{
            "type": "sql",
            "uri": url.render_as_string(hide_password=False),
            "init_catalog_tables": "false",
            "pool_pre_ping": "true",  # a server that was away has closed what the pool holds
            "warehouse": settings.warehouse,
            "s3.endpoint": settings.s3_endpoint,
            "s3.region": settings.s3_region,
            "s3.access-key-id": settings.s3_access_key_id,
            "s3.secret-access-key": settings.s3_secret_access_key.get_secret_value(),
            # Three tries; the time-outs are of each.
            "s3.connect-timeout": str(min(5, settings.s3_timeout_seconds / 3)),
            "s3.request-timeout": str(settings.s3_timeout_seconds / 3),
            "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        },
    )


def load_table(catalog: Catalog, table: TableName) -> Table | None:
    """The table's current metadata, or None where there is no such table."""
    from pyiceberg.exceptions import NoSuchTableError
    from sqlalchemy.exc import ProgrammingError

    try:
        with reaching(f"read {table}"):
            return catalog.load_table((table.namespace, table.name))
    except NoSuchTableError:
        return None
    except ProgrammingError:  # the catalog's own tables do not exist before Spark's first commit
        return None


def catalog_tables(catalog: Catalog) -> list[TableName]:
    """Every table of the catalog, by name."""
    from sqlalchemy.exc import ProgrammingError

    try:
        with reaching("list the tables"):
            found = [each for namespace in catalog.list_namespaces() for each in catalog.list_tables(namespace)]
    except ProgrammingError:  # as in load_table
        return []
    return sorted(TableName(*each) for each in found)


@contextmanager
def reaching(purpose: str) -> Iterator[None]:
    """Raise :class:`TransientError` where the catalog database or the warehouse's S3 server cannot be reached."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        answer = str(error.orig)
        raise refused_login(answer) or _unreachable("catalog", purpose, answer) from None
    except FileNotFoundError as error:
        raise IntegrityError(
            f"a metadata file is missing: cannot {purpose}",
            where=str(error).splitlines()[0],
            untouched="everything; nothing was written",
            todo="bring the file back from a backup; publish nothing to the table before",
        ) from None
    except OSError as error:  # how PyArrow reports what S3 answers, or that it does not
        raise _unreachable("warehouse", purpose, str(error)) from None


def refused_login(answer: str) -> SettingsError | None:
    """The error where PostgreSQL says that a name or a password is wrong: no other try would help."""
    fatal = [line.partition("FATAL:")[2].strip() for line in answer.splitlines() if "FATAL:" in line]
    refused = next((line for line in fatal if any(sign in line for sign in _REFUSED)), "")
    if not refused:
        return None
    return SettingsError(
        f"the catalog database does not let us in: {refused}",
        where="LAKEHOUSE_CATALOG_USER, LAKEHOUSE_CATALOG_PASSWORD, LAKEHOUSE_CATALOG_DATABASE",
        untouched="everything; nothing was written",
        todo="correct these settings; `lakehouse up` makes the local servers' own",
    )


def _unreachable(server: str, purpose: str, answer: str) -> TransientError:
    return TransientError(
        f"the {server} cannot be reached to {purpose}",
        where=answer.splitlines()[0] if answer else "",
        untouched="everything; nothing was written",
        todo="check `lakehouse status` and `lakehouse doctor`; `lakehouse up` starts the local servers",
    )


def ancestors(table: Table, snapshot_id: int | None = None) -> Iterator[Snapshot]:
    """The snapshots of ``main``, or a snapshot and those before it, newest first."""
    snapshot = table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None


def summary_of(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot's summary as plain values."""
    return dict(snapshot.summary.additional_properties) if snapshot.summary else {}


def head_of(table: Table | None, snapshot_id: int | None = None) -> Head:
    """The head of a table's ``main``, or one that it had, and the nearest stamp in its ancestry."""
    if table is None:
        return NO_HEAD
    snapshot = table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    for ancestor in ancestors(table, snapshot_id):
        if text := summary_of(ancestor).get(STAMP_PROPERTY):
            return Head(snapshot.snapshot_id if snapshot else None, Stamp.from_json(text))
    return Head(snapshot.snapshot_id if snapshot else None, None)


def read_head(catalog: Catalog, table: TableName) -> Head:
    """One metadata read: where ``main`` is and what it has consumed."""
    return head_of(load_table(catalog, table))
