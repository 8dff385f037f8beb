"""The same programs in their own process, on a warm Spark Connect server, and through spark-submit on a real cluster.

All programs are processes of their own, as they are for a scheduler. The stack is one of its own, started as
``lakehouse up --spark`` starts it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.cluster import SPARK, cluster
from tests.faults.looking import Looking
from tests.faults.s3_proxy import S3Fault, S3Proxy
from tests.faults.wave import environment
from tests.faults.world import content
from tests.servers import another_place
from tests.turns import on_turn

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import declared_marts
from lakehouse.contracts.model import Contract
from lakehouse.core.class_archive import class_archive
from lakehouse.core.jars import pinned_jars
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings
from lakehouse.core.types import DataType
from lakehouse.engine.gold import mart_spec
from lakehouse.landing.land import Request, land
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.watermark import load_table, read_head
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import EPOCH, Options, days
from lakehouse.stack import connect, down, processes, supervisor, up
from lakehouse.stack.supervisor import Identity

CONTRACTS = load_contracts(PROJECT_ROOT / "include" / "contracts")
SALES = CONTRACTS["retail.sales"]
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
LAKEHOUSE = (sys.executable, "-m", "lakehouse.cli.main")
IDLE_CPU = 0.1
BUSY = """
from lakehouse.core.settings import load_settings
from lakehouse.engine.session import session
with session(load_settings(), "busy") as spark:
    print("ready", flush=True)
    spark.range(0, 10**14, 1, 2).selectExpr("sum(hash(id))").collect()
"""
# What a task of Airflow does on a cluster, without a scheduler around it.
TASK = """
import json
from lakehouse.orchestration import submit
submit.get_current_context = dict
task = submit.SubmitTakePendingOperator(task_id="take_pending", arguments=())
print(json.dumps(task.run_command(["run", "--json"]).said))
"""
ASK = """
import sys
from pydantic import SecretStr
from lakehouse.core.errors import LakehouseError
from lakehouse.core.settings import load_settings
from lakehouse.engine.session import session
settings = load_settings()
tokens = {"none": "", "wrong": "x" * 32, "reader's": settings.connect_reader_token.get_secret_value()}
for name, token in tokens.items():
    try:
        with session(settings.model_copy(update={"connect_token": SecretStr(token)}), "ask") as spark:
            print(name, "let in")
    except LakehouseError as refused:
        print(name, type(refused).__name__, "the token is wrong" in str(refused), token in str(refused) and bool(token))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Settings]:
    """A stack with Spark Connect servers; nothing of it is left at the end."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="lakehouse-places-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - entering is enough, and needed
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
            patch.delenv(name)
        home = Path(folder)
        try:
            assert up(load_settings(home), spark=True).is_up
            yield load_settings(home)
        finally:
            down(load_settings(home))


@pytest.fixture(scope="module")
def sources(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of every source: files, snapshots, and a change table. A third day of files waits."""
    root = tmp_path_factory.mktemp("sources")
    owner = stack.connections["crm_owner"].get_secret_value()
    make_samples(Options(size=0.02), days(EPOCH, 2), root / "days", crm_dsn=owner)
    make_samples(Options(size=0.02), days(EPOCH, 3), root / "more", domains=("retail",))
    return root


@pytest.fixture(scope="module")
def sold(stack: Settings, sources: Path) -> None:
    """The stack's own lake has what was landed of the sales, whether or not another test has run everything."""
    assert program("run", landed(stack, sources), ON_SERVER, "retail.sales")["errors"] == []


@pytest.fixture(scope="module")
def reference(stack: Settings, sources: Path) -> Mapping[str, str]:
    """What a lake has that was made by one run in its own process."""
    mine = landed(another_place(stack), sources)
    told = program("run", mine, {"LAKEHOUSE_SPARK_MASTER": "local[*]"})
    assert (told["errors"], told["held"]) == ([], [])
    found = everything(mine)
    assert len(found) > 15 and "nothing" not in [found["fact_sales_line: fact"], found["gold.sales_star"]]
    return found


def landed(mine: Settings, sources: Path) -> Settings:
    land(mine, list(CONTRACTS.values()), Request(root=str(sources / "days"))).raise_if_refused()
    return mine


def everything(mine: Settings) -> dict[str, str]:
    """Fingerprints of every table of a lake, read without Spark."""
    looking, found = Looking(mine), {}
    for contract in CONTRACTS.values():
        for name, table in contract.tables.items():
            only = contract.model_copy(update={"tables": {name: table}})
            found |= {f"{name}: {what}": print_ for what, print_ in content(looking, only).items()}
    for mart in declared_marts(mine.dbt):
        columns = {name: _type(column.spark_type) for name, column in mart_spec(mart).columns.items()}
        found[str(mart.table)] = looking.fingerprint(mart.table, columns)
    return found


def _type(text: str) -> DataType:
    return DataType.parse({"bigint": "long"}.get(text, text))


def program(verb: str, mine: Settings, more: Mapping[str, str], *arguments: str) -> Any:
    """Run a program as a scheduler does; what it said of what it did."""
    command = [sys.executable, str(PROJECT_ROOT / "spark_jobs" / f"{verb}.py"), *arguments]
    return told(command, mine, more)


