"""Which snapshots may go: by what main said and when, never by their age alone, and never one that is needed."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.contracts.model import Upkeep
from lakehouse.ledger.expiry import Expiry, plan_expiry, without
from lakehouse.ledger.watermark import STAMP_PROPERTY

NOW = datetime(2024, 6, 30, 12, tzinfo=UTC)
WEEK = Upkeep(keep_snapshots="7d", min_snapshots=1)


@dataclass
class Story:
    """A table's metadata, told in the order of its commits. Times are in hours before now."""

    document: dict[str, Any] = field(
        default_factory=lambda: {
            "snapshots": [],
            "snapshot-log": [],
            "refs": {},
            "statistics": [],
            "last-updated-ms": 0,
            "current-snapshot-id": None,
            "kept-as-it-is": {"unknown": 1},
        }
    )

    def commit(self, snapshot_id: int, ago: float, parent: int | None = None, *, is_stamped: bool = True) -> Story:
        summary = {"operation": "append", **({STAMP_PROPERTY: "{}"} if is_stamped else {})}
        found = {
            "snapshot-id": snapshot_id,
            "sequence-number": len(self.document["snapshots"]) + 1,
            "timestamp-ms": millis(ago),
            "summary": summary,
        }
        self.document["snapshots"].append(found if parent is None else {**found, "parent-snapshot-id": parent})
        return self

    def head(self, snapshot_id: int, ago: float) -> Story:
        self.document["current-snapshot-id"] = snapshot_id
        self.document["snapshot-log"].append({"snapshot-id": snapshot_id, "timestamp-ms": millis(ago)})
        self.document["refs"]["main"] = {"snapshot-id": snapshot_id, "type": "branch"}
        self.document["last-updated-ms"] = millis(ago)
        return self

    def ref(self, name: str, snapshot_id: int, kind: str, keep_hours: float | None = None) -> Story:
        age = {} if keep_hours is None else {"max-ref-age-ms": int(keep_hours * 3_600_000)}
        self.document["refs"][name] = {"snapshot-id": snapshot_id, "type": kind, **age}
        return self

    def days(self, *ago: float) -> Story:
        """A publication so many days ago, each on top of the one before; numbered from 1."""
        first = len(self.document["snapshots"])
        for number, each in enumerate(ago, first + 1):
            self.commit(number, 24 * each, number - 1 or None).head(number, 24 * each)
        return self

    def plan(self, policy: Upkeep = WEEK, pins: Mapping[int, str] | None = None) -> Expiry:
        return plan_expiry(self.document, policy, pins or {}, NOW)


def millis(hours_ago: float) -> int:
    return int((NOW - timedelta(hours=hours_ago)).timestamp() * 1000)


def test_nothing_goes_of_an_empty_or_a_young_table() -> None:
    assert Story().plan() == Expiry((), (), {}, False)
    found = Story().days(3, 2, 1).plan()
    assert (found.going, found.pays) == ((), False)


def test_what_main_said_long_ago_goes() -> None:
    found = Story().days(40, 30, 20, 3, 1).plan()
    assert (found.going, found.pays) == ((1, 2), True)
    assert found.kept[3] == "main was at it lately", "main was at it until three days ago, however old it is"


def test_the_last_publications_stay_whatever_their_age() -> None:
    assert Story().days(90, 80, 70, 60).plan().going == (1, 2, 3)
    assert Story().days(90, 80, 70, 60).plan(Upkeep(keep_snapshots="7d", min_snapshots=3)).going == (1,)


def test_steps_of_a_publication_stay_with_it_so_that_ancestry_has_no_holes() -> None:
    story = Story().days(20, 10)
    story.commit(3, 72, 2, is_stamped=False).commit(4, 72, 3).head(4, 72)
    story.commit(5, 24, 4, is_stamped=False).commit(6, 24, 5).head(6, 24)
    assert story.plan().going == (1,)


def test_publications_are_counted_though_the_log_was_cut() -> None:
    """A head that was rolled back goes, and the log with it; what stood before it is as much promised as it was."""
    story = Story().days(90, 80, 70, 60, 50).head(3, 24 * 40)
    story.commit(6, 24 * 30, 3).head(6, 24 * 30)
    policy = Upkeep(keep_snapshots="7d", min_snapshots=3)
    found = story.plan(policy)
    assert found.going == (1, 4, 5)
    after = without(story.document, found, NOW)
    assert [entry["snapshot-id"] for entry in after["snapshot-log"]] == [3, 6]
    assert plan_expiry(after, policy, {}, NOW).going == ()


def test_a_tag_keeps_its_own_snapshot_alone() -> None:
    story = Story().days(60, 50, 40, 30, 20, 1).ref("year", 2, "tag")
    found = story.plan()
    assert (found.going, found.kept[2]) == ((1, 3, 4), "tag year")
    assert without(story.document, found, NOW)["refs"].keys() == {"main", "year"}


