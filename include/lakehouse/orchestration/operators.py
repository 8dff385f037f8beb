"""The tasks: each runs one command of the program, and tells Airflow what came of it.

No field of these operators is a template: what stands in a run's conf reaches a command as the text that it is, as one
argument, and only after it was checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from airflow.sdk import Asset, AssetAlias, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from lakehouse.contracts.index import Timing
from lakehouse.orchestration import assets, jobs
from lakehouse.orchestration.jobs import HELD, Answer
from lakehouse.orchestration.process import Child

Context = Mapping[str, Any]
Days = tuple[date, date]
_QUALITY = ("received", "good", "quarantined", "rejected", "without_key", "warned", "held")
_WORK = ("batches", "rows_added", "rows_removed", "opened", "closed", "late_keys", "files", "bytes", "seconds")
_BATCH = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+#[0-9]{1,12}\Z")
TABLE = re.compile(r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")
_ONE_DAY = timedelta(days=1)


class LakehouseOperator(BaseOperator):
    """Runs a command in a process of its own, which ends with the task."""

    template_fields: Sequence[str] = ()
    ui_color = "#e8f1f5"
    _child: Child | None = None

    def run_command(self, words: Sequence[str], *also: int, actor: str = "") -> Answer:
        """What a command answered. Raises as :meth:`Answer.require` does, unless it ended with one of these codes."""
        return jobs.run(words, self.log, actor, started=self._remember).require(*also)

    def _remember(self, child: Child) -> None:
        self._child = child

    def on_kill(self) -> None:
        """Airflow ends the task: end the command with all that it started."""
        if self._child is not None:
            self._child.end()


class LandOperator(LakehouseOperator):
    """Lands the days of a run, and waits for them first if they cannot be there yet."""

    def __init__(self, *, source: str, timing: Timing, is_feed: bool, asset: Asset, **kwargs: Any) -> None:
        super().__init__(outlets=[asset], **kwargs)
        self.source, self.timing, self.is_feed, self.asset = source, timing, is_feed, asset

    def execute(self, context: Context) -> None:
        days = None if self.is_feed else asked_days(context) or run_days(context, self.timing)
        due = due_at(days, self.timing) if days and context["dag_run"].run_type == "scheduled" else None
        if due and due > datetime.now(UTC):
            self._wait(due)
        self.land(context)

    def land(self, context: Context, event: Any = None) -> None:
        """Land now."""
        days = None if self.is_feed else asked_days(context) or run_days(context, self.timing)
        words = ["land", self.source, "--json"]
        words += ["--from", days[0].isoformat(), "--to", days[1].isoformat()] if days else []
        units = [unit for unit in self.run_command(words).said["units"] if unit["batch"] is not None]
        if not units:
            raise AirflowSkipException(f"nothing of {self.source} is there to land{_of(days)}")
        context["outlet_events"][self.asset].extra = landed(units)

    def _wait(self, due: datetime) -> None:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        self.log.info("the data of this run are expected at %s", due)
        self.defer(trigger=DateTimeTrigger(moment=due), method_name="land")


class LandAllOperator(LakehouseOperator):
    """Lands whatever a source has that did not land: days that came late, or that were corrected."""

    def __init__(self, *, source: str, asset: Asset, **kwargs: Any) -> None:
        super().__init__(outlets=[asset], **kwargs)
        self.source, self.asset = source, asset

    def execute(self, context: Context) -> None:
        units = self.run_command(["land", self.source, "--json"]).said["units"]
        new = [unit for unit in units if unit["status"] == "landed"]
        if not new:
            raise AirflowSkipException(f"nothing of {self.source} is new")
        context["outlet_events"][self.asset].extra = landed(new)


class TakePendingOperator(LakehouseOperator):
    """Brings tables up to date with all that is pending, and has an event for each one that has a new snapshot.

    What a rule holds back does not fail this task, so that what was taken goes on: :class:`HeldOperator` tells of it.
    An attempt that was killed after it published something told nobody, so the next one tells of that too.
    """

    def __init__(self, *, arguments: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = tuple(arguments)

    def execute(self, context: Context) -> None:
        answer = self.run_command(["run", *self.arguments, "--json"], HELD)
        events = published(answer.said["tables"])
        if context["ti"].try_number > 1:
            events = {**self._untold(context["dag_run"].start_date), **events}
        if not events:
            raise AirflowSkipException("nothing was pending: every table has what landed and was decided")
        # Airflow makes an event for every outlet that a task has when it succeeds.
        self.outlets = [asset for asset in self.outlets if asset.name in events]
        for asset in self.outlets:
            context["outlet_events"][asset].extra = events[asset.name]

    def _untold(self, since: datetime) -> dict[str, dict[str, Any]]:
        """What was published since the run began, by whichever attempt."""
        return {
            each["table"]: {"snapshot_id": each["snapshot_id"], "rows": each["rows"], "by": "an earlier attempt"}
            for each in self.run_command(["tables", "--json"]).said
            if each["committed_at"] and datetime.fromisoformat(each["committed_at"]) >= since
        }


class HeldOperator(LakehouseOperator):
    """Fails, without another try, while a rule holds batches of a source back: somebody has to decide."""

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Context) -> None:
        said = self.run_command(["held", self.source, "--json"], 0).said or []
        held = [each for each in said if each["is_automatic"]]
        if held:
            lines = [f"{each['name']} ({each['unit']}), {each['table']}: {each['reason']}" for each in held]
            advice = "land the day again when it is right; or release or discard it with the DAG decide_batch"
            raise AirflowFailException("\n".join(["rules hold back:", *lines, f"what to do: {advice}"]))


class LookOperator(LakehouseOperator):
    """The first half of a change that a person confirms: a dry run, whose words the approval shows.

    ``seen_as`` is what the dry run calls that by which the second half does just what was seen.
    """

    def __init__(
        self,
        *,
        verb: str,
        arguments: Callable[[Context], list[str]],
        tell: Callable[[Any], str],
        seen_as: str = "token",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verb, self.arguments, self.tell, self.seen_as = verb, arguments, tell, seen_as

    def execute(self, context: Context) -> dict[str, Any]:
        words = self.arguments(context)
        said = self.run_command([self.verb, *words, "--dry-run", "--json"]).said
        summary = self.tell(said)
        if not summary:
            raise AirflowSkipException("nothing would change")
        self.log.info("%s", summary)
        return {"words": words, "token": said[self.seen_as], "summary": summary}


class ConfirmOperator(LakehouseOperator):
    """The second half: does what was shown, and only if nothing changed since. It is done by whoever approved it."""

    PUBLISHED: ClassVar[AssetAlias] = AssetAlias("lakehouse.confirmed")

    def __init__(
        self, *, verb: str, looked: str, approved: str, assets_of: Callable[[Any], Sequence[Asset]], **kwargs: Any
    ) -> None:
        super().__init__(outlets=[self.PUBLISHED], **kwargs)
        self.verb, self.looked, self.approved, self.assets_of = verb, looked, approved, assets_of

    def execute(self, context: Context) -> None:
        self.confirm(context)

    def confirm(self, context: Context) -> Any:
        """What the command said; there is an event for every table that is another now."""
        seen = context["ti"].xcom_pull(task_ids=self.looked)
        actor = approver(context["ti"].xcom_pull(task_ids=self.approved))
        said = self.run_command([self.verb, *seen["words"], *self.sure(seen["token"]), "--json"], actor=actor).said
        extra = {"by": self.verb, "approved_by": actor, **self.about(said)}
        for asset in self.assets_of(said):
            context["outlet_events"][self.PUBLISHED].add(asset, extra=extra)
        return said

    def sure(self, token: str) -> list[str]:
        """The arguments by which the command does what was seen, without a question."""
        return ["--yes", "--if-seen", token]

    def about(self, said: Any) -> dict[str, Any]:
        """What events say of the change."""
        return {"snapshot_id": said.get("published")}


class DecideOperator(LakehouseOperator):
    """Writes a person's decision about a batch into the decision log, with the person's name."""

    DECIDED: ClassVar[AssetAlias] = AssetAlias("lakehouse.decided")

    def __init__(self, *, sources: Sequence[str], **kwargs: Any) -> None:
        super().__init__(outlets=[self.DECIDED], **kwargs)
        self.sources = tuple(sources)

    def execute(self, context: Context) -> None:
        params = context["params"]
        action, batch, reason = str(params["action"]), str(params["batch"]), str(params["reason"])
        source = batch.partition("#")[0]
        if action not in ("release", "hold", "discard") or not _BATCH.match(batch) or source not in self.sources:
            raise AirflowFailException(f"{action} {batch!r} is no decision about a batch of {', '.join(self.sources)}")
        sure = ["--yes"] if action == "discard" else []
        actor = _person(context["dag_run"].triggering_user_name)
        self.run_command([action, batch, f"--reason={reason}", *sure], actor=actor)
        extra = {"decided": action, "batch": batch, "by": actor}
        context["outlet_events"][self.DECIDED].add(assets.landing(source), extra=extra)


class MaintainOperator(LakehouseOperator):
    """Upkeep of the tables that the form names, or of all; says what was done, and what had to wait."""

    def execute(self, context: Context) -> None:
        params = context["params"]
        table, most = any_table(context), params["max_delete"]
        if not isinstance(most, int) or most < 0:
            raise AirflowFailException(f"{most!r} is no number of files")
        words = [*([table] if table else []), f"--max-delete={most}"]
        words += ["--dry-run"] if params["dry_run"] else []
        said = self.run_command(["maintain", *words, "--json"]).said
        for each in said["needs"] if said["done"] is None else said["done"]:
            self.log.info("%s", each)
        if not said["needs"]:
            raise AirflowSkipException(f"nothing is to be done for {said['tables']} tables")


class CommandOperator(LakehouseOperator):
    """Runs a command, with what ``arguments`` makes of the form of the run."""

    def __init__(
        self,
        *,
        words: Sequence[str],
        arguments: Callable[[Context], Sequence[str]] = lambda context: (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.words, self.arguments = tuple(words), arguments

    def execute(self, context: Context) -> None:
        answer = self.run_command([*self.words, *self.arguments(context)])
        if answer.said is not None:
            self.log.info("%s", answer.said)


def any_table(context: Context) -> str | None:
    """The table that a form names, if it does. Raises where that is no name of one."""
    table = context["params"]["table"]
    if table is not None and not TABLE.fullmatch(str(table)):
        raise AirflowFailException(f"{table!r} is no table")
    return None if table is None else str(table)


def approver(response: Any) -> str:
    """Who gave an approval, by what its task returned; a default that was taken for want of an answer is nobody's."""
    return _person(responder(response))


