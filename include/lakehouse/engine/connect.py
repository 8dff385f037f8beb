"""A session on a Spark Connect server: the same DataFrames and SQL, in a JVM that is there already."""

from __future__ import annotations

import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lakehouse.core.connect_conf import CODE, code_fingerprint, server_address
from lakehouse.core.errors import LakehouseError, SettingsError, TransientError
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.core.spark_conf import catalog_conf
from lakehouse.core.spark_place import ConnectAddress
from lakehouse.engine.spark_errors import is_passing, root_cause, translate

if TYPE_CHECKING:
    from pyspark.sql.connect.client import DefaultChannelBuilder

_MODE = "SPARK_CONNECT_MODE_ENABLED"
_ANSWER_SECONDS = 5.0
_PATIENCE: Mapping[str, Any] = {"max_retries": 6, "max_backoff": 4000}
"""About 15 s. A server that comes back after longer has forgotten the session anyway."""
_SESSION_CONF = "spark.sql."


def start_connected(settings: Settings, name: str, *, read_only: bool) -> SparkSession:
    """A session of its own on the server for jobs, or on that for readers.

    Raises :class:`SettingsError` where the server is not the one for this lake and this code, and
    :class:`TransientError` where it does not answer.
    """
    address = _address(settings, read_only)
    token = settings.connect_reader_token if read_only else settings.connect_token
    _require_answer(address, read_only)
    warnings.filterwarnings("ignore", message=r"\[RETRIES_EXCEEDED\]")  # the error that follows says it
    spark = _open(address, token.get_secret_value(), name)
    try:
        _require_same_lake(spark, settings, address, read_only)
        for key, value in settings.spark_conf.items():
            if key.startswith(_SESSION_CONF):
                spark.conf.set(key, value)
    except BaseException as error:
        close(spark)
        if isinstance(error, PySparkException):
            raise _refused(address, error) from None
        raise
    return spark


def close(spark: SparkSession) -> None:
    """Release the session: what still runs for it on the server is interrupted, and what it kept is dropped."""
    spark.stop()
    os.environ.pop(_MODE, None)


@contextmanager
def ending_when_told() -> Iterator[None]:
    """Let SIGTERM end the block as an exception would: whoever is told to end takes its work on the server along.

    A handler that somebody else has set stays. Only the main thread can have one.
    """
    is_ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) in (
        signal.SIG_DFL,
        None,
    )
    if not is_ours:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # whoever says it again must not cut short what is done because of it
    raise SystemExit(128 + number)


def _address(settings: Settings, read_only: bool) -> ConnectAddress:
    found = server_address(settings, read_only=read_only)
    if found is None:
        which = "read-only Spark Connect server" if read_only else "Spark Connect server"
        raise SettingsError(
            f"this lakehouse has no {which}",
            where=f"LAKEHOUSE_SPARK_MASTER={settings.spark_master}",
            todo="run `lakehouse up --spark`, or set LAKEHOUSE_CONNECT_READER to a server with the reader's role"
            if read_only
            else "run `lakehouse up --spark`, or set LAKEHOUSE_SPARK_MASTER to sc://host:port",
        )
    return found


def _require_answer(address: ConnectAddress, read_only: bool) -> None:
    """Ask the port first: Spark's client would try for long before it says that nobody is there."""
    try:
        socket.create_connection((address.host, address.port), _ANSWER_SECONDS).close()
    except OSError as error:
        raise TransientError(
            f"the {'read-only ' if read_only else ''}Spark Connect server does not answer: {error}",
            where=address.url,
            untouched="everything; nothing was started",
            todo="run `lakehouse up --spark`, or look at the log that `lakehouse status` names, then run again",
        ) from None


def _open(address: ConnectAddress, token: str, name: str) -> SparkSession:
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession as RemoteSession

    os.environ[_MODE] = "1"  # functions and columns of pyspark.sql are those of the client from here on
    spark = RemoteSession.builder.channelBuilder(_channel(address, token, name)).create()
    spark.client.set_retry_policies([DefaultPolicy(**_PATIENCE)])
    return spark


def _channel(address: ConnectAddress, token: str, name: str) -> DefaultChannelBuilder:
    from pyspark.sql.connect.client import DefaultChannelBuilder

    class InTheClear(DefaultChannelBuilder):
        """Without TLS, on a network that the settings call one's own: the token is a header like any other."""

        @property
        def secure(self) -> bool:
            return False

    is_exposed = not address.uses_tls and address.host != "localhost"
    builder = InTheClear(address.url) if is_exposed else DefaultChannelBuilder(address.url)
    if address.uses_tls:
        builder.set("use_ssl", "true")
    if token and is_exposed:
        builder.set("authorization", f"Bearer {token}")
    elif token:
        builder.set("token", token)
    builder.set("user_id", "lakehouse")
    builder.set("user_agent", name.replace(" ", "-"))
    return builder


def _require_same_lake(spark: SparkSession, settings: Settings, address: ConnectAddress, read_only: bool) -> None:
    """The job reads metadata by its own settings, and Spark by the server's: both must mean one lake."""
    wanted = catalog_conf(settings, read_only=read_only)
    facts: dict[str, tuple[str, Callable[[str], str]]] = {
        "the catalog database": (f"spark.sql.catalog.{CATALOG}.uri", _database),
        "the warehouse": (f"spark.sql.catalog.{CATALOG}.warehouse", str),
        "the catalog's user": (f"spark.sql.catalog.{CATALOG}.jdbc.user", str),
    }
    wrong = []
    for what, (key, shown) in facts.items():
        has, wants = shown(str(spark.conf.get(key, ""))), shown(wanted[key])
        if has != wants:
            wrong.append(f"{what} is {has or 'not set'} there and {wants} here")
    if str(spark.conf.get(CODE, "")) != code_fingerprint():
        wrong.append("its Python workers have another version of this project's code")
    if wrong:
        raise SettingsError(
            f"the Spark Connect server is not one for this job: {'; '.join(wrong)}",
            where=address.url,
            untouched="everything; nothing was started",
            todo="run `lakehouse up --spark`, which starts a server anew that is not as it should be, or correct the "
            "settings of this job or of that server",
        )


def _database(uri: str) -> str:
    """The database of a JDBC address. Its host may have another name where the server is."""
    return uri.partition("?")[0].rpartition("/")[2]


def _refused(address: ConnectAddress, error: PySparkException) -> LakehouseError:
    text = str(error)
    if is_passing(text):
        return translate(text, address.url)
    is_token = "unauthenticated" in text.lower() or "token" in text.lower()
    return SettingsError(
        f"the Spark Connect server does not take this job: {'the token is wrong' if is_token else root_cause(text)}",
        where=address.url,
        untouched="everything; nothing was started",
        todo="set the LAKEHOUSE_CONNECT_*TOKEN that the server was started with"
        if is_token
        else "look at the server's log, which `lakehouse status` names",
    )
