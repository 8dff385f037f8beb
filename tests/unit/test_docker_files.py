"""What images are built from, and the programs beside docker-compose.yaml. No image is built and no server started."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from lakehouse.core import spark_conf
from lakehouse.core.connect_conf import server_conf
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.stack import checks, java, minio

DOCKER = PROJECT_ROOT / "docker"
DOCKERFILE = (PROJECT_ROOT / "Dockerfile").read_text("utf-8")
MINIO_FILE = (DOCKER / "minio" / "Dockerfile").read_text("utf-8")
MAKE_ENV = DOCKER / "make-env.sh"


def load(name: str) -> ModuleType:
    """A program of docker/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def argument(text: str, name: str) -> str:
    """The default of a build argument."""
    found = re.search(rf"^ARG {name}=(\S+)$", text, re.MULTILINE)
    assert found, f"no argument {name}"
    return found[1]


def without_continuation(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


# Dockerfiles


@pytest.mark.parametrize("text", [DOCKERFILE, MINIO_FILE], ids=["lakehouse", "minio"])
def test_bases_are_pinned_and_images_do_not_run_as_root(text: str) -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.MULTILINE)
    images = [source for source, _ in stages if source not in {name for _, name in stages}]
    assert images
    for image in images:
        assert image.startswith("${")
        assert re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-[a-z-]+", argument(text, image[2:-1]))
    users = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    assert users and int(users[-1]) > 0
    assert text.rindex("USER") > text.rindex("FROM")
    assert "HEALTHCHECK" not in text, "health is docker-compose.yaml's to say"


def test_the_image_has_the_python_and_the_java_that_tests_run_with() -> None:
    version = argument(DOCKERFILE, "PYTHON_IMAGE").removeprefix("python:").split("-")[0]
    assert tuple(map(int, version.split(".")[:2])) == checks.PYTHON_AT_LEAST
    python = ".".join(version.split(".")[:2])
    assert f"--python /usr/local/bin/python{python} " in DOCKERFILE
    lock = (PROJECT_ROOT / "Makefile").read_text("utf-8")
    assert f"pip compile --universal --python-version {python} --generate-hashes" in lock
    assert (PROJECT_ROOT / "packages.txt").read_text().split() == [f"openjdk-{java.NEEDED}-jre-headless"]


@pytest.mark.parametrize("lock", ["requirements.txt", "docker/uv.txt"])
def test_every_package_is_pinned_by_hash(lock: str) -> None:
    lines = without_continuation((PROJECT_ROOT / lock).read_text("utf-8"))
    packages = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert packages
    assert [line for line in packages if "==" not in line or "--hash=sha256:" not in line] == []
    installed = [line for line in without_continuation(DOCKERFILE) if "pip install" in line and "-r " in line]
    assert len(installed) == 2 and all("--require-hashes" in line for line in installed)


def test_minio_is_the_native_one() -> None:
    assert argument(MINIO_FILE, "MINIO_VERSION") == minio.VERSION
    assert f'go install -v -trimpath "{minio.MODULE}@${{MINIO_VERSION}}"' in MINIO_FILE
    assert "CGO_ENABLED=0" in MINIO_FILE
    go = argument(MINIO_FILE, "GO_IMAGE").removeprefix("golang:").split("-")[0]
    assert tuple(map(int, go.split(".")[:2])) >= minio.GO_AT_LEAST