def responder(response: Any) -> Any:
    """The name of the person who answered an approval, as Airflow has it; None where nobody did."""
    user = response.get("responded_by_user") if isinstance(response, Mapping) else None
    return (user.get("name") or user.get("id")) if isinstance(user, Mapping) else None


def _person(name: Any) -> str:
    return f"{name or 'somebody'} (Airflow)"


def landed(units: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an event says of a landing."""
    return {
        "days": sorted({unit["unit"] for unit in units}),
        "batches": sorted({unit["batch"] for unit in units}),
        "new": sum(unit["status"] == "landed" for unit in units),
        "files": sum(unit["files"] for unit in units),
        "bytes": sum(unit["size_bytes"] for unit in units),
        "records": sum(unit["records"] or 0 for unit in units),
    }


def published(tables: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the events of tables with a new snapshot say: snapshot, rows, and quality. Refused rows have one too."""
    events: dict[str, dict[str, Any]] = {}
    for each in tables:
        if each.get("snapshot_id") is None:
            continue
        quality = {name: each[name] for name in _QUALITY if each.get(name)}
        work = {name: each[name] for name in _WORK if each.get(name)}
        events[each["table"]] = {"snapshot_id": each["snapshot_id"], **work, "quality": quality}
        if each["quarantined"]:
            rules = {refusal["rule"]: refusal["rows"] for refusal in each.get("refusals", ())}
            short = each["table"].partition(".")[2]
            events[f"quarantine.{short}"] = {"rows": each["quarantined"], "rules": rules}
    return events


def asked_days(context: Context) -> Days | None:
    """The days that the form asks for; None where it leaves them to the run. One alone means that day."""
    params = context.get("params") or {}
    first, last = (_date(params.get(name), name) for name in ("first_day", "last_day"))
    found = (first or last, last or first)
    if found[0] is None or found[1] is None:
        return None
    if found[0] > found[1]:
        raise AirflowFailException(f"the first day, {found[0]}, is after the last, {found[1]}")
    return found[0], found[1]


def run_days(context: Context, timing: Timing) -> Days | None:
    """The days that a scheduled run or one of a backfill stands for; None for others, which land whatever is there.

    Intervals are in UTC. Those shorter than a day stand for each day that they touch where the source is.
    """
    run = context["dag_run"]
    if run.run_type not in ("scheduled", "backfill"):
        return None
    start, end = run.data_interval_start.astimezone(UTC), run.data_interval_end.astimezone(UTC)
    if end - start >= _ONE_DAY:
        return start.date(), (end - _ONE_DAY).date()
    zone = ZoneInfo(timing.timezone)
    return start.astimezone(zone).date(), end.astimezone(zone).date()


def due_at(days: Days, timing: Timing) -> datetime | None:
    """When the data of these days are expected: some time after the last one ended where the source is."""
    if timing.expected_every_hours < 24:
        return None
    midnight = datetime.combine(days[1] + _ONE_DAY, time(), ZoneInfo(timing.timezone))
    return midnight + timedelta(hours=timing.expected_after_hours)


def _date(value: Any, name: str) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except (TypeError, ValueError):
        raise AirflowFailException(f"{name} {value!r} is no date: write it as 2024-03-31") from None


def _of(days: Days | None) -> str:
    if days is None:
        return ""
    return f" for {days[0]}" if days[0] == days[1] else f" from {days[0]} to {days[1]}"
