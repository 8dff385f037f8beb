"""The sample sources: deterministic, streamed, and with every irregularity that they announce."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from lakehouse.cli.sample import register
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import settings
from lakehouse.records.reader import Compression, Layout, read_records
from lakehouse.samples import catalogue, customers, retail, things
from lakehouse.samples.make import CATALOGUE, SALES, catalogue_path, make_samples, sales_path
from lakehouse.samples.plan import EPOCH, Options, cycle, days, index, last_sunday
from lakehouse.samples.write import Written

CONTRACTS = Path(__file__).resolve().parents[2] / "include/contracts"
FORTNIGHT = days(EPOCH, 14)
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


def contract(name: str) -> Contract:
    return Contract.model_validate(yaml.safe_load((CONTRACTS / f"{name}.yaml").read_text()))


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read(path: Path, name: str) -> list[dict[str, Any]]:
    with path.open("rb") as stream:
        batches = read_records(stream, Layout.of(contract(name).source), COMPRESSIONS.get(path.suffix))
        return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    make_samples(Options(), FORTNIGHT, folder)
    return folder


@pytest.fixture(scope="module")
def sales(root: Path) -> dict[date, list[dict[str, Any]]]:
    found = {day: read(sales_path(root, day), "retail/sales") for day in FORTNIGHT if retail.has_file(day)}
    assert len(found) == 12
    return found


@pytest.fixture(scope="module")
def lines(sales: dict[date, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for rows in sales.values() for row in rows if row["_rejected"] is None]


@pytest.fixture(scope="module")
def snapshots(root: Path) -> dict[date, list[dict[str, Any]]]:
    return {day: read(catalogue_path(root, day), "crm/catalogue") for day in FORTNIGHT}


@pytest.fixture(scope="module")
def changes() -> list[customers.Change]:
    return [change for day in FORTNIGHT for change in customers.day_changes(Options(), day)]


# --- determinism and memory


def test_same_seed_same_bytes_whatever_the_range(tmp_path: Path, root: Path) -> None:
    for day in reversed(FORTNIGHT):
        make_samples(Options(), [day], tmp_path)
    assert all_bytes(tmp_path) == all_bytes(root)


def test_seed_size_and_cleanness_matter(tmp_path: Path, root: Path) -> None:
    day = FORTNIGHT[1]
    for options in (Options(seed=8), Options(size=0.5), Options(is_clean=True)):
        make_samples(options, [day], tmp_path)
        assert sales_path(tmp_path, day).read_bytes() != sales_path(root, day).read_bytes()


def test_customers_are_deterministic(changes: list[customers.Change]) -> None:
    again = [change for day in FORTNIGHT for change in customers.day_changes(Options(), day)]
    assert again == changes and len(changes) > 250
    assert list(customers.initial_changes(Options())) == list(customers.initial_changes(Options()))


def test_a_revision_sends_a_few_days_anew(tmp_path: Path, root: Path) -> None:
    make_samples(Options(revision=2), FORTNIGHT, tmp_path)
    first, second = all_bytes(root), all_bytes(tmp_path)
    assert first.keys() == second.keys()
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {
        *(f"{SALES}/{day}.csv" for day in FORTNIGHT if retail.is_corrected(day)),
        *(str(catalogue_path(Path(), day)) for day in FORTNIGHT if catalogue.is_corrected(day)),
    }
    assert 0 < len(changed) < len(first) / 2
    for day in filter(retail.is_corrected, FORTNIGHT):
        before = Counter(sales_path(root, day).read_bytes().splitlines())
        after = Counter(sales_path(tmp_path, day).read_bytes().splitlines())
        assert (before - after) and (after - before)
        rows = read(sales_path(tmp_path, day), "retail/sales")
        assert all(row["_rejected"] is None and row["_missing"] is None for row in rows)
        assert any(row["InvoiceDate"] == f"{day} 20:30:00" for row in rows)
    make_samples(Options(revision=3), FORTNIGHT, tmp_path)
    assert all_bytes(tmp_path) != second


@pytest.mark.parametrize("size", [0.01, 0.2, 3.0])
def test_other_sizes(tmp_path: Path, size: float) -> None:
    made = make_samples(Options(size=size), FORTNIGHT[:3], tmp_path)
    assert made.parts[SALES].rows == pytest.approx(3 * 1_500 * size, rel=0.15, abs=150)
    assert made.parts[CATALOGUE].files == 3 and made.total.size_bytes == sum(map(len, all_bytes(tmp_path).values()))


def test_memory_does_not_grow_with_size() -> None:
    def peak(rows: Iterable[bytes]) -> tuple[int, int]:
        tracemalloc.start()
        count = sum(1 for _ in rows)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return count, top

    small_count, small = peak(retail.file_rows(Options(size=0.5), EPOCH))
    big_count, big = peak(retail.file_rows(Options(size=20), EPOCH))
    assert big_count > 30 * small_count
    assert big < small + 200_000
    assert peak(catalogue.file_rows(Options(size=20), EPOCH))[1] < 200_000


def test_options_are_checked() -> None:
    for wrong in ({"size": 0.0}, {"size": -1.0}, {"revision": 0}):
        with pytest.raises(SettingsError):
            Options(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError):
        days(EPOCH, 0)


def test_calendar() -> None:
    assert last_sunday(2024, 3) == date(2024, 3, 31) and last_sunday(2024, 10) == date(2024, 10, 27)
    assert last_sunday(2026, 3) == date(2026, 3, 29) and last_sunday(2025, 8) == date(2025, 8, 31)
    assert index(EPOCH) == cycle(EPOCH) == 0 and cycle(EPOCH - timedelta(days=1)) == 13


# --- what the sales files bring


def test_no_file_on_saturdays(root: Path) -> None:
    found = sorted(path.stem for path in (root / SALES).iterdir())
    assert found == [str(day) for day in FORTNIGHT if day.weekday() != 5]


def test_about_1500_lines_a_day(sales: dict[date, list[dict[str, Any]]]) -> None:
    assert all(1_300 < len(rows) < 1_750 for rows in sales.values())


def test_lines_of_every_kind(lines: list[dict[str, Any]]) -> None:
    assert any(row["InvoiceNo"].startswith("C") and row["Quantity"].startswith("-") for row in lines)
    debts = [row for row in lines if row["InvoiceNo"].startswith("A")]
    assert {row["UnitPrice"] for row in debts} == {"11062.06", "-11062.06"}
    assert {"POST", "M", "D", "DOT", "BANK CHARGES"} <= {row["StockCode"] for row in lines}
    movements = [row for row in lines if row["UnitPrice"] == "0.0" and row["CustomerID"] is None]
    assert {"damaged", "lost", None} <= {row["Description"] for row in movements}
    unnamed = sum(row["CustomerID"] is None for row in lines) / len(lines)
    assert 0.05 < unnamed < 0.5
    assert all(row["CustomerID"] is None or row["CustomerID"].endswith(".0") for row in lines)
    numbers = {int(row["CustomerID"][:-2]) for row in lines if row["CustomerID"]}
    assert min(numbers) >= things.FIRST_CUSTOMER and max(numbers) <= things.LAST_CUSTOMER


def test_repeated_lines(lines: list[dict[str, Any]]) -> None:
    seen = Counter(tuple(row[name] for name in retail.HEADER) for row in lines)
    assert max(seen.values()) > 1


def test_texts_that_are_hard_to_carry(lines: list[dict[str, Any]]) -> None:
    texts = {row["Description"] for row in lines if row["Description"]}
    for part in ('"', ",", "\n", "雪", "🎉", "Ł"):
        assert any(part in text for text in texts), part


def test_customers_move_and_some_come_back(lines: list[dict[str, Any]]) -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    for row in sorted(lines, key=lambda row: row["InvoiceDate"]):
        known = seen[row["CustomerID"] or ""]
        if not known or known[-1] != row["Country"]:
            known.append(row["Country"])
    del seen[""]
    assert sum(len(known) == 2 for known in seen.values()) >= 2
    assert any(len(known) >= 3 and known[0] == known[2] for known in seen.values())


def test_products_change_their_text(lines: list[dict[str, Any]]) -> None:
    texts = defaultdict(set)
    for row in lines:
        if row["CustomerID"]:
            texts[row["StockCode"]].add(row["Description"])
    assert sum(len(found - {None}) > 1 for found in texts.values()) >= 10


def test_late_rows_belong_to_an_earlier_day(sales: dict[date, list[dict[str, Any]]]) -> None:
    late = [row for day, rows in sales.items() for row in rows if (row["InvoiceDate"] or "9") < str(day)]
    assert {row["InvoiceDate"][:10] for row in late} >= {"2024-03-22", "2024-03-29"}


def test_invoice_numbers_are_used_on_one_day_only(sales: dict[date, list[dict[str, Any]]]) -> None:
    owners = defaultdict(set)
    for day, rows in sales.items():
        for row in rows:
            owners[row["InvoiceNo"]].add(day)
    del owners[None]  # type: ignore[arg-type]
    assert all(len(found) == 1 for found in owners.values())


def test_clock_changes() -> None:
    def times(options: Options, day: date) -> set[str]:
        text = b"".join(retail.file_rows(options, day)).decode()
        return {moment for moment in ("00:59:00", "01:30:00", "02:00:00", "01:15:00", "01:45:00") if moment in text}

    assert times(Options(), date(2024, 3, 31)) == {"00:59:00", "01:30:00", "02:00:00"}
    assert times(Options(is_clean=True), date(2024, 3, 31)) == {"00:59:00", "02:00:00"}
    assert times(Options(), date(2024, 10, 27)) == {"01:15:00", "01:45:00"}
    assert times(Options(), date(2024, 4, 7)) == set()


def test_broken_lines_lose_nothing_else(root: Path, sales: dict[date, list[dict[str, Any]]]) -> None:
    for place in (1, 8):
        day = FORTNIGHT[place]
        refused = [row for row in sales[day] if row["_rejected"]]
        assert ["CUT OFF", "HALF A QUOTE", "TOO,MANY", "CAF\\xc9"] == [
            next(mark for mark in ("CUT OFF", "HALF A QUOTE", "TOO,MANY", "CAF\\xc9") if mark in row["_raw"])
            for row in refused
        ]
        clean = b"".join(retail.file_rows(Options(is_clean=True), day))
        good = list(read_records(io.BytesIO(clean), Layout.of(contract("retail/sales").source)))
        assert len(sales[day]) == sum(batch.num_rows for batch in good) + 4


def test_bad_values(sales: dict[date, list[dict[str, Any]]]) -> None:
    for place in (4, 10):
        bad = [row for row in sales[FORTNIGHT[place]] if row["Description"] == "QUARANTINE ME"]
        assert [row["Quantity"] for row in bad] == ["12x", "0", "3", "2"]
        assert bad[2]["UnitPrice"] == "1,25" and bad[3]["InvoiceDate"] == "2024-02-30 10:00:00"


def test_columns_drift(sales: dict[date, list[dict[str, Any]]]) -> None:
    for day, rows in sales.items():
        row = next(row for row in rows if row["_rejected"] is None)
        extra = dict(row["_extra"] or {})
        assert ("Channel" in extra) == (index(day) >= 7)
        assert ("Customer ID" in extra) == (cycle(day) == 3)
        missing = {3: ["CustomerID"], 9: ["Description"]}.get(cycle(day))
        assert row["_missing"] == missing


def test_clean_files_have_nothing_wrong(tmp_path: Path) -> None:
    make_samples(Options(is_clean=True), FORTNIGHT, tmp_path)
    for path in sorted((tmp_path / SALES).iterdir()):
        for row in read(path, "retail/sales"):
            assert row["_rejected"] is row["_extra"] is row["_missing"] is None
            assert int(row["Quantity"]) != 0 and float(row["UnitPrice"]) > -12_000
    for day in FORTNIGHT:
        for row in read(catalogue_path(tmp_path, day), "crm/catalogue"):
            assert row["_rejected"] is row["_extra"] is row["_missing"] is None and float(row["list_price"]) > 0


# --- what the catalogue brings


def history(snapshots: dict[date, list[dict[str, Any]]], column: str) -> dict[str, list[str | None]]:
    """Each article's values, in the order of days; "absent" where it is not in the snapshot."""
    codes = {row["sku"] for rows in snapshots.values() for row in rows if row["sku"]}
    found: dict[str, list[str | None]] = {code: [] for code in codes}
    for rows in snapshots.values():
        today = {row["sku"]: row[column] for row in rows}
        for code, values in found.items():
            values.append(today.get(code, "absent"))
    return found