def test_what_fetches_the_jars_needs_only_what_its_stage_copies(tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (include/lakehouse/\S+) /jars/(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(copied) == 3
    for source, target in copied:
        if target.endswith("/"):
            (tmp_path / target).mkdir(parents=True)
            shutil.copy(PROJECT_ROOT / source, tmp_path / target)
        else:
            shutil.copytree(PROJECT_ROOT / source, tmp_path / target)
    found = re.search(r'^RUN python -c "([^"]*)', DOCKERFILE, re.MULTILINE)
    assert found
    program = found[1].replace("fetch_jars(load_settings())", "print(load_settings().cache, fetch_jars.__module__)")
    assert program != found[1]
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path / "include"), "LAKEHOUSE_CACHE": "/opt/cache", "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["/opt/cache", "lakehouse.stack.jars"]


def test_folders_that_are_written_to_belong_to_the_images_account() -> None:
    made = " ".join(line for line in without_continuation(DOCKERFILE) if "install -d -o airflow" in line)
    for folder in ("/opt/airflow/logs", "/var/lib/lakehouse", "/var/lib/lakehouse/sources", "include/contracts"):
        assert re.search(rf" {folder}( |$)", made), folder
    compose = (PROJECT_ROOT / "docker-compose.yaml").read_text("utf-8")
    mounted = re.findall(r":(/(?:opt|var/lib/lakehouse)\S*?)\"?\]?$", compose, re.MULTILINE)
    assert {"/opt/airflow/logs", "/var/lib/lakehouse/sources"} <= set(mounted)
    assert [folder for folder in mounted if not re.search(rf" {folder}( |$)", made)] == []


# What enters an image


def enters(path: str) -> bool:
    """Whether .dockerignore lets a file in: the last line that fits it, or a folder above it, decides."""
    is_in = True
    for line in (PROJECT_ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").rstrip("/")
            folders = [path, *map(str, Path(path).parents)][:-1]
            if any(_fits(folder, pattern) for folder in folders):
                is_in = line.startswith("!")
    return is_in


def _fits(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return any(fnmatch(part, pattern[3:]) for part in path.split("/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


@pytest.mark.parametrize(
    "path",
    [
        "include/lakehouse/core/jars.json",
        "include/contracts/retail/sales.yaml",
        "include/dbt/models/marts/marts.yml",
        "dags/landing.py",
        "plugins/page.py",
        "spark_jobs/run.py",
        "docker/health.py",
        "docker/uv.txt",
        "packages.txt",
        "pyproject.toml",
        "requirements.in",
        "requirements.txt",
    ],
)
def test_what_the_image_needs_enters_it(path: str) -> None:
    assert enters(path)


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.before",
        "docker/.env",
        "include/.env.old",
        ".git/config",
        ".lakehouse/stack.admin.env",
        ".venv/bin/python",
        "stack.env",
        "tests/unit/test_compose.py",
        "include/contracts/index.json",
        "include/lakehouse/core/__pycache__/settings.cpython-311.pyc",
        "include/lakehouse.egg-info/PKG-INFO",
        "docker/minio/Dockerfile",
    ],
)
def test_secrets_data_and_leftovers_stay_outside(path: str) -> None:
    assert not enters(path)


# make-env.sh


def make_env(*arguments: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", MAKE_ENV, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_the_generated_file_is_its_owners_alone_and_says_no_secret_aloud(tmp_path: Path) -> None:
    done = make_env(tmp_path / ".env")
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
    values = re.findall(r"^\w+=(\S{24,})$", (tmp_path / ".env").read_text(), re.MULTILINE)
    assert len(values) > 10
    assert [value for value in values if value in done.stdout] == []


def test_no_two_files_share_a_secret(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        make_env(tmp_path / name)
        texts.append(set(re.findall(r"[A-Za-z0-9_=-]{32,}", (tmp_path / name).read_text())))
    assert len(texts[0]) > 12
    assert {word for word in texts[0] & texts[1] if not word.startswith(("LAKEHOUSE_", "STACK_"))} == set()


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LAKEHOUSE_CATALOG_PASSWORD=kept\n")
    refused = make_env(tmp_path / ".env")
    assert refused.returncode == 1
    assert "is there already, and was left as it is" in refused.stderr and "What to do" in refused.stderr
    assert (tmp_path / ".env").read_text() == "LAKEHOUSE_CATALOG_PASSWORD=kept\n"


def test_of_two_at_once_one_makes_the_file(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(["sh", MAKE_ENV, tmp_path / ".env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for maker in makers:
        maker.communicate(timeout=60)
    assert sorted(maker.returncode for maker in makers) == [0, 1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_without_random_bytes_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    head = tmp_path / "bin" / "head"
    head.write_text("#!/bin/sh\nexit 1\n")
    head.chmod(0o755)
    failed = make_env(tmp_path / ".env", PATH=f"{head.parent}{os.pathsep}{os.environ['PATH']}")
    assert failed.returncode == 1 and "no random bytes" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_the_generated_file_is_never_committed() -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=PROJECT_ROOT, check=False)
    assert ignored.returncode == 0


# health.py


class Airflow(BaseHTTPRequestHandler):
    """Answers as Airflow's API server does, or with an error."""

    def do_GET(self) -> None:
        is_known = self.path == "/api/v2/monitor/health"
        self.send_response(200 if is_known else 503)
        self.end_headers()
        health = {"triggerer": {"status": "healthy"}, "dag_processor": {"status": None}, "scheduler": {"status": "ill"}}
        self.wfile.write(json.dumps(health if is_known else {}).encode())

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def airflow() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Airflow) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check(*arguments: str) -> tuple[int, str]:
    """As docker-compose.yaml runs it: without site-packages, and without anything of the environment."""
    done = subprocess.run(
        [sys.executable, "-IS", DOCKER / "health.py", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip()


def test_a_health_check_says_why(airflow: str) -> None:
    assert check("url", f"{airflow}/api/v2/monitor/health") == (0, "healthy")
    assert check("url", f"{airflow}/elsewhere") == (1, "HTTPError: HTTP Error 503: Service Unavailable")
    assert check("airflow", airflow, "triggerer") == (0, "healthy")
    assert check("airflow", airflow, "dag_processor") == (1, "Airflow says that its dag_processor is not there")
    assert check("airflow", airflow, "scheduler") == (1, "Airflow says that its scheduler is ill")
    assert check("airflow", airflow, "worker") == (1, "Airflow says that its worker is not there")
    assert check("url", "file:///etc/passwd") == (1, "OSError: file:///etc/passwd is no http:// address")
    assert check("port", "127.0.0.1", airflow.rpartition(":")[2]) == (0, "healthy")
    assert check("port", "127.0.0.1", "1")[0] == 1
    assert check()[0] == 1


def test_a_health_check_of_nobody_fails() -> None:
    code, said = check("url", "http://127.0.0.1:1/")
    assert code == 1 and "refused" in said


# airflow_init.py


def test_airflow_is_made_ready_by_the_code_of_the_native_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init, done = load("airflow_init"), []
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setattr(init, "compile_for", lambda settings: done.append(settings.home))
    monkeypatch.setattr(init, "prepare", done.append)
    init.main()
    assert done == [tmp_path, tmp_path / "airflow"]


# spark_node.py

SECRET = {"spark.authenticate": "true", "spark.authenticate.secret": "hush"}
NODE = {"STACK_SPARK_MASTER": "spark://spark-master:7077", "STACK_WORKER_CORES": "1", "STACK_WORKER_MEMORY": "2g"}


@pytest.mark.parametrize("conf", [{}, {"spark.authenticate": "true"}, {**SECRET, "spark.authenticate": "false"}])
def test_a_cluster_without_a_secret_is_not_started(conf: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="LAKEHOUSE_SPARK_CONF"):
        load("spark_node").conf_of(Settings(spark_conf=conf))


def test_nodes_are_told_everything_but_the_secret() -> None:
    node = load("spark_node")
    conf = node.conf_of(Settings(spark_conf={**SECRET, "spark.executor.memory": "1g"}))
    assert conf.items() >= {**SECRET, "spark.executor.memory": "1g", "spark.network.crypto.enabled": "true"}.items()
    assert conf["spark.ui.killEnabled"] == conf["spark.master.rest.enabled"] == "false"
    master = node.command("master", NODE, Path("/work"))
    assert master[1:] == [
        "org.apache.spark.deploy.master.Master",
        *("--host", "spark-master", "--port", "7077", "--webui-port", "8080"),
    ]
    worker = node.command("worker", NODE, Path("/work"))
    assert worker[1:] == [
        "org.apache.spark.deploy.worker.Worker",
        *("--webui-port", "8081", "--work-dir", "/work", "--cores", "1", "--memory", "2g", "spark://spark-master:7077"),
    ]
    assert Path(master[0]).is_file() and master[0] == worker[0]


@pytest.mark.parametrize("arguments", [[], ["driver"], ["master", "worker"]])
def test_a_node_is_a_master_or_a_worker(arguments: list[str]) -> None:
    said = subprocess.run([sys.executable, DOCKER / "spark_node.py", *arguments], capture_output=True, text=True)
    assert said.returncode == 1 and "spark_node.py master" in said.stderr


# spark_connect.py


@pytest.mark.parametrize("read_only", [False, True])
def test_a_connect_server_is_the_native_one_on_another_address(
    read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_conf, "jar_paths", lambda cache: ())
    servers = {"s3_access_key_id": "k", "postgres_port": 1, "catalog_password": "c", "reader_password": "r"}
    mine = Settings(home=tmp_path, **servers, connect_token="for jobs", connect_reader_token="for readers")
    server = load("spark_connect")
    native, here = server_conf(mine, read_only=read_only), server.conf_of(mine, read_only=read_only)
    assert here == {**native, "spark.connect.grpc.binding.address": "0.0.0.0"}  # noqa: S104 - compared, not bound
    assert server.token_of(mine, read_only=read_only) == ("for readers" if read_only else "for jobs")
    with pytest.raises(SettingsError, match="without a token"):
        server.token_of(Settings(), read_only=read_only)
