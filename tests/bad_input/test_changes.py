"""Files that change, come twice, or are not finished; and words where a date or a name is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from tests.bad_input.making import csv_of, good_csv, gz, row
from tests.bad_input.model import contract_of
from tests.servers import NewLake
from typer.testing import CliRunner

from lakehouse.cli.main import app
from lakehouse.core import names
from lakehouse.core.errors import LakehouseError
from lakehouse.core.settings import Settings
from lakehouse.landing.land import Request, land
from lakehouse.landing.places import FoundFile, LocalPlace
from lakehouse.landing.results import LandResult
from lakehouse.ledger.log import Batch, read_log
from lakehouse.ledger.store import ObjectStore, Reader

DAY, NEXT = date(2024, 5, 1), date(2024, 5, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "lines"
    made.mkdir()
    return made


@pytest.fixture
def settings(new_settings: Callable[[], Settings]) -> Settings:
    return new_settings()


def _land(settings: Settings, folder: Path) -> LandResult:
    return land(settings, [contract_of("lines")], Request(root=str(folder.parent)))


def _log(settings: Settings) -> list[Batch]:
    return read_log(ObjectStore.open(settings), "bad.lines")


def test_the_same_name_with_other_bytes_is_another_batch(settings: Settings, folder: Path) -> None:
    for rows in (2, 3, 3):
        (folder / f"{DAY}.csv").write_bytes(good_csv(rows))
        _land(settings, folder)
    assert [batch.unit for batch in _log(settings)] == [DAY, DAY]
    assert len({batch.hashes for batch in _log(settings)}) == 2


def test_another_name_with_the_same_bytes_is_no_batch(settings: Settings, folder: Path) -> None:
    (folder / f"{DAY}.csv").write_bytes(good_csv())
    _land(settings, folder)
    (folder / f"{DAY}.csv").rename(folder / f"{DAY} (1).csv")
    assert [unit.status for unit in _land(settings, folder).units] == ["unchanged"]
    assert len(_log(settings)) == 1


@pytest.mark.parametrize("pack", [bytes, gz], ids=["plain", "gzip"])
def test_two_names_with_the_same_bytes_in_one_unit_are_refused(
    settings: Settings, folder: Path, pack: Callable[[bytes], bytes]
) -> None:
    ending = "" if pack is bytes else ".gz"
    for name in (f"{DAY}.csv", f"{DAY} (1).csv"):
        (folder / (name + ending)).write_bytes(pack(good_csv()))
    (folder / f"{NEXT}.csv").write_bytes(good_csv())
    result = _land(settings, folder)
    (refused,) = result.of("refused")
    assert refused.unit == DAY and "hold the same bytes, which would count twice; remove one" in refused.reason
    assert f"{DAY}.csv{ending}" in refused.reason and f"{DAY} (1).csv{ending}" in refused.reason
    assert [batch.unit for batch in _log(settings)] == [NEXT]


@pytest.mark.parametrize("data", [b"", csv_of(), gz(csv_of())], ids=["empty", "header only", "gzip"])
def test_equal_files_without_a_record_count_nothing_twice(settings: Settings, folder: Path, data: bytes) -> None:
    ending = ".gz" if data[:2] == b"\x1f\x8b" else ""
    for shop in ("-a", "-b"):
        (folder / f"{DAY}{shop}.csv{ending}").write_bytes(data)
    assert [unit.status for unit in _land(settings, folder).units] == ["landed"]


@pytest.mark.parametrize("how", ["grows", "is rewritten", "is replaced", "shrinks", "vanishes"])
def test_a_file_that_changes_while_it_is_read_is_refused_and_the_next_day_lands(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    changing = folder / f"{DAY}.csv"
    changing.write_bytes(good_csv(50))
    (folder / f"{NEXT}.csv").write_bytes(good_csv())
    original = LocalPlace.reading

    @contextmanager
    def reading(place: LocalPlace, found: FoundFile) -> Iterator[Reader]:
        with original(place, found) as stream:
            if found.path == str(changing):
                _harm(changing, how)
            yield stream

    monkeypatch.setattr(LocalPlace, "reading", reading)
    result = _land(settings, folder)
    (refused,) = result.of("refused")
    assert refused.unit == DAY and refused.reason
    assert [batch.unit for batch in _log(settings)] == [NEXT]
    monkeypatch.undo()
    changing.write_bytes(good_csv(51))
    assert [unit.status for unit in _land(settings, folder).units] == ["landed", "unchanged"]


def _harm(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "vanishes":
        path.unlink()
    elif how == "is replaced":
        other = path.with_name("new.tmp")
        other.write_bytes(data)
        other.replace(path)
    else:
        changed = {"grows": data + b"more", "shrinks": data[:-40], "is rewritten": data[:-40] + b"?" * 40}[how]
        path.write_bytes(changed)


def test_a_half_written_file_is_replaced_when_it_is_whole(new_lake: NewLake, folder: Path) -> None:
    """The torn line is rejected; the whole file, under the same name, takes the place of all of it."""
    from tests.integration.pipeline import run

    from lakehouse.ledger.accounting import accounts

    lake, contract = new_lake(), contract_of("lines")
    (folder / f"{NEXT}.csv").write_bytes(csv_of(row("beside")))
    for data, good, rejected, superseded in ((good_csv(3)[:-30], 3, 1, 0), (good_csv(3), 4, 0, 3)):
        (folder / f"{DAY}.csv").write_bytes(data)
        _land(lake.settings, folder)
        run(lake, [contract])
        (account,) = accounts(lake.catalog, ObjectStore.open(lake.settings), contract)
        assert account.problems == ()
        assert (account.published, account.rejected, account.superseded) == (good, rejected, superseded)
    bad = lake.table(contract.bronze_table).where(f"{names.REJECTED} IS NOT NULL").collect()
    assert [(each[names.FILE], each[names.LINE]) for each in bad] == [(f"{DAY}.csv", 4)]


JINJA = ("{{ ds }}", "{{ dag_run.conf['x'] }}", "{% raw %}", "../../etc/passwd", "2024-02-30", "'; DROP TABLE x; --")
COMMANDS = {
    "land --from": ("land", "retail.sales", "--from"),
    "land --to": ("land", "retail.sales", "--to"),
    "land SOURCE": ("land",),
    "land --root": ("land", "retail.sales", "--root"),
    "run SOURCE": ("run",),
}


@pytest.mark.parametrize("text", JINJA)
@pytest.mark.parametrize("command", COMMANDS)
def test_jinja_and_other_text_in_a_command_is_plain_text_and_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, command: str, text: str
) -> None:
    """What a run's conf may one day pass on: nothing is rendered, and the message shows what was given."""
    monkeypatch.setattr("lakehouse.cli.land.settings", lambda: settings)
    monkeypatch.setattr("lakehouse.cli.run.settings", lambda: settings)
    result = CliRunner().invoke(app, [*COMMANDS[command], text])
    assert isinstance(result.exception, LakehouseError), result.output
    message = str(result.exception)
    shown = text.lstrip("./")  # a folder is shown as it was resolved
    assert (shown in message or repr(text) in message) and "what to do: " in message
    assert result.exception.exit_code in (2, 4)
