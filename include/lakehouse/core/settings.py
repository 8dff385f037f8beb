"""Settings: one typed object, from ``LAKEHOUSE_*``, then the local stack's own file, then secret files, then defaults.

``lakehouse up`` writes ``stack.env`` (mode 0600) into the state folder; whatever is set in the environment wins over
it, so any server is replaced by an external one with a setting. In a container secrets are files: ``LAKEHOUSE_SECRETS``
names their folder, and a file is called as the variable that it stands for. Secrets are never in code or argv.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlparse

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableError

from lakehouse.core.errors import SettingsError
from lakehouse.core.spark_place import OWN_PROCESS, place_of

PROJECT_ROOT = Path(__file__).resolve().parents[3]
CATALOG = "lakehouse"
_LOCAL_HOSTS = ("", "127.0.0.1", "localhost")
_SOURCES = "environment, stack.env or LAKEHOUSE_SECRETS"


class Settings(BaseSettings):
    """Everything that differs between two machines. Fields named ``*_password`` and ``*_secret_*`` are secret."""

    model_config = SettingsConfigDict(env_prefix="LAKEHOUSE_", env_nested_delimiter="__", extra="ignore", frozen=True)

    home: Path = Field(PROJECT_ROOT / ".lakehouse", description="State of the local stack: data, logs, credentials.")
    secrets: Path | None = Field(
        None, description="Folder of files that stand for variables, such as lakehouse_catalog_password: /run/secrets."
    )
    cache: Path = Field(Path.home() / ".cache" / "lakehouse", description="Jars and built servers, shared by clones.")
    contracts: Path = Field(PROJECT_ROOT / "include" / "contracts", description="Where the contracts are.")
    dbt: Path = Field(PROJECT_ROOT / "include" / "dbt", description="The dbt project of the gold layer.")
    sources: str = Field("", description="Folder or s3:// prefix of file sources; default: HOME/sources.")

    s3_server: Literal["auto", "minio", "moto", "external"] = Field("auto", description="Which S3 server `up` starts.")
    s3_endpoint: str = Field("", description="URL of the S3 server; empty means AWS itself.")
    s3_region: str = "us-east-1"
    s3_access_key_id: str = ""
    s3_secret_access_key: SecretStr = SecretStr("")
    s3_timeout_seconds: int = Field(
        60,
        ge=3,
        description="How long S3 may leave a request without a whole answer, tries included, before it counts as away.",
    )
    landing_bucket: str = "landing"
    warehouse_bucket: str = "warehouse"

    postgres_server: Literal["auto", "external"] = Field("auto", description="Whether `up` starts PostgreSQL.")
    postgres_host: str = "127.0.0.1"
    postgres_port: int = Field(0, description="0 means any free port when `up` starts the server.")
    catalog_database: str = "lakehouse_catalog"
    catalog_user: str = "lakehouse_transform"
    catalog_password: SecretStr = SecretStr("")
    catalog_timeout_seconds: int = Field(
        60, ge=1, description="How long the catalog may leave Spark without an answer before it counts as away."
    )
    reader_user: str = "lakehouse_reader"
    reader_password: SecretStr = SecretStr("")
    reader_s3_access_key_id: str = Field("", description="S3 user of consoles; default: that of jobs.")
    reader_s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Its secret.")
    connections: dict[str, SecretStr] = Field(
        default_factory=dict, description="Source databases by name: LAKEHOUSE_CONNECTIONS__CRM=postgresql://…"
    )

    backup_server: Literal["auto", "external"] = Field(
        "auto", description="Whether `up` starts a MinIO for backups beside that of the lake."
    )
    backup_data: Path | None = Field(
        None, description="Folder of that server, on another disk if there is one; default: HOME/backups."
    )
    backup_s3_port: int = Field(0, description="Port of that server; 0 means any free one.")
    backup_bucket: str = Field("", description="The bucket of backups; empty: there are none, or that of `up`.")
    backup_s3_endpoint: str = Field("", description="The S3 server of backups; default: that of the lake.")
    backup_s3_region: str = Field("", description="Its region; default: that of the lake.")
    backup_s3_access_key_id: str = Field("", description="Who may write backups; default: the S3 user of jobs.")
    backup_s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Its secret.")
    backup_pruner_s3_access_key_id: str = Field("", description="Who may remove backups; default: who writes them.")
    backup_pruner_s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Its secret.")
    backup_reader_s3_access_key_id: str = Field("", description="Who only reads backups; default: who writes them.")
    backup_reader_s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Its secret.")
    backup_lock_days: int = Field(
        30, ge=0, description="How long a backup can be changed by nobody, where its bucket has object lock; 0: not."
    )
    backup_signing_key: SecretStr = Field(
        SecretStr(""), description="Ed25519 key that backups are signed with; `lakehouse backup key` makes one."
    )
    backup_public_key: str = Field(
        "", description="The public part, for machines that check and restore; default: that of the signing key."
    )

    backup_rpo_minutes: int = Field(
        15, ge=1, description="Goal: how old the last complete backup set may be at any time."
    )
    backup_rto_minutes: int = Field(
        240, ge=1, description="Goal: how long it may take to restore everything, as drills measure it."
    )
    backup_drill_days: int = Field(8, ge=1, description="Goal: how old the last good drill may be.")

    s3_port: int = Field(0, description="Port for the S3 server that `up` starts; 0 means any free one.")

    dags: Path = Field(PROJECT_ROOT / "dags", description="The folder of the DAG files, beside `include`.")
    airflow_port: int = Field(0, description="Port for Airflow; 0 means 8080 if it is free, else any free one.")
    airflow_url: str = Field("", description="Where Airflow is; written by `up --airflow`.")
    airflow_database: SecretStr = Field(
        SecretStr(""), description="Airflow's own database where PostgreSQL is external: postgresql+psycopg2://…"
    )

    ivy_settings: Path | None = Field(None, description="Ivy settings file for `setup`, for people behind a mirror.")

    spark_master: str = Field(
        OWN_PROCESS,
        description="Where jobs run: `local[*]`, each in its own process; `connect`, on the warm server of the local "
        "stack; `sc://host:port`, on another Spark Connect server; `spark://host:port`, `yarn` or `k8s://…`, on a "
        "cluster (compiled into the index). `up --spark` writes `connect` where nothing is set.",
    )
    spark_driver_memory: str = Field("2g", description="Memory of a job's driver, and of the Spark Connect server.")
    spark_conf: dict[str, str] = Field(
        default_factory=dict, description='Further Spark settings as JSON: {"spark.executor.memory": "4g"}.'
    )

    connect_port: int = Field(0, description="Port of the local Spark Connect server; 0 means any free one.")
    connect_token: SecretStr = Field(SecretStr(""), description="Token of the Spark Connect server that jobs run on.")
    connect_reader: str = Field(
        "", description="Address of the read-only server, `sc://host:port`; default: that of the local stack."
    )
    connect_reader_port: int = Field(0, description="Port of the local read-only server; 0 means any free one.")
    connect_reader_token: SecretStr = Field(SecretStr(""), description="Token of the read-only server.")
    connect_reader_memory: str = Field("1g", description="Memory of the local read-only server.")
    task_retries: int = Field(
        3, ge=2, le=20, description="How often a task is tried again that failed for a while; compiled into the index."
    )
    task_retry_seconds: int = Field(
        60, ge=1, description="Seconds before the first new try; each further one waits twice as long."
    )
    alerts: str = Field(
        "",
        description="Who is told of failed tasks: slack, smtp, webhook, separated by commas.",
    )
    alerts_to: str = Field("", description="Addresses that mail goes to, separated by commas.")
    actor: str = Field("", description="Who decides, for the decision log, where a scheduler runs the program.")

    @field_validator("landing_bucket", "warehouse_bucket", "backup_bucket")
    @classmethod
    def _bucket(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "backup_bucket":
            return value
        if not (3 <= len(value) <= 63 and value.replace("-", "").isalnum() and value == value.lower()):
            raise ValueError("a bucket name is 3 to 63 lower-case letters, digits and -")
        return value

    @field_validator("spark_master")
    @classmethod
    def _place(cls, value: str) -> str:
        place_of(value)
        return value

    @field_validator("alerts")
    @classmethod
    def _alerts(cls, value: str) -> str:
        if unknown := {way.strip() for way in value.split(",")} - {"", "slack", "smtp", "webhook"}:
            raise ValueError(f"knows slack, smtp and webhook, not {', '.join(sorted(unknown))}")
        return value

    @field_validator("s3_endpoint", "backup_s3_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if value and urlparse(value).scheme not in ("http", "https"):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @property
    def alert_ways(self) -> tuple[str, ...]:
        """The ways in which people are told of what failed."""
        return tuple(way.strip() for way in self.alerts.split(",") if way.strip())

    @property
    def warehouse(self) -> str:
        """Where the tables' files are."""
        return f"s3://{self.warehouse_bucket}/warehouse"

    @property
    def sources_root(self) -> str:
        """Folder or prefix under which file sources are looked for."""
        return self.sources or str(self.home / "sources")

    @property
    def is_postgres_ours(self) -> bool:
        """Whether PostgreSQL is the local stack's. Any other one is only used: never started, and never backed up."""
        return self.postgres_server != "external" and self.postgres_host in _LOCAL_HOSTS

    def as_reader(self) -> Settings:
        """These settings with the reader's role in place of the catalog's owner; servers that are asked with them
        refuse to write. Raises :class:`SettingsError` where the role has no password: the owner never stands in.
        """
        if not self.reader_password.get_secret_value():
            raise SettingsError(
                "the reader's role has no password",
                where=str(self.home / "stack.env"),
                todo="run `lakehouse up`, or set LAKEHOUSE_READER_USER and LAKEHOUSE_READER_PASSWORD",
            )
        return self.model_copy(update={"catalog_user": self.reader_user, "catalog_password": self.reader_password})

    def as_backup_pruner(self) -> Settings:
        """These settings with the identity that may remove backups in place of the one that writes them."""
        return self._with_backup_user(self.backup_pruner_s3_access_key_id, self.backup_pruner_s3_secret_access_key)

    def as_backup_reader(self) -> Settings:
        """These settings with the identity that only reads backups in place of the one that writes them."""
        return self._with_backup_user(self.backup_reader_s3_access_key_id, self.backup_reader_s3_secret_access_key)

    def _with_backup_user(self, key_id: str, secret: SecretStr) -> Settings:
        found = {"backup_s3_access_key_id": key_id, "backup_s3_secret_access_key": secret}
        return self.model_copy(update=found) if key_id else self

    def require_backups(self) -> None:
        """Raise :class:`SettingsError` unless it is known where backups are, somewhere else than the lake's files."""
        if not self.backup_bucket:
            raise SettingsError(
                "there is no place for backups yet",
                where="LAKEHOUSE_BACKUP_BUCKET",
                todo="run `lakehouse up`, or set it, with LAKEHOUSE_BACKUP_S3_* for another server and credentials",
            )
        if self.backup_bucket in (self.landing_bucket, self.warehouse_bucket) and (
            self.backup_s3_endpoint in ("", self.s3_endpoint)
        ):
            raise SettingsError(
                "the bucket of backups is a bucket of the lake",
                where=f"LAKEHOUSE_BACKUP_BUCKET={self.backup_bucket}",
                todo="name another bucket, better on another server: backups must survive the loss of the lake's",
            )

    def require_servers(self) -> None:
        """Raise :class:`SettingsError` unless S3 and PostgreSQL are known. A reader needs its own password only."""
        has_password = self.catalog_password.get_secret_value() or self.reader_password.get_secret_value()
        if not self.s3_access_key_id or not self.postgres_port or not has_password:
            raise SettingsError(
                "the lakehouse has no servers yet",
                where=str(self.home / "stack.env"),
                todo="run `lakehouse up`, or set LAKEHOUSE_S3_* , LAKEHOUSE_POSTGRES_* and LAKEHOUSE_CATALOG_*",
            )


