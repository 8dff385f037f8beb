"""The tasks of backups, drills and restores: commands of the program, and what their answers mean for a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from lakehouse.core.errors import IntegrityError
from lakehouse.orchestration.operators import TABLE, ConfirmOperator, Context, LakehouseOperator, responder

DAMAGED = IntegrityError.exit_code
VERIFIED = Asset(name="backup.verified", uri="x-lakehouse://backup/verified", group="backup")
"""A set was looked at and is whole: only then are old ones removed."""
PLACE = "lakehouse/drills"
"""Where the page has the reports, from Airflow's own root."""
SET = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\Z")
SNAPSHOT = re.compile(r"\d{1,19}\Z")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?\Z")
NAMESPACE = re.compile(r"[a-z][a-z0-9_]*\Z")
EVERYTHING = "everything"
_MOST = 50


class BackupOperator(LakehouseOperator):
    """A task that means nothing where there is no place for backups: it ends as skipped there."""

    def require_place(self) -> None:
        """Skip this task unless a place for backups is configured."""
        from lakehouse.core.settings import load_settings

        if not load_settings().backup_bucket:
            raise AirflowSkipException("there is no place for backups: LAKEHOUSE_BACKUP_BUCKET names it")

    def require_set(self, *, or_base: bool = False) -> None:
        """Skip this task as long as no set is complete: new DAGs run at once, and the first set takes time.

        With ``or_base``, a base backup of the databases is enough.
        """
        self.require_place()
        said = self.run_command(["backup", "status", "--json"], DAMAGED).said
        has_base = or_base and isinstance(said, Mapping) and (said["databases"] or {}).get("base") is not None
        if isinstance(said, Mapping) and said["set"] is None and not has_base:
            raise AirflowSkipException("no backup set is complete yet; `watch_backups` tells people if that lasts")


class BackUpOperator(BackupOperator):
    """The next backup set; one that was cut short is gone on with."""

    def execute(self, context: Context) -> dict[str, Any]:
        self.require_place()
        said = self.run_command(["backup", "create", "--json"]).said
        kept = ("id", "cut_at", "finished_at", "tables", "files", "size_bytes", "new_files", "new_bytes")
        return {name: said[name] for name in kept}


class BaseBackupOperator(BackupOperator):
    """A base backup of the local PostgreSQL. Whoever runs another server backs that up: it is skipped there."""

    def execute(self, context: Context) -> dict[str, Any]:
        from lakehouse.core.settings import load_settings

        self.require_place()
        if not load_settings().is_postgres_ours:
            raise AirflowSkipException(
                "PostgreSQL is not the local stack's, so its log is not archived here: whoever runs it backs it up; "
                "backup sets have the catalog"
            )
        said = self.run_command(["backup", "databases", "--json"]).said
        return {name: said[name] for name in ("id", "finished_at", "size_bytes", "stored_bytes")}