def test_a_tag_whose_time_is_over_goes_with_its_snapshot() -> None:
    story = Story().days(60, 50, 40, 20, 1).ref("old", 2, "tag", 24).ref("good", 3, "tag", 24 * 365)
    found = story.plan()
    assert (found.going, found.tags) == ((1, 2), ("old",))
    assert without(story.document, found, NOW)["refs"].keys() == {"main", "good"}


def test_a_branch_keeps_what_main_does_not_have() -> None:
    story = Story().days(60, 50, 40)
    story.commit(10, 1200, 2, is_stamped=False).commit(11, 1200, 10).ref("attempt_x", 11, "branch", 1)
    story.commit(4, 24, 3).head(4, 24)
    found = story.plan()
    assert (found.going, found.tags) == ((1,), ()), "branches are housekeeping's, not expiry's"
    assert {10, 11, 2} <= found.kept.keys()


def test_what_a_mart_was_made_of_stays_with_all_that_it_has_not_read() -> None:
    story = Story().days(60, 50, 40, 30, 20, 1)
    found = story.plan(pins={3: "gold.sales was made of it"})
    assert (found.going, found.kept[3]) == ((1, 2), "gold.sales was made of it")
    assert found.kept.keys() == {3, 4, 5, 6}
    assert story.plan(pins={99: "a snapshot that is gone already"}).going == (1, 2, 3, 4)


def test_the_last_word_of_what_was_consumed_is_never_lost() -> None:
    """Another tool committed on top, many times, and our stamp is far behind."""
    story = Story().days(90)
    for number in range(2, 8):
        story.commit(number, 24 * (60 - number), number - 1, is_stamped=False).head(number, 24 * (60 - number))
    assert story.plan().going == ()
    story.ref("tagged", 4, "tag").commit(8, 2, 7).head(8, 2).commit(9, 2, 8).head(9, 1.5)
    found = story.plan(Upkeep(keep_snapshots="1h", min_snapshots=1))
    assert found.going == (5, 6, 7, 8), "the tag's word is in the first snapshot"


def test_a_head_that_was_rolled_back_stays_as_long_as_any_other() -> None:
    story = Story().days(60, 50, 40).head(2, 24)
    found = story.plan()
    assert found.going == (1,) and found.kept[3] == "main was at it lately"
    later = Story().days(60, 50, 40).head(2, 24 * 9).plan()
    assert later.going == (1, 3)


def test_one_that_main_came_back_to_is_as_young_as_that() -> None:
    assert Story().days(60, 50, 40, 30).head(1, 24 * 20).plan().going == (2, 3, 4)


def test_it_waits_until_it_pays() -> None:
    daily = Story().days(*range(40, 0, -1))
    found = daily.plan(Upkeep(keep_snapshots="30d"))
    assert len(found.going) == 9 and found.pays
    hourly = Story().days(*(hour / 24 for hour in range(24 * 8, 0, -1)))
    few = hourly.plan(Upkeep(keep_snapshots="190h"))
    assert few.going and not few.pays
    assert Story().days(9, 7.5, *[1] * 20).plan().pays is False
    assert Story().days(10, 8.2, *[1] * 20).plan().pays, "what has been waiting for a day goes"


def test_the_log_begins_after_what_is_gone() -> None:
    """Else a time between would show what stood before it."""
    story = Story().days(60, 50, 40, 30, 1).ref("tagged", 2, "tag")
    found = without(story.document, story.plan(), NOW)
    assert [entry["snapshot-id"] for entry in found["snapshot-log"]] == [4, 5]
    assert [each["snapshot-id"] for each in found["snapshots"]] == [2, 4, 5]
    assert found["kept-as-it-is"] == {"unknown": 1}
    assert found["last-updated-ms"] == millis(0)


def test_statistics_go_with_their_snapshot() -> None:
    story = Story().days(60, 50, 1)
    story.document["statistics"] = [{"snapshot-id": 1}, {"snapshot-id": 3}]
    assert without(story.document, story.plan(), NOW)["statistics"] == [{"snapshot-id": 3}]
    assert "partition-statistics" not in without(story.document, story.plan(), NOW)


def test_the_oldest_go_first_where_not_all_may() -> None:
    story = Story().days(60, 50, 40, 30, 20, 1).ref("old", 1, "tag", 1)
    found = story.plan().only(2)
    assert (found.going, found.tags) == ((1, 2), ())


@pytest.mark.parametrize("keep", ["1h", "9000d"])
def test_ten_thousand_snapshots_are_no_trouble(keep: str) -> None:
    """Each is looked at once, and not once for each of the others."""
    story = Story().days(*(number / 100 for number in range(10_000, 0, -1)))
    began = time.process_time()
    found = story.plan(Upkeep(keep_snapshots=keep, min_snapshots=3), {9_000: "gold.sales was made of it"})
    assert time.process_time() - began < 3
    assert len(found.going) == (8_999 if keep == "1h" else 0)