def test_articles_come_go_and_return(snapshots: dict[date, list[dict[str, Any]]]) -> None:
    seen = [
        "".join("-" if value == "absent" else "x" for value in values) for values in history(snapshots, "sku").values()
    ]
    assert len(seen) >= 290
    assert any(text.startswith("-") for text in seen) and any(text.endswith("-") for text in seen)
    assert any("x-" in text and "-x" in text[text.index("x-") :] for text in seen)


@pytest.mark.parametrize("column", ["name", "category", "supplier", "list_price", "is_active", "launched_on"])
def test_every_attribute_changes(snapshots: dict[date, list[dict[str, Any]]], column: str) -> None:
    assert any(len(set(values) - {"absent", None}) > 1 for values in history(snapshots, column).values())


def test_odd_articles(snapshots: dict[date, list[dict[str, Any]]]) -> None:
    rows = [row for found in snapshots.values() for row in found]
    assert {"-1.00", "n/a", "1,99", "-0.01"} <= {row["list_price"] for row in rows}
    assert sum(row["_rejected"] is not None for row in rows) == 1
    assert any(row["_missing"] == ["supplier"] for row in rows)
    assert any(dict(row["_extra"] or {}).get("weight_grams") for row in rows)
    assert any(row["category"] is None and row["_rejected"] is None for row in rows)
    assert any(count > 1 for found in snapshots.values() for count in Counter(row["sku"] for row in found).values())