class VerifyOperator(BackupOperator):
    """Looks at the newest set, and at all base backups of the databases.

    Fails with the name of each damaged file; another try would find the same.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[VERIFIED], **kwargs)

    def execute(self, context: Context) -> None:
        self.require_set(or_base=True)
        answer = self.run_command(["backup", "verify", "--json"], DAMAGED)
        if answer.code or not isinstance(answer.said, Mapping):
            _fail_with_names(answer.said, answer.last_lines)
        context["outlet_events"][VERIFIED].extra = {name: answer.said[name] for name in ("set_id", "files", "read")}


class PruneOperator(BackupOperator):
    """Removes the sets that no rule keeps."""

    def execute(self, context: Context) -> None:
        self.require_place()
        said = self.run_command(["backup", "prune", "--yes", "--json"]).said
        for fate in said["sets"]:
            self.log.info("%s", fate)
        if not said["is_removed"]:
            raise AirflowSkipException("every set and base backup is kept by some rule")


class WatchOperator(BackupOperator):
    """Fails while a goal is missed: the last set or drill is too old, a drill failed, a file is damaged.

    The first look of all passes over that there is no set: the first one is being made then.
    """

    def execute(self, context: Context) -> None:
        self.require_place()
        answer = self.run_command(["backup", "status", "--json"], DAMAGED)
        is_first = context.get("prev_start_date_success") is None
        if is_first and isinstance(answer.said, Mapping) and answer.said["set"] is None:
            raise AirflowSkipException("no backup set is complete yet; the next look fails if that lasts")
        if answer.code or not isinstance(answer.said, Mapping):
            words = answer.said["overdue"] if isinstance(answer.said, Mapping) else answer.last_lines
            raise AirflowFailException("\n".join(["backups want a look:", *words]))


class CheckOperator(LakehouseOperator):
    """Looks at the files of the lake itself. Fails with the names of what is missing or damaged."""

    def execute(self, context: Context) -> None:
        answer = self.run_command(["fsck", "--json"], DAMAGED)
        if answer.code:
            _fail_with_names(answer.said, answer.last_lines)


class LookDrillOperator(BackupOperator):
    """What a drill would restore."""

    def execute(self, context: Context) -> dict[str, Any]:
        tables = asked_tables(context["params"]["tables"])
        self.require_set()
        said = self.run_command(["backup", "drill", *tables, "--dry-run", "--json"]).said
        summary = _drill_words(said)
        self.log.info("%s", summary)
        return {"tables": tables, "set": said["set_id"], "summary": summary}


class ApprovalWhereAskedOperator(ApprovalOperator):
    """Waits for a person's approval where a person started the run and wants it so; scheduled runs need none."""

    def execute(self, context: Any) -> Any:
        is_manual = context["dag_run"].run_type == "manual"
        if not (is_manual and context["params"]["approve"]):
            self.log.info("this run needs no approval")
            return None
        return super().execute(context)


class DrillOperator(LakehouseOperator):
    """The drill. Its report is written in any case; where it did not succeed, the task fails with the reasons."""

    def execute(self, context: Context) -> None:
        ti = context["ti"]
        seen = ti.xcom_pull(task_ids="look")
        approved_by = who_approved(ti.xcom_pull(task_ids="approve"))
        words = ["backup", "drill", *seen["tables"], f"--set={seen['set']}", f"--approved-by={approved_by}", "--json"]
        answer = self.run_command(words, DAMAGED, actor=who_started(context))
        if not isinstance(answer.said, Mapping):
            raise AirflowFailException("\n".join(answer.last_lines))
        said = answer.said
        found = {name: said[name] for name in ("id", "set_id", "is_good", "rto_all_seconds", "rpo_seconds")}
        ti.xcom_push(key="return_value", value={**found, "page": f"{PLACE}/{said['id']}"})
        self.log.info("report: %s/%s", PLACE, said["id"])
        if answer.code:
            raise AirflowFailException("\n".join(["the drill failed:", *said["problems"][:_MOST]]))