def told(command: list[str], mine: Settings, more: Mapping[str, str]) -> Any:
    environment, log = surroundings(mine, more), mine.home / "spark" / "writer" / "spark.log"
    try:
        ended = subprocess.run(
            command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"it did not end: {late}\n{log.read_text()[-3000:] if log.exists() else ''}") from None
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])


def surroundings(mine: Settings, more: Mapping[str, str]) -> dict[str, str]:
    return {**environment(mine), "PYTHONPATH": str(PROJECT_ROOT / "include"), **more}


ON_SERVER = {"LAKEHOUSE_SPARK_MASTER": "connect"}


@on_turn(0, of=2)
def test_a_warm_server_gives_the_same_tables(stack: Settings, sources: Path, reference: Mapping[str, str]) -> None:
    answer = program("run", landed(stack, sources), ON_SERVER, "--max-batches", "1")
    assert (answer["errors"], answer["held"]) == ([], [])
    assert everything(stack) == reference
    assert program("run", stack, ON_SERVER) == {"tables": [], "errors": [], "held": []}
    anew = told([*LAKEHOUSE, "rebuild", "silver.dim_customer", "--yes", "--json"], stack, ON_SERVER)
    assert not any(anew["difference"][what] for what in ("added", "removed", "changed"))
    assert everything(stack) == reference
    assert [problem for contract in CONTRACTS.values() for problem in unaccounted(Looking(stack), contract)] == []


def unaccounted(looking: Looking, contract: Contract) -> list[str]:
    return [problem for found in accounts(looking.catalog, looking.store, contract) for problem in found.problems]


@on_turn(1, of=2)
def test_a_cluster_gives_the_same_tables(
    stack: Settings, sources: Path, reference: Mapping[str, str], tmp_path: Path
) -> None:
    mine = landed(another_place(stack), sources)
    with cluster(tmp_path) as running:
        more = {
            "LAKEHOUSE_SPARK_MASTER": running.url,
            "LAKEHOUSE_SPARK_CONF": json.dumps(
                {"spark.executor.memory": "768m", "spark.authenticate.secret": running.secret}
            ),
            "SPARK_CONF_DIR": str(tmp_path / "nothing"),
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        lakehouse = [sys.executable, "-m", "lakehouse.cli.main", "conf", "--writer"]
        conf = subprocess.run(
            lakehouse, env=surroundings(mine, more), capture_output=True, text=True, check=True
        ).stdout
        submit = [str(SPARK / "bin" / "spark-submit"), "--properties-file", f"{conf.strip()}/spark-defaults.conf"]
        answer = told([*submit, str(PROJECT_ROOT / "spark_jobs" / "bronze.py")], mine, more)
        assert (answer["errors"], answer["held"]) == ([], [])
        more |= {"AIRFLOW_HOME": str(tmp_path / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
        answer = told([sys.executable, "-c", TASK], mine, more)
        assert (answer["errors"], answer["held"]) == ([], []) and answer["tables"]
        assert running.executors() == [2, 2], "both workers were given work by both jobs"
        assert listening(running.processes) <= set(LOOPBACK)
    assert everything(mine) == reference


def _seen(one: Identity) -> str:
    """What is known of a server that does not run as it was recorded."""
    record = processes.read_record(one.record_path)
    found = psutil.Process(record.pid).as_dict(["exe", "create_time", "status", "cmdline"]) if record else {}
    return f"{record}\n{found}\n{processes.last_lines(one.log, 20)}"


def listening(found_in: Iterator[psutil.Process] | tuple[psutil.Process, ...]) -> set[str]:
    """Addresses on which some processes, and those that they started, accept connections."""
    found = set()
    for process in found_in:
        for each in (process, *process.children(recursive=True)):
            found |= {c.laddr.ip for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert found, "nobody listens"
    return found


def server(stack: Settings, read_only: bool = False) -> psutil.Process:
    one = connect.identities(stack.home)[int(read_only)]
    record = supervisor.current(one)
    assert record is not None, _seen(one)
    return psutil.Process(record.pid)


def test_servers_listen_here_only_and_show_no_secret(stack: Settings) -> None:
    secrets = [stack.connect_token, stack.connect_reader_token, stack.catalog_password, stack.s3_secret_access_key]
    for read_only in (False, True):
        process = server(stack, read_only)
        assert listening((process,)) <= set(LOOPBACK)
        said = " ".join(process.cmdline())
        assert [s for s in secrets if s.get_secret_value() in said] == []


def test_a_server_lets_nobody_in_without_its_token(stack: Settings) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ASK], env=surroundings(stack, ON_SERVER), capture_output=True, text=True, check=True
    )
    refused = "SettingsError True False"
    assert ended.stdout.splitlines() == [f"none {refused}", f"wrong {refused}", f"reader's {refused}"]


def sql(stack: Settings, statement: str) -> subprocess.CompletedProcess[str]:
    command = [*LAKEHOUSE, "sql", "--json", "-e", statement]
    return subprocess.run(
        command, env=surroundings(stack, ON_SERVER), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.usefixtures("sold")
def test_consoles_read_and_change_nothing(stack: Settings) -> None:
    table = TableName("silver", "dim_customer")
    head = read_head(Looking(stack).catalog, table).snapshot_id
    found = load_table(Looking(stack).catalog, table)
    assert found is not None
    asked = sql(stack, "SELECT count(*) AS n, max(effective_from) AS latest FROM silver.dim_customer")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["n"] == found.scan().to_arrow().num_rows
    for statement in ("DELETE FROM silver.dim_customer WHERE true", "CREATE TABLE silver.mine (a int) USING iceberg"):
        refused = sql(stack, statement)
        assert refused.returncode == 2 and "reader's role" in refused.stderr, refused.stderr
    wrong = sql(stack, "SELECT nothing FROM silver.dim_customer")
    assert wrong.returncode == 2 and "UNRESOLVED_COLUMN" in wrong.stderr and "\tat " not in wrong.stderr
    assert read_head(Looking(stack).catalog, table).snapshot_id == head


def is_idle(process: psutil.Process) -> bool:
    """Whether a process used next to no CPU for a second."""
    before = sum(process.cpu_times()[:2])
    time.sleep(1)
    return sum(process.cpu_times()[:2]) - before < IDLE_CPU


def wait_until(what: str, seconds: float, is_so: Any) -> float:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if is_so():
            return time.monotonic() - started
    raise AssertionError(f"{what}: not within {seconds} s")


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGTERM, 20), (signal.SIGKILL, 60)], ids=["told", "killed"])
def test_the_work_of_a_client_ends_with_it(stack: Settings, number: signal.Signals, seconds: float) -> None:
    with client([sys.executable, "-c", BUSY], stack, ON_SERVER) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        wait_until("the server works", 30, lambda: not is_idle(server(stack)))
        process.send_signal(number)
        code = process.wait(30)
    assert code == (128 + signal.SIGTERM if number == signal.SIGTERM else -signal.SIGKILL)
    took = wait_until("the server is idle", seconds, lambda: is_idle(server(stack)))
    print(f"{number.name}: the server was idle after {took:.0f} s")


