"""Spark Connect servers of the local stack: a warm JVM for jobs, and one with the reader's role for consoles.

A token is as good as the account that the server runs under: who has it can run any program there, and read the
server's settings. So the two have a token each, and listen on loopback only.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from lakehouse.core.connect_conf import server_conf
from lakehouse.core.jars import spark_jars_folder
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.core.spark_conf import CONF_FILE, write_conf
from lakehouse.core.spark_place import OWN_PROCESS, OWN_SERVER
from lakehouse.stack import credentials, ports, supervisor
from lakehouse.stack.credentials import Credentials
from lakehouse.stack.files import private_folder
from lakehouse.stack.java import require_java
from lakehouse.stack.processes import User
from lakehouse.stack.supervisor import Identity, Launch

PLACE = "LAKEHOUSE_SPARK_MASTER"
"""The setting that says where jobs run. ``up`` writes it where nobody chose: a server that is there is used."""
_MAIN = "org.apache.spark.sql.connect.service.SparkConnectServer"
_STOP = ((signal.SIGTERM, 20.0),)
_START_SECONDS = 120.0
_NEEDED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "JAVA_HOME", "TZ")


def identities(home: Path) -> tuple[Identity, Identity]:
    """The server for jobs, and the one for readers."""
    return (
        Identity("spark", "connect", "java", home, _STOP),
        Identity("spark, read-only", "connect-reader", "java", home, _STOP),
    )


def are_wanted(settings: Settings, *, asked: bool) -> bool:
    """Whether the servers are to run: somebody asks for them, chose them for jobs, or one of them runs already."""
    is_chosen = settings.spark_master == OWN_SERVER and is_place_chosen(settings)
    return asked or is_chosen or any(supervisor.current(one) for one in identities(settings.home))


def is_place_chosen(settings: Settings) -> bool:
    """Whether somebody said where jobs run. What ``up`` wrote by itself, and the default, are no choice."""
    written = credentials.read_stack_env(settings.home).get(PLACE)
    return PLACE in os.environ or settings.spark_master not in (written, OWN_PROCESS)


def launch(settings: Settings, kept: Credentials, identity: Identity, *, read_only: bool) -> Launch:
    """How to start a server. ``settings`` are those that jobs will have: the other servers are up by then."""
    conf = server_conf(settings, read_only=read_only)
    remembered = credentials.remembered_connect_port(settings.home, read_only=read_only)
    setting = "LAKEHOUSE_CONNECT_READER_PORT" if read_only else "LAKEHOUSE_CONNECT_PORT"
    wanted = settings.connect_reader_port if read_only else settings.connect_port
    wanted = wanted if wanted != remembered or setting in os.environ else 0
    token = kept.connect_reader_token if read_only else kept.connect_token
    return Launch(
        wanted_port=wanted,
        remembered_port=remembered,
        port_setting=setting,
        ready_for=kept.fingerprint(token, sorted(conf.items()), wanted),
        prepare=lambda: _prepare(identity, conf),
        command=lambda port: command(identity, port),
        environment=environment(identity, token),
        is_ready=lambda port: ports.is_answered(ports.LOOPBACK, port),
        make_ready=lambda port: None,
        start_seconds=_START_SECONDS,
    )


def _prepare(identity: Identity, conf: Mapping[str, str]) -> User | None:
    require_java()
    private_folder(identity.data)
    Path(conf["spark.local.dir"]).mkdir(parents=True, exist_ok=True, mode=0o700)
    write_conf(identity.data, conf)
    return None


def command(identity: Identity, port: int) -> list[str]:
    """The command line. It ends with the server's folder, which tells it from any other JVM."""
    submit = spark_jars_folder().parent / "bin" / "spark-submit"
    return [
        str(submit),
        *("--class", _MAIN),
        *("--properties-file", str(identity.data / CONF_FILE)),
        *("--conf", f"spark.connect.grpc.binding.port={port}"),
        "spark-internal",
        str(identity.data),
    ]


def environment(identity: Identity, token: str) -> dict[str, str]:
    """What the server and its Python workers need, and nothing else of the caller's."""
    needed = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    return {
        **needed,
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": token,
        "SPARK_LOCAL_IP": ports.LOOPBACK,
        # Nothing is there: the JVM takes no archive of classes with a folder that has files on its class path.
        "SPARK_CONF_DIR": str(identity.data / "nothing"),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
    }