class RestoreOperator(ConfirmOperator):
    """Restores what was shown and approved; tells of every table that is another now, so that the pipeline goes on."""

    NAMES: ClassVar[tuple[str, ...]] = ("restored", "verified", "seconds_taken", "kept")

    def __init__(self, *, assets_of: Callable[[Sequence[str]], Sequence[Asset]], **kwargs: Any) -> None:
        super().__init__(verb="restore", assets_of=lambda said: assets_of(_tables(said)), **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        said = self.confirm(context)
        return {"tables": _tables(said), **{name: said.get(name) for name in self.NAMES}}

    def about(self, said: Any) -> dict[str, Any]:
        return {"set": said.get("set")}


def _tables(said: Any) -> list[str]:
    return [str(each["table"]) for each in said["tables"]]


class RestoreReportOperator(LakehouseOperator):
    """What was restored, in words, for the log and for whoever asks later."""

    def execute(self, context: Context) -> str:
        ti, params = context["ti"], context["params"]
        seen, done = ti.xcom_pull(task_ids="look"), ti.xcom_pull(task_ids="confirm")
        text = "\n".join(
            [
                f"Restored {params['what']} to {params['when'] or 'the newest backup set'}: {params['reason']}",
                f"Started by {who_started(context)}, approved by {who_approved(ti.xcom_pull(task_ids='approve'))}.",
                "",
                "Planned:",
                seen["summary"],
                "",
                f"Done in {done['seconds_taken']} s; verified: {done['verified']}.",
                f"Tables: {', '.join(done['tables'])}.",
                f"Kept, until somebody drops it: {', '.join(map(str, done['kept'] or ())) or 'nothing'}.",
            ]
        )
        for line in text.splitlines():
            self.log.info("%s", line)
        return text


def asked_tables(value: Any) -> list[str]:
    """The tables that a form names, separated by spaces or commas; none for all. Raises where one is no table."""
    names = re.split(r"[ ,]+", str(value or "").strip(" ,"))
    tables = [name for name in names if name]
    wrong = [name for name in tables if not re.fullmatch(TABLE.pattern.rstrip("$"), name)]
    if wrong or len(tables) > _MOST:
        raise AirflowFailException(f"{value!r} does not name tables, as in silver.dim_customer")
    return tables


def restore_words(params: Mapping[str, Any]) -> list[str]:
    """What a form about a restore means as words of the command. Checked here, whatever let the run pass."""
    what, when = str(params["what"]), str(params["when"] or "")
    is_name = NAMESPACE.match(what) or re.fullmatch(TABLE.pattern.rstrip("$"), what)
    if what != EVERYTHING and not is_name:
        raise AirflowFailException(f"{what!r} is no table or namespace, and not {EVERYTHING}")
    words = ["--all"] if what == EVERYTHING else [what]
    for option, pattern in (("--set", SET), ("--snapshot", SNAPSHOT), ("--at", MOMENT)):
        if pattern.match(when):
            return [*words, f"{option}={when}"]
    if when:
        raise AirflowFailException(f"{when!r} is no backup set, snapshot or time")
    return words


def restore_summary(said: Mapping[str, Any]) -> str:
    """A restore's plan for the person who approves it."""
    if said["is_empty"]:
        return ""
    tables = [
        f"- **{each['table']}**: {_rows(each['rows_before'])} → {_rows(each['rows_after'])} rows"
        + (" (it is not there now)" if each["is_new"] else "")
        for each in said["tables"][:_MOST]
    ]
    more = [f"- and {len(said['tables']) - _MOST} more"] if len(said["tables"]) > _MOST else []
    copy, logs = said["copy"], said["logs"]
    return "\n".join(
        [
            f"From backup set {said['set'] or 'of each table below'}, as of {said['at'] or 'its cut'}:",
            "",
            *tables,
            *more,
            "",
            f"{copy['files']:,} files with {copy['bytes']:,} bytes are copied; {logs['entries']:,} entries of the logs "
            f"and {logs['landed_files']:,} landed files come back. It takes about {said['seconds']:.0f} s. What stands "
            "now is kept under another name. The pipeline goes on from there by itself.",
        ]
    )


def who_approved(answer: Any) -> str:
    """The name of the person who approved; '' where nobody was asked."""
    return "".join(letter for letter in str(responder(answer) or "") if letter.isprintable())[:200]


def who_started(context: Context) -> str:
    """Who started the run, as far as Airflow knows."""
    run = context["dag_run"]
    return f"{run.triggering_user_name or ('the schedule' if run.run_type == 'scheduled' else 'somebody')} (Airflow)"


def _drill_words(said: Mapping[str, Any]) -> str:
    whole = "all" if len(said["tables"]) == said["tables_of_set"] else f"{len(said['tables'])} of"
    return (
        f"Backup set {said['set_id']}, cut at {said['cut_at'][:19]}: {whole} {said['tables_of_set']} tables, "
        f"{said['files']:,} files with {said['size_bytes']:,} bytes are restored into a scratch catalog and compared. "
        "Nothing of the lake is touched."
    )


def _rows(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _fail_with_names(said: Any, last_lines: Sequence[str]) -> None:
    """Fail for good, with the damaged files where the answer has them."""
    found = said if isinstance(said, Mapping) else {}
    bases = {damage["key"]: damage for base in found.get("databases", ()) for damage in base["damages"]}
    damages = [*bases.values(), *found.get("damages", ()), *found.get("others", ())]
    names = [_damage(each) for each in damages[:_MOST]]
    more = [f"and {len(damages) - _MOST} more"] if len(damages) > _MOST else []
    raise AirflowFailException("\n".join([*names, *more, *last_lines]))


def _damage(each: Mapping[str, Any]) -> str:
    what = each.get("key") or each.get("uri") or "a file"
    hurts = ", ".join(each.get("tables") or ()) or "no table"
    repair = f"; {each['repair']}" if each.get("repair") else ""
    return f"{what} ({each.get('kind', 'file')}): {each.get('problem', 'damaged')}; hurts {hurts}{repair}"