SettingsModel = TypeVar("SettingsModel", bound=BaseSettings)


def load_settings(home: Path | None = None) -> Settings:
    """Read the environment, the file of the stack in ``home`` (default: LAKEHOUSE_HOME, else ``.lakehouse``), and the
    files of LAKEHOUSE_SECRETS, if that is set.

    Raises :class:`SettingsError` listing every wrong value.
    """
    home = home or Path(os.environ.get("LAKEHOUSE_HOME", PROJECT_ROOT / ".lakehouse"))
    return read_settings(Settings, _env_file=home / "stack.env", home=home)


def read_settings(model: type[SettingsModel], **given: object) -> SettingsModel:
    """Settings of this kind, from the environment and from secret files; raises :class:`SettingsError`."""
    try:
        return model(_secrets_dir=_secrets_folder(), **given)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(f"LAKEHOUSE_{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"settings cannot be used: {wrong}", where=_SOURCES) from None
    except UnreadableError as error:
        raise _unreadable(error) from None


def _unreadable(error: UnreadableError) -> SettingsError:
    """Not the JSON that the field asks for, whose message does not quote the value; or a file that we may not read."""
    if isinstance(error.__cause__, OSError):
        return SettingsError(
            f"{error}: {error.__cause__.strerror}",
            where=str(error.__cause__.filename),
            todo="let the account that runs this read the file, and nobody else",
        )
    return SettingsError(
        f"settings cannot be used: {error}",
        where=_SOURCES,
        todo="LAKEHOUSE_SPARK_CONF is JSON; a connection is LAKEHOUSE_CONNECTIONS__NAME=postgresql://…",
    )


def _secrets_folder() -> Path | None:
    named = os.environ.get("LAKEHOUSE_SECRETS", "")
    if named and not Path(named).is_dir():
        raise SettingsError("LAKEHOUSE_SECRETS is no folder", where=named, todo="correct it, or unset it")
    return Path(named) if named else None


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return load_settings()