def test_catalogue_and_sales_overlap(lines: list[dict[str, Any]], snapshots: dict[date, list[dict[str, Any]]]) -> None:
    listed = {row["sku"] for rows in snapshots.values() for row in rows}
    sold = {row["StockCode"] for row in lines}
    assert len(listed & sold) > 200 and len(sold - listed) > 100


# --- what the change feed brings


def test_operations(changes: list[customers.Change]) -> None:
    assert {change.operation for change in changes} == {"I", "U", "D", "X"}
    order: dict[str, str] = defaultdict(str)
    for change in changes:
        order[change.customer_id] += change.operation
    assert any("DI" in text for text in order.values())
    assert all(set(change.values[3:]) == {None} for change in changes if change.operation == "D")


def test_late_tied_and_repeated_changes(changes: list[customers.Change]) -> None:
    by_customer: dict[str, list[customers.Change]] = defaultdict(list)
    for change in changes:
        by_customer[change.customer_id].append(change)
    pairs = [pair for found in by_customer.values() for pair in zip(found, found[1:], strict=False)]
    assert any(later.changed_at < earlier.changed_at for earlier, later in pairs)
    assert any(later.changed_at == earlier.changed_at and later != earlier for earlier, later in pairs)
    assert any(later == earlier for earlier, later in pairs)


