"""Which former metadata files may go: none that a catalog which is set back could be at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lakehouse.engine.orphans import _outlived
from lakehouse.ledger.store import ObjectInfo

NOW = datetime(2024, 6, 30, tzinfo=UTC)
WEEK = NOW - timedelta(days=7)


def metadata(number: int, days_ago: float, mark: str = "a") -> ObjectInfo:
    key = f"warehouse/silver/t-1/metadata/{number:05d}-{mark}.metadata.json"
    return ObjectInfo(key, 100, "", NOW - timedelta(days=days_ago))


def gone(*files: ObjectInfo) -> set[str]:
    return {file.key.rpartition("/")[2].partition(".")[0] for file in _outlived(files, WEEK)}


def test_what_the_catalog_was_at_within_the_time_stays() -> None:
    files = [metadata(1, 60), metadata(2, 50), metadata(3, 40), metadata(4, 5), metadata(5, 1)]
    assert gone(*files) == {"00001-a", "00002-a"}, "the third was what stood until five days ago"


def test_so_it_is_beside_files_of_forks() -> None:
    """They count on from the file that they were made of, and so does what enters."""
    forked = [metadata(3, 40), metadata(4, 39, "fork"), metadata(4, 20), metadata(5, 3, "fork"), metadata(6, 3)]
    assert gone(*forked) == {"00003-a"}
    assert gone(metadata(3, 40), metadata(5, 3, "fork"), metadata(6, 3), metadata(7, 3)) == {"00003-a"}


def test_of_a_table_that_rests_only_its_log_says_what_stays() -> None:
    """The present file and those of its log are named by the table; the others stood long ago."""
    assert gone(metadata(1, 60), metadata(2, 50)) == {"00001-a", "00002-a"}


def test_names_that_say_nothing_stay() -> None:
    other = ObjectInfo("warehouse/silver/t-1/metadata/restored.metadata.json", 1, "", NOW - timedelta(days=90))
    assert gone(other, metadata(1, 60)) == {"00001-a"} and gone(other) == set()


@given(st.lists(st.floats(0, 40), min_size=1, max_size=30))
def test_any_moment_of_the_time_finds_its_file(days: list[float]) -> None:
    files = [metadata(number, ago) for number, ago in enumerate(sorted(days, reverse=True), 1)]
    left = [file for file in files if file not in _outlived(files, WEEK)]
    for moment in [WEEK, *(file.modified_at for file in files if file.modified_at and file.modified_at >= WEEK)]:
        stood = [file for file in files if file.modified_at and file.modified_at <= moment]
        if stood and any(file.modified_at and file.modified_at >= WEEK for file in files):
            assert stood[-1] in left
