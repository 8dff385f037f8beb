"""Airflow's services of docker-compose.yaml, as processes of this machine in just the environment of their containers.

What this shows: the settings are those that Airflow takes, secrets are found where they are, health checks say what is,
and the generated password lets in. It shows nothing of images, volumes or networks.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests.compose import Here, fresh_servers

from lakehouse.core.pools import pools
from lakehouse.stack.ports import LOOPBACK, any_free

SERVERS = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
START_SECONDS = 240.0


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    """Servers, prepared, and the services beside them at ports of their own."""
    with fresh_servers() as (_, beside):
        api, health = any_free(), any_free()
        moved = {
            "http://airflow-apiserver:8080": f"http://{LOOPBACK}:{api}",
            "http://127.0.0.1:8080": f"http://{LOOPBACK}:{api}",
            "http://127.0.0.1:8974": f"http://{LOOPBACK}:{health}",
        }
        told = {
            "AIRFLOW_HOME": str(beside.root / "airflow"),
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(health),
        }
        yield Here(beside.root, beside.env, {**beside.moved, **moved}, {**beside.told, **told})


def start(here: Here, service: str) -> subprocess.Popen[bytes]:
    """Start a service; what it says goes to a file."""
    with (here.root / f"{service}.log").open("ab") as log:
        return subprocess.Popen(
            here.command(service), env=here.environment(service), cwd=here.root, stdout=log, stderr=log
        )


def said(here: Here, service: str) -> str:
    return (here.root / f"{service}.log").read_text(errors="replace")


def complete(here: Here, service: str) -> str:
    code = start(here, service).wait(START_SECONDS)
    assert code == 0, said(here, service)[-3000:]
    return said(here, service)


@pytest.fixture(scope="module")
def running(here: Here) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """All services, in the order of their dependencies; none is left behind."""
    complete(here, "prepare")
    complete(here, "airflow-init")
    processes = {service: start(here, service) for service in SERVERS}
    try:
        yield processes
    finally:
        stop(list(processes.values()))


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """As a container runtime does it: SIGTERM to the first process, and after a while an end to all."""
    processes = [process for process in processes if process.poll() is None]
    everyone = [child for process in processes for child in psutil.Process(process.pid).children(recursive=True)]
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
    _, left = psutil.wait_procs(everyone, timeout=10)
    for child in left:
        child.kill()


def wait_for(is_so: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def health(here: Here, service: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(here.healthcheck(service), capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("service", SERVERS)
def test_a_service_becomes_healthy(here: Here, running: dict[str, subprocess.Popen[bytes]], service: str) -> None:
    is_healthy = wait_for(lambda: health(here, service).returncode == 0, START_SECONDS)
    assert is_healthy, f"{health(here, service).stdout}\n{said(here, service)[-3000:]}"
    assert running[service].poll() is None


def sign_in(here: Here, user: str, password: str) -> httpx.Response:
    address = here.moved["http://airflow-apiserver:8080"]
    return httpx.post(f"{address}/auth/token", json={"username": user, "password": password}, timeout=30)


@pytest.mark.usefixtures("running")
def test_the_generated_password_lets_in_and_no_other(here: Here) -> None:
    assert wait_for(lambda: health(here, "airflow-apiserver").returncode == 0, START_SECONDS)
    passwords = json.loads(here.env["STACK_AIRFLOW_USERS"])
    assert len(passwords) == 3
    for user, password in passwords.items():
        assert sign_in(here, user, password).json()["access_token"]
        assert sign_in(here, user, user).status_code == 401
    logs = "".join(said(here, service) for service in SERVERS)
    assert [user for user, password in passwords.items() if password in logs] == []
    assert "Password for user" not in logs, "Airflow made a password of its own"


@pytest.mark.usefixtures("running")
def test_the_pools_are_those_of_the_native_stack(here: Here) -> None:
    assert wait_for(lambda: health(here, "airflow-apiserver").returncode == 0, START_SECONDS)
    token = sign_in(here, "admin", json.loads(here.env["STACK_AIRFLOW_USERS"])["admin"]).json()["access_token"]
    address = f"{here.moved['http://airflow-apiserver:8080']}/api/v2/pools"
    answer = httpx.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=30).raise_for_status()
    found = {pool["name"]: (pool["slots"], pool["include_deferred"]) for pool in answer.json()["pools"]}
    wanted = {pool.name: (pool.slots, False) for pool in pools()}
    assert len(wanted) == 5
    assert {name: found.get(name) for name in wanted} == wanted


@pytest.mark.usefixtures("running")
def test_no_secret_is_in_a_command_line_or_a_log(here: Here, running: dict[str, subprocess.Popen[bytes]]) -> None:
    secrets = [value for name, value in here.env.items() if len(value) >= 24]
    assert len(secrets) > 12
    lines = [
        " ".join(each.cmdline())
        for process in running.values()
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))
    ]
    lines += [path.read_text(errors="replace") for path in Path(here.root).glob("*.log")]
    assert len(lines) > 8
    assert [secret for secret in secrets if any(secret in line for line in lines)] == []


@pytest.mark.usefixtures("running")
def test_health_checks_see_that_a_scheduler_is_gone(here: Here, running: dict[str, subprocess.Popen[bytes]]) -> None:
    assert wait_for(lambda: health(here, "airflow-scheduler").returncode == 0, START_SECONDS)
    stop([running["airflow-scheduler"]])
    assert wait_for(lambda: health(here, "airflow-scheduler").returncode == 1, 30)
