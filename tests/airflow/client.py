"""What a person does in Airflow's UI, through its REST API: with a user, a password and a token."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import httpx

POLL_SECONDS = 0.5
ANSWER_SECONDS = 4.0
ENDED = ("success", "failed")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Airflow:
    """A running Airflow, and who asks it."""

    url: str
    user: str
    password: str

    @cached_property
    def _http(self) -> httpx.Client:
        login = {"username": self.user, "password": self.password}
        token = httpx.post(f"{self.url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
        return httpx.Client(base_url=f"{self.url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """One request; raises with what the server says where it refuses."""
        answer = self._http.request(method, path, **given)
        if answer.is_error:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def status(self, method: str, path: str, **given: Any) -> int:
        """The status code of a request that may be refused."""
        return self._http.request(method, path, **given).status_code

    def unpause(self, *dags: str) -> None:
        for dag in dags:
            self.ask("PATCH", f"/dags/{dag}", json={"is_paused": False})

    def trigger(self, dag: str, **conf: Any) -> str:
        """Start a run with what a form says; returns its id."""
        return str(self.ask("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf})["dag_run_id"])

    def backfill(self, dag: str, first: str, last: str, max_active_runs: int = 10) -> int:
        body = {"dag_id": dag, "from_date": first, "to_date": last, "max_active_runs": max_active_runs}
        return int(self.ask("POST", "/backfills", json=body)["id"])

    def clear(self, dag: str, run: str) -> None:
        """Clear all tasks of a run, so that they run again."""
        body = {"dry_run": False, "dag_run_id": run, "only_failed": False, "reset_dag_runs": True}
        self.ask("POST", f"/dags/{dag}/clearTaskInstances", json=body)

    def runs(self, dag: str) -> list[Mapping[str, Any]]:
        """All runs, the oldest first."""
        found = self.ask("GET", f"/dags/{dag}/dagRuns", params={"limit": 100, "order_by": "run_after"})
        return list(found["dag_runs"])

    def run(self, dag: str, run: str) -> Mapping[str, Any]:
        return dict(self.ask("GET", f"/dags/{dag}/dagRuns/{run}"))

    def tasks(self, dag: str, run: str) -> dict[str, Mapping[str, Any]]:
        found = self.ask("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        found = self.ask("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}")
        return "\n".join(str(line.get("event", line)) for line in found["content"] if isinstance(line, Mapping))

    def events(self, asset: str) -> list[Mapping[str, Any]]:
        """The events of an asset, the oldest first, each with its ``extra``."""
        known = self.ask("GET", "/assets", params={"name_pattern": asset, "limit": 100})["assets"]
        ids = [each["id"] for each in known if each["name"] == asset]
        if not ids:
            return []
        found = self.ask("GET", "/assets/events", params={"asset_id": ids[0], "limit": 100, "order_by": "timestamp"})
        return list(found["asset_events"])

    def wait_for_run(self, dag: str, run: str, seconds: float = 600) -> Mapping[str, Any]:
        """The run, when it has ended."""
        return wait_for(lambda: _ended(self.run(dag, run)), seconds, f"{dag} {run} to end")

    def returned(self, dag: str, run: str, task: str) -> Mapping[str, Any]:
        """What a task left for others."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return dict(self.ask("GET", path)["value"])

    def page(self, path: str) -> httpx.Response:
        """A page beside the API, as who is logged in."""
        return self._http.get(f"{self.url}/{path}")

    def page_with(self, path: str, words: str) -> str | None:
        """A page's text once it has these words."""
        text = self.page(path).text
        return text if words in text else None

    def asked(self, dag: str, run: str, seconds: float = 600) -> str:
        """What the run shows whoever is to approve, once it waits for that."""
        wait_for(lambda: self.tasks(dag, run)["approve"]["state"] == "awaiting_input", seconds, f"{dag} to ask")
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        return str(self.ask("GET", path)["body"])

    def approve(self, dag: str, run: str, seconds: float = 600) -> Mapping[str, Any]:
        """Approve what the run asks, as often as it asks; the run, when it has ended.

        An answer that comes before the scheduler noted that the task waits (seconds, on a busy machine) makes Airflow
        try the task again, and ask again. So the answer takes the time that a person takes at least.
        """
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        asked: dict[int, float] = {}

        def answer() -> Mapping[str, Any] | None:
            task = self.tasks(dag, run)["approve"]
            if task["state"] == "awaiting_input":
                since = asked.setdefault(task["try_number"], time.monotonic())
                if time.monotonic() - since > ANSWER_SECONDS and not self.ask("GET", path)["response_received"]:
                    self.ask("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})
            return _ended(self.run(dag, run))

        return wait_for(answer, seconds, f"{dag} {run} to end")

    def wait_until_idle(self, *dags: str, seconds: float = 600) -> None:
        """Until no run of these DAGs is queued or running, but for those that wait until their file is due."""

        def is_idle() -> bool:
            return all(each["state"] in ENDED or self._is_early(dag, each) for dag in dags for each in self.runs(dag))

        wait_for(is_idle, seconds, f"{', '.join(dags)} to be idle")

    def _is_early(self, dag: str, run: Mapping[str, Any]) -> bool:
        if run["run_type"] != "scheduled" or run["state"] != "running":
            return False
        return any(task["state"] == "deferred" for task in self.tasks(dag, run["dag_run_id"]).values())


def _ended(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return run if run["state"] in ENDED else None


def wait_for(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """What ``look`` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"waited {seconds} s for {what}")
