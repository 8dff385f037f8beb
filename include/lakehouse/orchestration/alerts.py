"""Telling people of failed and late runs, where ``LAKEHOUSE_ALERTS`` names a way. Off by default.

Each way uses an Airflow connection: ``lakehouse_slack`` (Slack webhook), ``lakehouse_smtp`` and ``lakehouse_webhook``
(HTTP). What is sent is never a template: a message may quote what a file or a run's conf says.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakehouse.core.settings import Settings

CONNECTIONS = {"slack": "lakehouse_slack", "smtp": "lakehouse_smtp", "webhook": "lakehouse_webhook"}
_LONGEST = 2000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """A title, the facts, and what went wrong."""

    title: str
    facts: Mapping[str, str]
    text: str = ""

    @property
    def plain(self) -> str:
        """As plain text."""
        lines = [self.title, *(f"{name}: {value}" for name, value in self.facts.items() if value), self.text[:_LONGEST]]
        return "\n".join(line for line in lines if line)


def tell_failure(context: Mapping[str, Any]) -> None:
    """A task failed for good."""
    task = context["ti"]
    facts = {"run": str(task.run_id), "try": str(task.try_number), "log": str(getattr(task, "log_url", "") or "")}
    error = context.get("exception")
    _tell(Message(f"{task.dag_id}: {task.task_id} failed", facts, str(error or "")))


def tell_late(context: Mapping[str, Any] | None = None, **_: Any) -> None:
    """A run is not through although it should be."""
    run = (context or {}).get("dag_run") or {}
    read = run.get if isinstance(run, Mapping) else lambda name, default="": getattr(run, name, default)
    facts = {"run": str(read("dag_run_id", "") or read("run_id", "")), "state": str(read("state", ""))}
    _tell(Message(f"{read('dag_id', 'a DAG')} is late", facts, "Its data will be older than the contract allows."))


def _tell(message: Message) -> None:
    """Say it in every way that is wanted. One that does not work is logged, and does not stop the others."""
    from lakehouse.core.settings import load_settings

    settings = load_settings()
    for way in settings.alert_ways:
        try:
            _WAYS[way](message, settings)
        except Exception:
            _log.exception("nobody was told by %s (connection %s)", way, CONNECTIONS[way])


def _slack(message: Message, settings: Settings) -> None:
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    _notify(SlackWebhookNotifier(slack_webhook_conn_id=CONNECTIONS["slack"], text=message.plain))


def _webhook(message: Message, settings: Settings) -> None:
    from airflow.providers.http.notifications.http import HttpNotifier

    body = {"title": message.title, **message.facts, "text": message.plain}
    _notify(HttpNotifier(http_conn_id=CONNECTIONS["webhook"], json=body, headers={"Content-Type": "application/json"}))


def _smtp(message: Message, settings: Settings) -> None:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    text = f"<pre>{html.escape(message.plain)}</pre>"
    to = [address.strip() for address in settings.alerts_to.split(",") if address.strip()]
    _notify(SmtpNotifier(to=to, subject=message.title, html_content=text, smtp_conn_id=CONNECTIONS["smtp"]))


def _notify(notifier: Any) -> None:
    """Send without rendering: calling the notifier itself would take the message for a Jinja template."""
    notifier.notify({})


_WAYS: dict[str, Callable[[Message, Settings], None]] = {"slack": _slack, "smtp": _smtp, "webhook": _webhook}