def test_values_of_customers(changes: list[customers.Change]) -> None:
    assert any(change.email == "not an address" for change in changes)
    assert any(change.birth_date == "1980-02-30" for change in changes)
    assert any(not (change.full_name or "").isascii() for change in changes)
    for column in ("phone", "city", "birth_date"):
        assert any(getattr(change, column) is None for change in changes if change.operation != "D"), column
    for column in customers.COLUMNS[3:]:
        seen: dict[str, set[Any]] = defaultdict(set)
        for change in [*customers.initial_changes(Options()), *changes]:
            seen[change.customer_id].add(getattr(change, column))
        assert any(len(values - {None}) > 1 for values in seen.values()), column


def test_columns_are_the_contracts() -> None:
    declared = list(contract("crm/customers").source.columns)
    assert declared == ["change_id", *customers.COLUMNS]


def test_some_buyers_are_unknown_to_the_crm(lines: list[dict[str, Any]]) -> None:
    known = {change.customer_id for change in customers.initial_changes(Options())}
    buyers = {row["CustomerID"][:-2] for row in lines if row["CustomerID"]}
    assert buyers & known and buyers - known


def test_clean_changes() -> None:
    for day in FORTNIGHT:
        for change in customers.day_changes(Options(is_clean=True), day):
            assert change.operation in "IUD" and (change.email is None or "@" in change.email)
            assert change.birth_date is None or date.fromisoformat(change.birth_date)


# --- the command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.delenv("LAKEHOUSE_CONNECTIONS__CRM_OWNER", raising=False)
    settings.cache_clear()
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    yield lambda *arguments: CliRunner().invoke(app, ["sample", *arguments])
    settings.cache_clear()


def test_command_without_a_database_says_what_is_missing(run: Any, tmp_path: Path) -> None:
    result = run("--days", "2", "--size", "0.05")
    assert result.exit_code == 0
    assert "CRM's customer feed was left out" in result.output and "lakehouse up" in result.output
    assert sales_path(tmp_path / "sources", EPOCH).is_file()


def test_command_as_json(run: Any, tmp_path: Path) -> None:
    result = run("--days", "3", "--size", "0.05", "--out", str(tmp_path / "x"), "--json", "--from", "2024-04-01")
    told = json.loads(result.stdout)
    parts = {name: Written(**part) for name, part in told["parts"].items()}
    assert parts[SALES].files == parts[CATALOGUE].files == 3 and len(told["notices"]) == 1
    assert sum(part.size_bytes for part in parts.values()) == sum(map(len, all_bytes(tmp_path / "x").values()))


def test_command_for_one_domain(run: Any, tmp_path: Path) -> None:
    result = run("--days", "1", "--size", "0.05", "--only", "retail")
    assert result.exit_code == 0 and "Notice" not in result.output
    assert [path.name for path in (tmp_path / "sources").iterdir()] == ["retail"]


@pytest.mark.parametrize(
    "wrong",
    [["--only", "hr"], ["--from", "25.3.2024"], ["--days", "0"], ["--size", "0"], ["--out", "s3://bucket/x"]],
)
def test_wrong_options_are_told(run: Any, wrong: list[str]) -> None:
    assert isinstance(run(*wrong).exception, SettingsError)


def test_a_folder_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("--days", "1", "--size", "0.05", "--out", str(tmp_path / "file"))
    assert isinstance(result.exception, SettingsError) and "cannot be written" in str(result.exception)
