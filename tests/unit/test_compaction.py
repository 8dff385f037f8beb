"""What is worth rewriting: a policy that keeps tables cheap to read, and does not rewrite them again and again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.contracts.model import Upkeep
from lakehouse.ledger.compaction import (
    MOST_MANIFESTS,
    OPEN_BYTES,
    STEP_BYTES,
    Compaction,
    fresh_cost,
    manifests_pay,
    plan_compaction,
    scan_cost,
)
from lakehouse.ledger.layout import DataFile, Layout, Partition

KIB, MIB = 1024, 1024 * 1024
TARGET = 128 * MIB
POLICY = Upkeep()
ROWS = 1000


def month(number: int) -> Partition:
    return (0, (number,))


def layout(*sizes: int, partition: int = 0, manifests: tuple[int, ...] = ()) -> Layout:
    files = [DataFile(f"{partition}-{n}", month(partition), size, ROWS) for n, size in enumerate(sizes)]
    return Layout(tuple(files), manifests, TARGET)


def rewritten(before: Layout, plan: Compaction) -> list[DataFile]:
    """What Iceberg's planner picks, given the plan's limits."""
    worn = {file.path for file in before.files if file.deleted_share > plan.deleted_share}
    picked = [file for file in before.files if file.path in worn or file.size_bytes < plan.below_bytes]
    groups: dict[Partition, list[DataFile]] = {}
    for file in picked:
        groups.setdefault(file.partition, []).append(file)
    return [file for group in groups.values() if len(group) > 1 or group[0].path in worn for file in group]


def carry_out(before: Layout, plan: Compaction, serial: Iterator[int]) -> Layout:
    """The table after Iceberg did it."""
    gone = {file.path for file in rewritten(before, plan)}
    groups: dict[Partition, list[DataFile]] = {}
    for file in before.files:
        if file.path in gone:
            groups.setdefault(file.partition, []).append(file)
    new = []
    for partition, group in groups.items():
        size, rows = int(sum(f.live_bytes for f in group)), sum(f.live_rows for f in group)
        pieces = max(1, -(-size // TARGET)) if rows else 0
        new += [DataFile(f"c{next(serial)}", partition, size // pieces, rows // pieces) for _ in range(pieces)]
    return replace(before, files=(*(f for f in before.files if f.path not in gone), *new))


def test_a_fresh_table_is_left_alone() -> None:
    assert plan_compaction(layout(), POLICY) is None
    assert plan_compaction(layout(10), POLICY) is None
    assert plan_compaction(layout(TARGET, TARGET, 5 * MIB), POLICY) is None
    assert scan_cost(layout(10)) == 1


def test_many_small_files_become_one() -> None:
    before = layout(*[10 * KIB] * 200)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and (plan.files, plan.bytes, plan.step_files) == (200, 200 * 10 * KIB, None)
    assert plan.cost > 5 and plan.becomes == pytest.approx(1)


def test_a_few_small_files_beside_large_ones_cost_too_little() -> None:
    assert plan_compaction(layout(*[TARGET] * 20, *[MIB] * 30), POLICY) is None


def test_large_files_are_not_rewritten_with_small_ones() -> None:
    before = layout(*[TARGET] * 2, *[MIB] * 200)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and (plan.files, plan.bytes) == (200, 200 * MIB)


def test_the_smallest_come_first_and_a_large_one_waits() -> None:
    before = layout(30 * MIB, *[MIB] * 20)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and (plan.files, plan.below_bytes) == (20, MIB + 1)


def test_files_that_are_alone_in_their_partition_are_left() -> None:
    files = [DataFile(f"{n}", month(n), KIB, ROWS) for n in range(100)]
    assert plan_compaction(Layout(tuple(files), (), TARGET), POLICY) is None
    more = [DataFile(f"m{n}", month(1), KIB, ROWS) for n in range(200)]
    before = Layout((*files, *more), (), TARGET)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and plan.files == 201
    assert {file.partition for file in rewritten(before, plan)} == {month(1)}


def test_deleted_rows_pay_only_where_they_are_many() -> None:
    worn = [DataFile(f"w{n}", month(0), 100 * MIB, ROWS, deleted=400) for n in range(2)]
    good = [DataFile(f"g{n}", month(0), 100 * MIB, ROWS, deleted=10) for n in range(2)]
    before = Layout((*worn, *good), (), TARGET)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and (plan.files, plan.below_bytes) == (2, 0)
    assert {file.path for file in rewritten(before, plan)} == {"w0", "w1"}
    assert plan_compaction(before, Upkeep(max_scan_cost=1.5)) is None


def test_files_that_are_a_little_worn_go_where_nothing_else_helps() -> None:
    """None of them is beyond the policy's share, and all together cost more than the policy's scan."""
    worn = [DataFile(f"w{n}", month(0), 100 * MIB, ROWS, deleted=deleted) for n, deleted in enumerate([149, 148, 147])]
    before = Layout(tuple(worn), (), TARGET)
    assert all(file.deleted_share < POLICY.max_deleted_share for file in worn)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and 0.148 < plan.deleted_share < 0.149 and plan.becomes <= POLICY.max_scan_cost
    assert {file.path for file in rewritten(before, plan)} == {"w0"}, "the most worn first, and no more than it takes"
    small = plan_compaction(Layout((*worn[:1], *layout(*[MIB] * 90).files), (), TARGET), POLICY)
    assert small is not None and small.deleted_share == POLICY.max_deleted_share, "small files are enough here"


def test_a_file_whose_rows_are_all_deleted_goes() -> None:
    before = Layout((DataFile("a", month(0), 60 * MIB, ROWS, deleted=ROWS), *layout(60 * MIB).files), (), TARGET)
    plan = plan_compaction(before, POLICY)
    assert plan is not None and plan.files == 1 and plan.becomes == pytest.approx(1)


def test_much_is_done_in_steps() -> None:
    plan = plan_compaction(layout(*[2 * MIB] * 1500), POLICY)
    assert plan is not None and plan.step_files is not None
    assert plan.step_files * 2 * MIB <= STEP_BYTES < (plan.step_files + 1) * 2 * MIB


def test_manifests_pay_when_they_are_many_more_than_needed() -> None:
    assert not manifests_pay(layout(1, manifests=()))
    assert not manifests_pay(layout(1, manifests=(10_000,) * MOST_MANIFESTS))
    assert manifests_pay(layout(1, manifests=(10_000,) * (MOST_MANIFESTS + 1)))
    assert not manifests_pay(layout(1, manifests=(8 * MIB,) * 100))


def files() -> st.SearchStrategy[DataFile]:
    def make(number: int, partition: int, size: int, deleted: int) -> DataFile:
        return DataFile(f"f{number}", month(partition), size, ROWS, deleted)

    return st.builds(
        make,
        st.integers(0, 10**9),
        st.integers(0, 3),
        st.one_of(st.integers(1, 2 * MIB), st.integers(MIB, 300 * MIB)),
        st.one_of(st.just(0), st.integers(0, ROWS)),
    )


LAYOUTS = st.builds(
    lambda found: Layout(tuple(found), (), TARGET), st.lists(files(), max_size=40, unique_by=lambda file: file.path)
)
POLICIES = st.builds(
    lambda cost, share: Upkeep(max_scan_cost=cost, max_deleted_share=share),
    st.floats(1.01, 3),
    st.floats(0.01, 1),
)


@given(LAYOUTS, POLICIES)
def test_a_plan_is_what_it_says(before: Layout, policy: Upkeep) -> None:
    """What Iceberg picks by its limits is what was planned, it is needed, it helps, and it rewrites no row that stays
    where it is."""
    plan = plan_compaction(before, policy)
    if plan is None:
        return
    picked = rewritten(before, plan)
    assert (len(picked), sum(file.size_bytes for file in picked)) == (plan.files, plan.bytes)
    assert plan.cost > policy.max_scan_cost and plan.becomes < plan.cost
    for file in picked:
        assert file.size_bytes < 0.75 * TARGET or file.deleted_share > plan.deleted_share > 0
    assert plan.deleted_share <= policy.max_deleted_share
    after = carry_out(before, plan, iter(range(1000)))
    assert scan_cost(after) <= plan.cost
    assert sum(file.live_rows for file in after.files) <= before.live_rows


@given(LAYOUTS, POLICIES)
def test_it_comes_to_an_end(before: Layout, policy: Upkeep) -> None:
    """Planned and done again and again, a table is left alone after a few times."""
    table, serial = before, iter(range(10**6))
    for _ in range(12):
        plan = plan_compaction(table, policy)
        if plan is None:
            return
        table = carry_out(table, plan, serial)
    raise AssertionError("it never ends")


@given(LAYOUTS)
def test_nothing_that_would_help_is_missed(before: Layout) -> None:
    """Where no plan is made, the table is cheap, or only large files and lone ones are left."""
    if plan_compaction(before, POLICY) is not None or scan_cost(before) <= POLICY.max_scan_cost:
        return
    everything = Compaction(int(0.75 * TARGET), POLICY.max_deleted_share, 0, 0, 0, 0)
    after = carry_out(before, everything, iter(range(1000)))
    assert scan_cost(before) - scan_cost(after) <= 0.1


@dataclass
class Days:
    """A table that takes a batch a day, and is maintained after each."""

    partition_of: Callable[[int], int]
    table: Layout = Layout((), (), TARGET)
    ingested: int = 0
    again: int = 0
    worst: float = 1
    serial: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))

    def take(self, day: int, size: int) -> None:
        file = DataFile(f"d{next(self.serial)}", month(self.partition_of(day)), size, ROWS)
        self.table = replace(self.table, files=(*self.table.files, file))
        self.ingested += size

    def replaced(self, share: float, chance: random.Random) -> None:
        """Rows of older files are taken away, as where versions are closed."""
        self.table = replace(
            self.table,
            files=tuple(
                replace(f, deleted=min(f.rows, f.deleted + int(chance.uniform(0, 2 * share) * f.rows)))
                for f in self.table.files
            ),
        )

    def maintain(self) -> None:
        for _ in range(4):
            plan = plan_compaction(self.table, POLICY)
            if plan is None:
                break
            self.again += plan.bytes
            self.table = carry_out(self.table, plan, self.serial)
        self.worst = max(self.worst, scan_cost(self.table))


@pytest.mark.parametrize("size", [KIB, 100 * KIB, MIB, 10 * MIB, 60 * MIB, 200 * MIB])
@pytest.mark.parametrize("days_in_partition", [1000, 30, 7, 1])
@pytest.mark.parametrize("days", [60, 365])
def test_daily_batches_stay_cheap_and_are_not_rewritten_often(size: int, days_in_partition: int, days: int) -> None:
    lake = Days(lambda day: day // days_in_partition)
    for day in range(days):
        lake.take(day, size)
        lake.maintain()
    assert lake.worst <= 1.2
    assert lake.again < (4 if days == 60 else log2(days)) * lake.ingested


@given(st.lists(st.integers(KIB, 50 * MIB), min_size=1, max_size=60), st.sampled_from([1000, 30, 7]))
def test_so_do_batches_of_any_size(sizes: list[int], days_in_partition: int) -> None:
    lake = Days(lambda day: day // days_in_partition)
    for day, size in enumerate(sizes):
        lake.take(day, size)
        lake.maintain()
    assert lake.worst <= 1.2
    assert lake.again < 4 * lake.ingested


@pytest.mark.parametrize("share", [0.005, 0.01, 0.02, 0.05])
def test_a_dimension_that_changes_every_day(share: float, chance: random.Random) -> None:
    """Each day closes some versions, and writes each closed one and its successor."""
    lake = Days(lambda day: 0)
    lake.take(0, 100 * MIB)
    for day in range(1, 60):
        live = sum(file.live_bytes for file in lake.table.files)
        lake.replaced(share, chance)
        lake.take(day, int(2 * share * live))
        lake.maintain()
    assert lake.worst <= 1.2
    assert lake.again < 4 * lake.ingested


def test_costs_are_told_in_what_opening_a_file_is_worth() -> None:
    one, two = layout(MIB), layout(MIB, MIB)
    assert fresh_cost(two) - fresh_cost(one) == MIB
    assert scan_cost(two) == pytest.approx(1 + OPEN_BYTES / fresh_cost(two))
