"""The Spark cluster of docker-compose.yaml, as processes of this machine: it works for who knows its secret."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from tests.compose import Here, fresh_servers
from tests.turns import on_turn

from lakehouse.stack.ports import LOOPBACK, any_free

pytestmark = on_turn(0, of=3)
SECONDS = 240.0


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    """Prepared servers, a day of samples, and a cluster of a master and a worker."""
    with ExitStack() as stack:
        _, beside = stack.enter_context(fresh_servers())
        master = f"spark://{LOOPBACK}:{any_free()}"
        told = {"LAKEHOUSE_SPARK_MASTER": master, "STACK_SPARK_MASTER": master, "LAKEHOUSE_SPARK_DRIVER_MEMORY": "1g"}
        cluster = Here(beside.root, beside.env, beside.moved, {**beside.told, **told})
        stack.enter_context(node(cluster, "spark-master", "I have been elected leader"))
        stack.enter_context(node(cluster, "spark-worker", "Successfully registered with master"))
        run(cluster, "prepare", "lakehouse", "prepare")
        run(cluster, "lakehouse", "lakehouse", "sample", "--days", "1", "--size", "0.02", "--only", "retail")
        run(cluster, "lakehouse", "lakehouse", "land", "retail.sales")
        yield cluster


def run(here: Here, service: str, *command: str, is_fine: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in a service's environment."""
    environment = here.environment(service)
    done = subprocess.run(
        here.command(service, *command), env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.returncode == 0) == is_fine, done.stdout[-2000:] + done.stderr[-3000:]
    return done


@contextmanager
def node(here: Here, service: str, ready: str) -> Iterator[None]:
    """One node, until the end of the block; with a home of its own, as a container has one."""
    log = here.root / f"{service}.log"
    environment = here.environment(
        service, LAKEHOUSE_HOME=str(here.root / service), STACK_WORKER_MEMORY="1g", SPARK_LOCAL_IP=LOOPBACK
    )
    with log.open("wb") as output:
        started = psutil.Popen(here.command(service), env=environment, cwd=here.root, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 90
        while ready not in log.read_text(errors="replace"):
            assert started.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield
    finally:
        family = [started, *started.children(recursive=True)] if started.is_running() else []
        started.terminate()
        for left in psutil.wait_procs(family, timeout=20)[1]:
            left.kill()


def executors(here: Here) -> int:
    """How many executors the worker has started."""
    return len(list((here.root / "spark-worker" / "spark" / "work").glob("app-*/*/stderr")))


def test_a_job_runs_on_the_worker(here: Here) -> None:
    assert executors(here) == 0
    run(here, "lakehouse", "lakehouse", "run", "retail.sales", "--no-gold")
    assert executors(here) >= 1
    said = run(here, "lakehouse", "lakehouse", "tables", "--json")
    rows = {table["table"]: table["rows"] for table in json.loads(said.stdout)}
    assert rows["silver.fact_sales_line"] > 0


def test_a_job_that_does_not_know_the_secret_is_not_taken(here: Here) -> None:
    before = executors(here)
    conf = json.dumps({"spark.authenticate": "true", "spark.authenticate.secret": "guessed"})
    refused = run(
        here.with_env(LAKEHOUSE_SPARK_CONF=conf),
        "lakehouse",
        *("lakehouse", "sql", "-e", "SELECT count(*) FROM silver.fact_sales_line"),
        is_fine=False,
    )
    assert "Spark" in refused.stderr and "guessed" not in refused.stdout + refused.stderr
    assert executors(here) == before


def test_the_secret_is_in_no_log_and_no_command_line(here: Here) -> None:
    secret = json.loads(here.env["LAKEHOUSE_SPARK_CONF"])["spark.authenticate.secret"]
    logs = [log.read_text(errors="replace") for log in here.root.glob("spark-*.log")]
    assert len(logs) == 2 and all(logs)
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert any("org.apache.spark.deploy.worker.Worker" in line for line in lines)
    assert [text for text in (*logs, *lines) if secret in text] == []
