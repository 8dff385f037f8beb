"""A Spark Connect server in the foreground: ``spark_connect.py jobs`` or ``spark_connect.py readers``.

It is the server of the native stack. That one listens on loopback; this one on its container's network, where jobs and
consoles are, for those who know its token. It is published nowhere: a token is as good as the account of the server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lakehouse.core.connect_conf import server_conf
from lakehouse.core.errors import SettingsError, told_on_stderr
from lakehouse.core.settings import Settings, load_settings
from lakehouse.core.spark_conf import write_conf
from lakehouse.core.spark_place import DEFAULT_PORT
from lakehouse.stack.connect import command, environment, identities
from lakehouse.stack.files import private_folder


def token_of(settings: Settings, *, read_only: bool) -> str:
    """The server's token; raises :class:`SettingsError` where there is none."""
    name = "LAKEHOUSE_CONNECT_READER_TOKEN" if read_only else "LAKEHOUSE_CONNECT_TOKEN"
    token = (settings.connect_reader_token if read_only else settings.connect_token).get_secret_value()
    if not token:
        raise SettingsError(
            "a Spark Connect server without a token would run anyone's programs, so it is not started",
            where=name,
            todo="give it a value, as docker/make-env.sh does",
        )
    return token


def conf_of(settings: Settings, *, read_only: bool) -> dict[str, str]:
    """The native server's settings, on the container's network."""
    return {**server_conf(settings, read_only=read_only), "spark.connect.grpc.binding.address": "0.0.0.0"}  # noqa: S104


def main(role: str) -> None:
    """Write the configuration (0600) and become the server."""
    settings, read_only = load_settings(), role == "readers"
    identity, token = identities(settings.home)[read_only], token_of(settings, read_only=read_only)
    conf = conf_of(settings, read_only=read_only)
    write_conf(private_folder(identity.data), conf)
    private_folder(Path(conf["spark.local.dir"]))
    server = command(identity, DEFAULT_PORT)
    os.execve(server[0], server, environment(identity, token))  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1:] not in (["jobs"], ["readers"]):
        sys.exit(__doc__)
    with told_on_stderr():
        main(sys.argv[1])