@contextmanager
def client(command: list[str], mine: Settings, more: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=surroundings(mine, more), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("sold")
def test_a_killed_client_and_its_successor_write_once(stack: Settings, sources: Path) -> None:
    """The server still writes for the dead client when the next one begins, and goes on after that has published."""
    land(stack, [SALES], Request(root=str(sources / "more"))).raise_if_refused()
    before = read_head(Looking(stack).catalog, SALES.bronze_table).consumed(SALES.name).through
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(120)

    host, _, port = stack.s3_endpoint.removeprefix("http://").partition(":")
    proxy = S3Proxy(host, int(port))
    reading = S3Fault(lambda method, path: method == "GET" and "/objects/" in path, times=1, meanwhile=hold)
    job = [sys.executable, str(PROJECT_ROOT / "spark_jobs" / "bronze.py"), "retail.sales"]
    try:
        through = ON_SERVER | {"LAKEHOUSE_S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        with proxy.armed(reading), client(job, stack, through) as dying:
            assert held.wait(60), "the server's Python worker reads the landed file"
            dying.kill()
            dying.wait(10)
            answer = program("bronze", stack, ON_SERVER, "retail.sales")
            go_on.set()
        assert answer["errors"] == [] and [t["batches"] for t in answer["tables"]] == [1]
        head = read_head(Looking(stack).catalog, SALES.bronze_table)
        wait_until("the server is idle", 60, lambda: is_idle(server(stack)))
    finally:
        go_on.set()
        proxy.close()
    looking = Looking(stack)
    after = read_head(looking.catalog, SALES.bronze_table)
    assert (after.snapshot_id, after.consumed(SALES.name).through) == (head.snapshot_id, before + 1)
    table = load_table(looking.catalog, SALES.bronze_table)
    assert table is not None
    rows = table.scan(f"_batch = {before + 1}", selected_fields=("_record",)).to_arrow().num_rows
    assert rows == answer["tables"][0]["received"] > 0
    assert program("run", stack, ON_SERVER, "retail.sales")["errors"] == []
    assert [
        problem for account in accounts(looking.catalog, looking.store, SALES) for problem in account.problems
    ] == []


def test_an_archive_that_is_no_archive_costs_nothing_but_time(stack: Settings, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "jars").mkdir(parents=True)
    for jar in pinned_jars():
        (cache / "jars" / jar.file_name).symlink_to(jar.path(stack.cache))
    archive = class_archive(cache)
    assert archive is not None
    archive.path.parent.mkdir()
    archive.path.write_bytes(b"no archive at all" * 1000)
    cases = "from lakehouse.core.settings import load_settings\nfrom lakehouse.engine.session import bare_session\n"
    cases += "with bare_session(load_settings(), 'x') as spark: print(spark.range(3).count())"
    ended = subprocess.run(
        [sys.executable, "-c", cases],
        env=surroundings(stack, {"LAKEHOUSE_CACHE": str(cache)}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "3\n", "the JVM says nothing of its archive"
    assert "archive" not in ended.stderr and "[cds" not in ended.stderr
