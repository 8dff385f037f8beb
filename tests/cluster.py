"""A standalone Spark cluster on loopback: a master and workers, each a process, for as long as a block lasts."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lakehouse.core.jars import spark_jars_folder
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.stack import ports

SPARK = spark_jars_folder().parent
_DEPLOY = "org.apache.spark.deploy"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster. ``secret`` is what its jobs have to know."""

    url: str
    secret: str
    folders: tuple[Path, ...]
    processes: tuple[psutil.Process, ...]

    def executors(self) -> list[int]:
        """How many executors each worker has started."""
        return [len(list(folder.glob("app-*/*/stderr"))) for folder in self.folders]


@contextmanager
def cluster(scratch: Path, workers: int = 2, cores: int = 1, memory: str = "1g") -> Iterator[Cluster]:
    """A master and some workers; they are gone at the end, with everything that they started."""
    secret, port, page = secrets.token_hex(16), ports.any_free(), ports.any_free()
    conf = scratch / "cluster.conf"
    with open(os.open(conf, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"spark.authenticate true\nspark.authenticate.secret {secret}\nspark.network.crypto.enabled true\n")
        file.write("spark.master.rest.enabled false\n")
    url, folders = f"spark://127.0.0.1:{port}", tuple(scratch / f"worker-{number}" for number in range(workers))
    with ExitStack() as stack:
        master = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page)]
        started = [stack.enter_context(_daemon("master.Master", [*master, *_with(conf)], scratch / "master.log"))]
        for folder in folders:
            worker = ["--host", "127.0.0.1", "--webui-port", str(ports.any_free()), "--work-dir", str(folder)]
            worker += ["--cores", str(cores), "--memory", memory, *_with(conf), url]
            started.append(stack.enter_context(_daemon("worker.Worker", worker, folder.with_suffix(".log"))))
        _wait_for_workers(page, workers, scratch)
        yield Cluster(url, secret, folders, tuple(started))


def _with(conf: Path) -> list[str]:
    return ["--properties-file", str(conf)]


@contextmanager
def _daemon(name: str, arguments: list[str], log: Path) -> Iterator[psutil.Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "SPARK_"))}
    environment |= {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_CONF_DIR": str(log.parent / "nothing"),
        "SPARK_DAEMON_MEMORY": "256m",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
    }
    command = [str(SPARK / "bin" / "spark-class"), f"{_DEPLOY}.{name}", *arguments]
    with log.open("wb") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    process = psutil.Process(child.pid)
    try:
        yield process
    finally:
        family = [*process.children(recursive=True), process] if process.is_running() else []
        child.terminate()
        _, alive = psutil.wait_procs(family, timeout=15)
        for each in alive:
            each.kill()
        child.wait(15)


def _wait_for_workers(page: int, wanted: int, scratch: Path) -> None:
    """The master's page says which workers have come."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:  # noqa: S310 - loopback
                if json.load(answer)["aliveworkers"] == wanted:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    logs = "\n".join(log.read_text(errors="replace")[-1500:] for log in sorted(scratch.glob("*.log")))
    raise AssertionError(f"{wanted} workers did not come:\n{logs}")
