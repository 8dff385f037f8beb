"""A rollback of one table: what it undoes by the logs, and what it does to metadata; no JVM, no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from moto import mock_aws

from lakehouse.core.errors import ConcurrentCommit, IntegrityError, SettingsError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine import travel
from lakehouse.engine.travel import Tagging, roll_back, tag_table, undo_tag
from lakehouse.ledger.decisions import Decision, append_decision, read_decisions
from lakehouse.ledger.log import Batch, append
from lakehouse.ledger.pending import Ledger
from lakehouse.ledger.points import publications
from lakehouse.ledger.rollback import Rollback, Undoing, plan_rollback, undoing
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import (
    ATTEMPT_PROPERTY,
    STAMP_PROPERTY,
    Baseline,
    Consumed,
    Head,
    Stamp,
    load_table,
    read_head,
)

SOURCE = "crm.catalogue"
TABLE = TableName("silver", "dim_listed")
QUARANTINE = TableName("quarantine", "dim_listed")
AT = datetime(2024, 4, 1, tzinfo=UTC)
NOW = datetime.now(UTC) + timedelta(minutes=1)
SCHEMA = pa.schema([("id", pa.int64())])


# -- by the logs


def batch(number: int, unit: int = 0, kind: str = "slice") -> Batch:
    return Batch(SOURCE, number, date(2024, 4, 1) + timedelta(unit), kind, (), None, None, AT)  # type: ignore[arg-type]


def decision(number: int, action: str, *batches: int, table: str | None = None) -> Decision:
    return Decision(SOURCE, number, action, batches, "why", "who", AT, table)  # type: ignore[arg-type]


def head(through: int, decisions: int = 0, **more: Any) -> Head:
    return Head(1, Stamp("a", "", {SOURCE: Consumed(through, decisions)}, **more))


def days(count: int, *decisions: Decision) -> Ledger:
    """A slice for each day."""
    return Ledger(SOURCE, tuple(batch(number, number) for number in range(1, count + 1)), decisions)


def undo(ledger: Ledger, now: Head, then: Head) -> Undoing:
    return undoing(ledger, str(TABLE), now, then)


def decided(ledger: Ledger, found: Undoing) -> Ledger:
    """The logs with what a rollback decides."""
    drafts = [d for d in (("rollback", found.hold), ("release", found.release)) if d[1]]
    made = [decision(ledger.end.decisions + n, a, *b, table=str(TABLE)) for n, (a, b) in enumerate(drafts, start=1)]
    return replace(ledger, decisions=(*ledger.decisions, *made))


def test_what_a_table_loses_is_held_and_what_landed_since_is_taken() -> None:
    found = undo(days(6), head(5), head(3))
    assert (found.lost, found.hold, found.takes, found.drops) == ((4, 5), (4, 5), (6,), ())
    assert (found.was_through, found.through) == (5, 3)


def test_what_the_lost_batch_replaced_counts_again() -> None:
    ledger = Ledger(SOURCE, (batch(1), batch(2), batch(3, 1)), ())
    found = undo(ledger, head(3), head(1))
    assert (found.lost, found.regained, found.release, found.takes) == ((2, 3), (1,), (), ())
    assert decided(ledger, found).live(decided(ledger, found).end, str(TABLE)).live == {1}


def test_what_a_person_decided_since_stays_decided() -> None:
    ledger = days(4, decision(1, "hold", 1), decision(2, "discard", 3))
    found = undo(ledger, head(4, 1), head(2))
    assert (found.lost, found.hold) == ((3, 4), (4,))
    assert (found.regained, found.release, found.drops) == ((1,), (), (1,))


def test_what_a_rule_holds_is_judged_again() -> None:
    found = undo(days(3), head(3, held={2: "too few"}), head(1))
    assert (found.lost, found.takes) == ((3,), (2,))


def test_a_table_that_never_took_anything_loses_all() -> None:
    found = undo(days(2), head(2), Head(1, Stamp("created")))
    assert (found.hold, found.through, found.takes) == ((1, 2), 0, ())


@st.composite
def logs(draw: Any) -> tuple[Ledger, Head, Head]:
    """Logs, and two positions in them, the later first."""
    kind = draw(st.sampled_from(["slice", "increment"]))
    units = draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    batches = tuple(batch(number, unit, kind) for number, unit in enumerate(units, start=1))
    acts = st.tuples(st.sampled_from(["hold", "release", "discard"]), st.integers(1, len(batches)))
    said = draw(st.lists(acts, max_size=5))
    decisions = tuple(decision(number, action, about) for number, (action, about) in enumerate(said, start=1))
    through = sorted(draw(st.tuples(st.integers(0, len(batches)), st.integers(0, len(batches)))))
    read = sorted(draw(st.tuples(st.integers(0, len(decisions)), st.integers(0, len(decisions)))))
    return Ledger(SOURCE, batches, decisions), head(through[1], read[1]), head(through[0], read[0])


@given(logs())
def test_no_next_run_publishes_what_was_undone(drawn: tuple[Ledger, Head, Head]) -> None:
    ledger, now, then = drawn
    found = undo(ledger, now, then)
    after = decided(ledger, found)
    assert not set(found.lost) & after.live(after.end, str(TABLE)).live
    assert not set(found.lost) & set(found.takes)
    other = after.live(after.end, "silver.other").live
    assert other == ledger.live(ledger.end, "silver.other").live  # no other table is concerned


@given(logs())
def test_a_rollback_that_is_undone_leaves_nothing_behind(drawn: tuple[Ledger, Head, Head]) -> None:
    ledger, now, then = drawn
    after = decided(ledger, undo(ledger, now, then))
    back = undo(after, then, now)
    # What the later head does not have, as it was held then, leaves with it: that is undone as well.
    assume(not back.hold)
    again = decided(after, back)
    assert again.live(again.end, str(TABLE)) == ledger.live(ledger.end, str(TABLE))


@given(logs())
def test_a_rollback_that_died_before_it_moved_main_decides_nothing_twice(drawn: tuple[Ledger, Head, Head]) -> None:
    ledger, now, then = drawn
    after = decided(ledger, undo(ledger, now, then))
    assert undo(after, now, then).hold == ()


# -- in metadata


@dataclass
class Place:
    """A catalog without a server, the logs on moto's S3, and what jobs and people do to them."""

    settings: Settings
    catalog: Any
    store: ObjectStore

    def publish(self, attempt: str, table: TableName = TABLE, rows: int = 1, **stamp: Any) -> int:
        """One publication, as a job makes it; returns the snapshot."""
        found = load_table(self.catalog, table) or self.catalog.create_table(str(table), schema=SCHEMA)
        summary = {STAMP_PROPERTY: Stamp(attempt, **stamp).to_json(), ATTEMPT_PROPERTY: attempt}
        found.append(pa.table({"id": range(rows)}, SCHEMA), snapshot_properties=summary)
        return int(read_head(self.catalog, table).snapshot_id or 0)

    def take(self, attempt: str, through: int, decisions: int = 0, refused: int = 0) -> int:
        """Silver takes some batches, and refuses rows of them."""
        if refused:
            self.publish(attempt, QUARANTINE, refused)
        return self.publish(attempt, inputs={SOURCE: Consumed(through, decisions)})

    def land(self, count: int) -> None:
        for _ in range(count):
            append(self.store, batch(0, len(read_batches(self.store))))

    def plan(self, to: object, table: TableName = TABLE) -> Rollback:
        return plan_rollback(self.catalog, self.store, table, str(to))

    def roll_back(self, plan: Rollback) -> dict[TableName, str]:
        return roll_back(self.settings, self.catalog, self.store, plan, "bad data", "ada", NOW)

    def head(self, table: TableName = TABLE) -> Any:
        return read_head(self.catalog, table).snapshot_id