@dataclass(frozen=True)
class Step:
    """What happens to a table next: a publication of some commits, a rollback, a tag, a branch."""

    kind: str
    hours: float
    at: int
    commits: int
    is_stamped: bool


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["publish", "publish", "publish", "rollback", "tag", "branch"]),
        st.floats(0.1, 200),
        st.integers(0, 30),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=25,
)
POLICIES = st.builds(
    lambda keep, least: Upkeep(keep_snapshots=f"{keep}h", min_snapshots=least), st.integers(1, 900), st.integers(1, 6)
)


def told(steps: Sequence[Step]) -> Story:
    story, ago, number, head, heads = Story(), sum(step.hours for step in steps), 0, None, []
    for step in steps:
        ago -= step.hours
        if step.kind == "publish" or head is None:
            for piece in range(step.commits):
                number += 1
                is_last = piece == step.commits - 1
                story.commit(number, ago, head, is_stamped=is_last and (step.is_stamped or number == 1))
                head = number
            story.head(head, ago)
            heads.append(head)
        elif step.kind == "rollback":
            head = heads[step.at % len(heads)]
            story.head(head, ago)
        elif step.kind == "tag":
            keep = None if step.is_stamped else step.at * 24
            story.ref(f"t{len(story.document['refs'])}", 1 + step.at % number, "tag", keep)
        else:
            number += 1
            story.commit(number, ago, head, is_stamped=False).ref(f"b{number}", number, "branch")
    return story


def chain(document: Mapping[str, Any], snapshot_id: int | None) -> list[int]:
    known = {each["snapshot-id"]: each for each in document["snapshots"]}
    found = []
    while snapshot_id in known:
        found.append(snapshot_id)
        snapshot_id = known[snapshot_id].get("parent-snapshot-id")
    return found


def last_word(document: Mapping[str, Any], snapshot_id: int) -> int | None:
    """The nearest ancestor with a stamp."""
    stamped = {each["snapshot-id"] for each in document["snapshots"] if STAMP_PROPERTY in each["summary"]}
    return next((each for each in chain(document, snapshot_id) if each in stamped), None)


@given(STEPS, POLICIES, st.integers(0, 40))
def test_what_is_needed_stays(steps: Sequence[Step], policy: Upkeep, pinned: int) -> None:
    story = told(steps)
    before = copy.deepcopy(story.document)
    found = story.plan(policy, {pinned: "pinned"} if pinned else {})
    after = without(story.document, found, NOW)
    assert story.document == before, "planning changes nothing"
    left = {each["snapshot-id"] for each in after["snapshots"]}
    every = {each["snapshot-id"] for each in before["snapshots"]}
    assert left | set(found.going) == every and left == found.kept.keys() and not left & set(found.going)
    assert {ref["snapshot-id"] for ref in after["refs"].values()} <= left
    assert after["refs"].keys() | set(found.tags) == before["refs"].keys() and "main" not in found.tags
    assert pinned not in every or pinned in left
    if before["current-snapshot-id"] is None:
        return
    assert before["current-snapshot-id"] in left
    for needed in {before["current-snapshot-id"], *(ref["snapshot-id"] for ref in after["refs"].values())}:
        assert last_word(after, needed) == last_word(before, needed)
    since = millis(int(policy.keep_snapshots[:-1]))
    log = before["snapshot-log"]
    for entry, following in zip(log, [*log[1:], None], strict=True):
        if following is None or following["timestamp-ms"] >= since:
            assert entry["snapshot-id"] in left, "main was at it within the time that is promised"
            assert last_word(after, entry["snapshot-id"]) == last_word(before, entry["snapshot-id"])
    main = chain(before, before["current-snapshot-id"])
    assert [each for each in main if each in chain(after, after["current-snapshot-id"])] == main[
        : len(chain(after, after["current-snapshot-id"]))
    ]
    assert all(entry["snapshot-id"] in left for entry in after["snapshot-log"])


@given(STEPS, POLICIES)
def test_a_second_time_nothing_goes(steps: Sequence[Step], policy: Upkeep) -> None:
    story = told(steps)
    after = without(story.document, story.plan(policy), NOW)
    again = plan_expiry(after, policy, {}, NOW)
    assert (again.going, again.tags, again.pays) == ((), (), False)


@given(STEPS)
def test_what_is_no_longer_needed_goes(steps: Sequence[Step]) -> None:
    """With nothing promised, only heads of refs, their last words, and what lies between in main are left."""
    story = told([*steps, Step("publish", 1, 0, 1, True)])
    later = NOW + timedelta(days=4000)
    found = plan_expiry(story.document, WEEK, {}, later)
    refs = {name: ref for name, ref in story.document["refs"].items() if name not in found.tags}
    if refs.keys() == {"main"}:
        assert set(found.kept) == set(chain(story.document, last_word(story.document, refs["main"]["snapshot-id"]))[:1])


@pytest.mark.parametrize("name", ["snapshots", "snapshot-log", "refs"])
def test_metadata_may_lack_what_is_empty(name: str) -> None:
    document = {key: value for key, value in Story().document.items() if key != name}
    assert plan_expiry(document, WEEK, {}, NOW).going == ()
