"""Where Spark runs, as one setting says: in the job's own process, on a Spark Connect server, or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlparse

from lakehouse.core.errors import SettingsError

Place = Literal["process", "connect", "cluster"]
OWN_SERVER = "connect"
"""The setting that means the Spark Connect server of the local stack."""
OWN_PROCESS = "local[*]"
DEFAULT_PORT = 15002
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CLUSTERS = ("spark://", "k8s://")
_TLS = "use_ssl"


def place_of(master: str) -> Place:
    """Where ``LAKEHOUSE_SPARK_MASTER`` puts a job. Raises ValueError for anything else than a known form."""
    if master == OWN_SERVER or master.startswith("sc://"):
        return "connect"
    if master == "yarn" or (master.startswith(_CLUSTERS) and len(master) > len("spark://")):
        return "cluster"
    if master == "local" or (master.startswith("local[") and master.endswith("]")):
        return "process"
    raise ValueError("must be local[*], connect, sc://host:port, spark://host:port, yarn or k8s://…")


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine, and nobody else's network is between."""
    return host in _LOOPBACK


def master_host(master: str) -> str:
    """The host of a cluster's master; '' where the address names none."""
    return urlparse(master.removeprefix("k8s://")).hostname or ""


@dataclass(frozen=True)
class ConnectAddress:
    """A Spark Connect server. A token goes to it in the clear on this machine only, unless ``uses_tls`` says so."""

    host: str
    port: int
    uses_tls: bool

    @property
    def url(self) -> str:
        """The address as Spark's client has it, without any secret."""
        return f"sc://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @classmethod
    def local(cls, port: int) -> ConnectAddress:
        """A server of this machine."""
        return cls("localhost", port, uses_tls=False)

    @classmethod
    def parse(cls, url: str, setting: str) -> ConnectAddress:
        """``sc://host[:port][/;use_ssl=true|false]``. TLS is the default for every host but this machine.

        Raises :class:`SettingsError` for anything else. Tokens have settings of their own, that are never shown.
        """
        try:
            found = urlparse("http" + url.removeprefix("sc"))
            port, wanted = (
                found.port or DEFAULT_PORT,
                dict(parse_qsl(found.params, separator=";", strict_parsing=False)),
            )
        except ValueError:
            raise _refused(url, setting) from None
        is_known = set(wanted) <= {_TLS} and wanted.get(_TLS, "true") in ("true", "false") and found.path in ("", "/")
        if not url.startswith("sc://") or not found.hostname or found.username or not is_known:
            raise _refused(url, setting)
        is_local = is_loopback(found.hostname)
        uses_tls = wanted.get(_TLS, "false" if is_local else "true") == "true"
        # Spark's client sends a token without TLS to this very name only.
        return cls("localhost" if is_local and not uses_tls else found.hostname, port, uses_tls)


def _refused(url: str, setting: str) -> SettingsError:
    return SettingsError(
        f"{setting} is no address of a Spark Connect server",
        where=url.partition(";")[0].rpartition("@")[2],  # what may be a secret is not repeated
        todo="write sc://host:port, or sc://host:port/;use_ssl=false where the network between is your own; a token "
        "goes into LAKEHOUSE_CONNECT_TOKEN or LAKEHOUSE_CONNECT_READER_TOKEN",
    )