def read_batches(store: ObjectStore) -> list[Batch]:
    from lakehouse.ledger.log import read_log

    return read_log(store, SOURCE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from pyiceberg.catalog.sql import SqlCatalog

    @contextmanager
    def unlocked(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(check=lambda: None)

    monkeypatch.setattr(travel, "table_locks", unlocked)
    catalog = SqlCatalog("lakehouse", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    for namespace in ("bronze", "silver", "quarantine", "gold", "ops"):
        catalog.create_namespace(namespace)
    with mock_aws():
        settings = Settings(s3_access_key_id="a", s3_secret_access_key="b", s3_endpoint="")  # type: ignore[arg-type]
        store = ObjectStore.open(settings)
        store.client.create_bucket(Bucket=store.bucket)
        yield Place(settings, catalog, store)
    catalog.close()


@pytest.fixture
def three(place: Place) -> tuple[Place, list[int]]:
    """A table that took three batches in three publications, and refused a row of the third."""
    place.land(3)
    place.publish("created-1")
    place.publish("created-2", QUARANTINE, 0)
    return place, [place.take(f"a{n}", n, refused=n == 3) for n in (1, 2, 3)]


def test_main_and_quarantine_go_back_and_the_old_heads_are_kept(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    refused, empty = place.head(QUARANTINE), publications(place.catalog.load_table(str(QUARANTINE)))[0].snapshot
    plan = place.plan(heads[1])
    assert plan.undoing is not None and plan.undoing.hold == (3,) and plan.rows == (4, 3)
    tags = place.roll_back(plan)
    assert (place.head(), place.head(QUARANTINE)) == (heads[1], empty.snapshot_id)
    table = place.catalog.load_table(str(TABLE))
    assert table.metadata.refs[tags[TABLE]].snapshot_id == heads[2]
    assert place.catalog.load_table(str(QUARANTINE)).metadata.refs[tags[QUARANTINE]].snapshot_id == refused
    assert [point.snapshot.snapshot_id for point in publications(table)][-2:] == [heads[2], heads[1]]
    assert len(table.scan().to_arrow()) == 3
    assert read_head(place.catalog, TABLE).consumed(SOURCE).through == 2
    [said] = read_decisions(place.store, SOURCE)
    assert (said.action, said.batches, said.table, said.by) == ("rollback", (3,), str(TABLE), "ada")


def test_a_rollback_is_taken_back_by_its_tag(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    refused = place.head(QUARANTINE)
    tags = place.roll_back(place.plan(heads[0]))
    back = place.plan(tags[TABLE])
    assert back.undoing is not None and back.undoing.release == (2, 3)
    place.roll_back(back)
    assert (place.head(), place.head(QUARANTINE)) == (heads[2], refused)
    assert [said.action for said in read_decisions(place.store, SOURCE)] == ["rollback", "release"]
    assert place.plan(heads[2]).is_empty


def test_quarantine_of_a_publication_that_died_half_way_is_no_obstacle(three: tuple[Place, list[int]]) -> None:
    place, _ = three
    place.land(2)
    died = place.publish("died", QUARANTINE)
    before = place.take("a4", 4, refused=1)
    refused = place.head(QUARANTINE)
    place.take("a5", 5, refused=1)
    assert {move.table: move.becomes for move in place.plan(before).moves} == {QUARANTINE: refused, TABLE: before}
    assert died != refused


def test_the_tag_of_the_old_head_is_kept_for_thirty_days_from_now(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    name = place.roll_back(place.plan(heads[0]))[TABLE]
    assert name == undo_tag(heads[2], NOW)
    table = place.catalog.load_table(str(TABLE))
    ends = table.snapshot_by_id(heads[2]).timestamp_ms + table.metadata.refs[name].max_ref_age_ms
    assert datetime.fromtimestamp(ends / 1000, UTC) - NOW == pytest.approx(timedelta(days=30), abs=timedelta(seconds=1))


@pytest.mark.parametrize("point", [f"decide.after_log@{SOURCE}", f"rollback.before_swap@{TABLE}"])
def test_whoever_dies_between_the_decision_and_the_swap_has_lost_nothing(
    three: tuple[Place, list[int]], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    place, heads = three
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"{point}=raise")
    with pytest.raises(FailpointHit):
        place.roll_back(place.plan(heads[1]))
    assert place.head() == heads[2] and len(read_decisions(place.store, SOURCE)) == 1
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    place.roll_back(place.plan(heads[1]))
    assert place.head() == heads[1] and len(read_decisions(place.store, SOURCE)) == 1


def test_whoever_dies_before_or_after_everything_has_done_nothing_or_all(
    three: tuple[Place, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, heads = three
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"decide.before_log@{SOURCE}=raise")
    with pytest.raises(FailpointHit):
        place.roll_back(place.plan(heads[1]))
    assert place.head() == heads[2] and read_decisions(place.store, SOURCE) == []
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"rollback.after_swap@{TABLE}=raise")
    with pytest.raises(FailpointHit):
        place.roll_back(place.plan(heads[1]))
    assert place.head() == heads[1] and place.plan(heads[1]).is_empty


@pytest.mark.parametrize("change", ["published", "decided", "refused"])
def test_what_changed_since_the_plan_is_looked_at_again(three: tuple[Place, list[int]], change: str) -> None:
    place, heads = three
    plan = place.plan(heads[1])
    if change == "published":
        place.take("a4", 3)
    elif change == "decided":
        append_decision(place.store, Decision(SOURCE, 0, "hold", (3,), "why", "who", AT))
    else:
        place.publish("other", QUARANTINE)
    before, said = place.head(), read_decisions(place.store, SOURCE)
    with pytest.raises(ConcurrentCommit, match="changed since the rollback was planned"):
        place.roll_back(plan)
    assert (place.head(), read_decisions(place.store, SOURCE)) == (before, said)


def test_what_lands_or_is_tagged_meanwhile_changes_nothing(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    plan = place.plan(heads[1])
    place.land(1)
    tag_table(place.settings, place.catalog, TABLE, choose(make={"mine": heads[0]}), NOW)
    place.roll_back(plan)
    assert place.head() == heads[1]
    assert "mine" in place.catalog.load_table(str(TABLE)).metadata.refs


def test_a_tool_without_our_lock_loses_nothing(three: tuple[Place, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    place, heads = three
    plan = place.plan(heads[1])
    written = travel.write_document

    def late(*arguments: Any) -> Any:
        swap = written(*arguments)
        place.publish("foreign")
        return swap

    monkeypatch.setattr(travel, "write_document", late)
    with pytest.raises(ConcurrentCommit, match="takes no lock"):
        place.roll_back(plan)
    assert read_head(place.catalog, TABLE).stamp == Stamp("foreign")


def test_bronze_is_read_again_and_nothing_is_decided(place: Place) -> None:
    bronze = TableName("bronze", "crm_catalogue")
    place.land(2)
    heads = [place.publish(f"a{n}", bronze, inputs={SOURCE: Consumed(n)}) for n in (1, 2)]
    plan = place.plan(heads[0], bronze)
    assert plan.undoing is not None and (plan.undoing.takes, plan.undoing.hold) == ((2,), ())
    place.roll_back(plan)
    assert place.head(bronze) == heads[0] and read_decisions(place.store, SOURCE) == []


def test_a_mart_has_no_batches(place: Place) -> None:
    mart = TableName("gold", "sales")
    heads = [place.publish(f"a{n}", mart, upstream={"silver.x": f"a{n}"}) for n in (1, 2)]
    plan = place.plan(heads[0], mart)
    assert plan.undoing is None
    place.roll_back(plan)
    assert place.head(mart) == heads[0]


def test_a_step_of_an_attempt_was_never_published(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    table = place.catalog.load_table(str(TABLE))
    table.manage_snapshots().create_branch(heads[0], "attempt_x").commit()
    table.append(pa.table({"id": [7]}, SCHEMA), branch="attempt_x")
    with pytest.raises(SettingsError, match="never published"):
        place.plan("attempt_x")


def test_the_stamp_has_to_be_there(place: Place) -> None:
    table = place.catalog.create_table(str(TABLE), schema=SCHEMA)
    table.append(pa.table({"id": [1]}, SCHEMA))
    first = place.head()
    place.take("a1", 1)
    with pytest.raises(IntegrityError, match="its stamp has expired"):
        place.plan(first)


def test_nothing_goes_back_behind_a_trim_or_a_replaced_column(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    trimmed = Baseline("2024-01-01T00:00:00+00:00", 1, 3, "f")
    place.publish("trim", inputs={SOURCE: Consumed(3)}, baseline=trimmed)
    with pytest.raises(SettingsError, match="before its source was trimmed"):
        place.plan(heads[0])
    renamed = place.publish("adopted", inputs={SOURCE: Consumed(3)}, baseline=replace(trimmed, fingerprint="g"))
    assert place.plan(renamed).is_empty
    place.plan(publications(place.catalog.load_table(str(TABLE)))[-2].snapshot.snapshot_id)

    table = place.catalog.load_table(str(TABLE))
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.add_column("name", _string())
        change.delete_column("id")
    with pytest.raises(SettingsError, match="id of then is not a column of now"):
        place.plan(renamed)


def _string() -> Any:
    from pyiceberg.types import StringType

    return StringType()


@pytest.mark.parametrize(("table", "why"), [("quarantine.dim_listed", "goes along with"), ("ops.runs", "own record")])
def test_tables_that_do_not_go_back_by_themselves(place: Place, table: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        place.plan("2024-01-01", TableName.parse(table))


# -- tags


def choose(**change: Any) -> Callable[[Any], Tagging]:
    return lambda _: Tagging(**change)


def tag(place: Place, **change: Any) -> Mapping[str, Any]:
    tag_table(place.settings, place.catalog, TABLE, choose(**change), NOW)
    refs: Mapping[str, Any] = place.catalog.load_table(str(TABLE)).metadata.refs
    return refs


def test_tags_come_and_go_and_main_stays(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    refs = tag(place, make={"mine": heads[0]})
    assert (refs["mine"].snapshot_id, refs["mine"].max_ref_age_ms) == (heads[0], None)
    refs = tag(place, make={"other": heads[1]}, drop=["mine"])
    assert sorted(refs) == ["main", "other"] and place.head() == heads[2]
    assert place.plan("other").point.snapshot.snapshot_id == heads[1]


def test_metadata_that_pyiceberg_does_not_know_is_kept(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    before = _document(place)
    tag(place, make={"mine": heads[0]})
    after = _document(place)
    assert after["metadata-log"][:-1] == before.get("metadata-log", [])
    assert after["last-updated-ms"] > before["last-updated-ms"]
    changed = ("refs", "metadata-log", "last-updated-ms")
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


def _document(place: Place) -> Any:
    location = place.catalog.load_table(str(TABLE)).metadata_location
    return json.loads(Path(location.removeprefix("file://")).read_text("utf-8"))
