"""Bad input in CSV files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.bad_input.making import (
    COLUMNS,
    HEADER,
    Data,
    csv_of,
    flipped,
    good_csv,
    good_parquet,
    gz,
    long_line,
    noise,
    row,
    zst,
)
from tests.bad_input.model import Case, Rejected

_case = partial(Case, "lines")
MILLION = 1_000_000
POISONED = 777_777


def _rows(*lines: str, header: str = HEADER, end: str = "\n") -> Data:
    return lambda: csv_of(*lines, header=header, end=end)


def _broken(title: str, line: str, reason: str) -> Case:
    """A broken line between two good ones."""
    return _case(title, _rows(row(1), line, row(3)), 2, rejected=(Rejected(2, 3, reason),))


def _refused(title: str, data: Data, reason: str, **more: Any) -> Case:
    """A file of which nothing can be used."""
    return _case(title, data, rejected=(Rejected(1, 1, reason),), **more)


def _value(title: str, *rules: str, **changes: str) -> Case:
    """A value that fails these rules, or none, between two good rows."""
    lines = (row(1), row(2, **changes), row(3))
    return _case(title, _rows(*lines), 2 if rules else 3, {2: rules} if rules else {})


def _million() -> bytes:
    """One row in a million breaks a rule."""
    rest = row("").partition(",")[2]
    lines = [f"m{at},{rest}" for at in range(1, MILLION + 1)]
    lines[POISONED - 1] = row("poisoned", quantity="-1")
    return gz(csv_of(*lines))


def _renamed(old: str, new: str) -> str:
    return ",".join(new if name == old else name for name in COLUMNS)


def _wide(rows: int, lost: int = 0) -> bytes:
    more = 10_000 - len(COLUMNS)
    header = ",".join([*COLUMNS, *(f"c{at}" for at in range(more))])
    return csv_of(*(row(at) + "," + ",".join(["1"] * (more - lost)) for at in range(1, rows + 1)), header=header)


SHAPES = [
    _case("empty file", lambda: b""),
    _case("header only", _rows()),
    _case("blank lines only", lambda: b"\n\r\n\n"),
    _case("blank lines between the rows", _rows(row(1), "", "", row(2)), 2),
    _case("no line end after the last row", lambda: good_csv().rstrip(), 2),
    _case("lines end with CR LF", _rows(row(1), row(2), end="\r\n"), 2),
    _case("lines end with a lone CR", _rows(row(1), row(2), end="\r"), 2),
    _case("line ends are mixed", lambda: good_csv(1) + (row(2) + "\r\n" + row(3) + "\r" + row(4)).encode(), 4),
    _case("byte order mark of UTF-8", lambda: b"\xef\xbb\xbf" + good_csv(), 2),
    _refused("UTF-16, little endian", lambda: good_csv().decode().encode("utf-16"), "it looks like UTF-16"),
    _refused(
        "UTF-16, big endian", lambda: b"\xfe\xff" + good_csv().decode().encode("utf-16-be"), "it looks like UTF-16"
    ),
    _refused("UTF-16 without its mark", lambda: good_csv().decode().encode("utf-16-le"), "NUL bytes"),
    _broken("NUL bytes", row(2, note="a\0b"), "line 3: it contains NUL bytes"),
    _case(
        "invalid UTF-8",
        lambda: csv_of(row(1)) + b"r2,1.50,0.5,1,2024-03-01 10:00:00,2024-03-01,caf\xe9\n" + row(3).encode(),
        2,
        rejected=(Rejected(2, 3, "line 3: byte 0xe9 at position 49 is not UTF-8"),),
    ),
    _refused(
        "invalid UTF-8 in the header", lambda: good_csv().replace(b"note", b"n\xf6te"), "the header cannot be read"
    ),
    _case(
        "unclosed quote, then a quoted row",
        _rows(row(1), row(2, note='"never closed'), row(3), row(4, note='"quoted"')),
        3,
        rejected=(Rejected(2, 3, "line 3: text follows a closing quote"),),
    ),
    _case(
        "unclosed quote in the last row",
        _rows(row(1), row(2, note='"never closed')),
        1,
        rejected=(Rejected(2, 3, "line 3: a quote is opened and never closed"),),
    ),
    _broken("text after a closing quote", row(2, note='"closed" more'), "line 3: text follows a closing quote"),
    _broken("too few fields", "r2,1.50", "line 3: 2 fields where the header has 7"),
    _broken("too many fields", row(2) + ",8", "line 3: 8 fields where the header has 7"),
    _broken("total line of a report", "TOTAL: 2 rows", "line 3: 1 fields where the header has 7"),
    _case("line breaks, quotes and commas inside quotes", _rows(row(1, note='"a\n""b"",\r\nc"'), row(2)), 2),
    _case(
        "half-written: the last line is torn",
        lambda: good_csv(3)[:-30],
        2,
        rejected=(Rejected(3, 4, "line 4: 5 fields where the header has 7"),),
    ),
    _case(
        "field of 100 MB",
        lambda: long_line(100, f"{HEADER}\n{row(1)}\nr2,", f"\n{row(3)}\n", gz),
        2,
        rejected=(Rejected(2, 3, "line 3: the line is longer than 1048576 bytes"),),
        packed=".gz",
    ),
    _case("10,000 columns", partial(_wide, 2), 2, extra=10_000 - len(COLUMNS)),
    _case(
        "10,000 columns, and rows with 9,999",
        partial(_wide, 2, 1),
        rejected=(Rejected(1, 2, "9999 fields where"), Rejected(2, 3, "9999 fields where the header has 10000")),
    ),
    _refused("a column name of 1,000 bytes", _rows(header=f"{HEADER},{'x' * 1000}"), "a name of more than 255 bytes"),
    _refused("no header", lambda: csv_of(row(2), header=row(1)), "none of the contract's columns; is it missing?"),
    _refused("semicolons instead of commas", lambda: good_csv().replace(b",", b";"), "none of the contract's columns"),
]

DRIFT = [
    _case("column added", _rows(row(1) + ",x", row(2) + ",y", header=f"{HEADER},new"), 2, extra=frozenset({"new"})),
    _case(
        "column dropped",
        _rows(row(1).removesuffix(",fine"), header=HEADER.removesuffix(",note")),
        1,
        missing=frozenset({"note"}),
    ),
    _case(
        "key column dropped",
        _rows(row(1).partition(",")[2], header=HEADER.partition(",")[2]),
        quarantined={1: ("id_not_null",)},
        missing=frozenset({"id"}),
    ),
    _case(
        "column renamed",
        _rows(row(1), header=_renamed("note", "remark")),
        1,
        extra=frozenset({"remark"}),
        missing=frozenset({"note"}),
    ),
    _case(
        "columns reordered",
        _rows(",".join(reversed(row(1).split(","))), header=",".join(reversed(COLUMNS))),
        1,
    ),
    _case(
        "column in other case",
        _rows(row(1), header=_renamed("note", "NOTE")),
        1,
        extra=frozenset({"NOTE"}),
        missing=frozenset({"note"}),
    ),
    _refused(
        "all columns in other case", _rows(row(1), header=HEADER.upper()), "id is there with other case or spaces"
    ),
    _case("column twice, in two cases", _rows(row(1) + ",x", header=f"{HEADER},NOTE"), 1, extra=frozenset({"NOTE"})),
    _refused("column twice", _rows(row(1) + ",x", header=f"{HEADER},note"), "the header names note more than once"),
    _case(
        "unknown column twice",
        _rows(row(1) + ",x,y", header=f"{HEADER},new,new"),
        1,
        extra=frozenset({"new", "new (column 9)"}),
    ),
    _case("column without a name", _rows(row(1) + ",x", header=f"{HEADER},"), 1, extra=frozenset({"column 8"})),
    _value("values wider than their type: 3000000000 for an int", "quantity_type", quantity="3000000000"),
    _value("values wider than their scale: 1.505 for decimal(10,2)", "amount_type", amount="1.505"),
    _value("values narrower than their type", amount="1", ratio="1"),
]

VALUES = [
    _value("NaN in a decimal", "amount_type", amount="NaN"),
    _value("NaN in a double", ratio="NaN"),
    _value("infinity in a decimal", "amount_type", amount="Infinity"),
    _value("infinity in a double", ratio="-Infinity"),
    _value("decimal overflow", "amount_type", amount="123456789.00"),
    _value("text in an integer", "quantity_type", quantity="many"),
    _value("thousands separator", "quantity_type", quantity='"1,000"'),
    _value("year 0001", day="0001-01-01", happened_at="0001-01-01 00:00:00"),
    _value("year 9999", day="9999-12-31", happened_at="9999-12-31 23:59:59"),
    _value("year 10000", "happened_at_type", "day_type", day="+10000-01-01", happened_at="+10000-01-01 00:00:00"),
    _value("year 0000", "day_type", day="0000-12-31"),
    _value("30 February", "day_type", day="2024-02-30"),
    _value("no key", "id_not_null", id=""),
    _value("several rules at once", "amount_type", "quantity_not_negative", amount="x", quantity="-1"),
    _value("formula of a spreadsheet", note="=cmd|'/c calc'!A0"),
    _value("Jinja in a value", note="{{ ds }} {% for x in y %}"),
    _value("SQL in a value", note="'; DROP TABLE silver.x; --"),
    _value("markup of a terminal in a value", note="[bold red]x[/] \x1b[31m"),
    _value("emoji, right to left, zero width", note="👩‍👩‍👧 שלום \u200b\u202e"),
]

VOLUMES = [
    _case("every row poisoned", _rows(*(row(at, quantity="-1") for at in range(1, 21))), 0,
          {at: ("quantity_not_negative",) for at in range(1, 21)}),
    _case("one poisoned row in a million", _million, MILLION - 1, {POISONED: ("quantity_not_negative",)}, packed=".gz"),
    _case("usual volume", partial(good_csv, 100), 100),
    _case("ten times the volume", partial(good_csv, 1_000), 1_000),
    _case("a tenth of the volume", partial(good_csv, 10), 10),
    _case("no volume", partial(good_csv, 0), 0),
]  # fmt: skip


NAMED_WRONGLY = [
    _refused("gzip named .csv", lambda: gz(good_csv()), "it looks like gzip; such a file must be named .gz"),
    _refused("zstd named .csv", lambda: zst(good_csv()), "it looks like zstd; such a file must be named .zst"),
    _refused("Parquet named .csv", good_parquet, "it looks like Parquet"),
    _refused("Excel workbook named .csv", lambda: b"PK\x03\x04" + bytes(100), "a zip archive or an Excel workbook"),
    _refused("JSON named .csv", lambda: b'{"id": "r1", "note": "x"}\n', "it looks like JSON"),
    _refused("HTML error page named .csv", lambda: b"<!DOCTYPE html>\n<p>502</p>\n", "it looks like an HTML page"),
    _case(
        "CSV named .csv.gz",
        good_csv,
        rejected=(Rejected(1, 1, "the gzip data are damaged (Error -3 while decompressing data: incorrect header"),),
        packed=".gz",
    ),
    _case(
        "zstd named .csv.gz",
        lambda: zst(good_csv()),
        rejected=(Rejected(1, 1, "it looks like zstd; such a file must be named .zst"),),
        packed=".gz",
    ),
    _case(
        "gzip named .csv.zst",
        lambda: gz(good_csv()),
        rejected=(Rejected(1, 1, "it looks like gzip; such a file must be named .gz"),),
        packed=".zst",
    ),
    _refused("compressed twice", lambda: gz(gz(good_csv())), "it looks like gzip", packed=".gz"),
]


def _packed_cases() -> Iterator[Case]:
    """The same harms to gzip and zstd. Rows before the damage are published."""
    for packed, pack, name in ((".gz", gz, "gzip"), (".zst", zst, "zstd")):
        kind: Any = {"packed": packed}
        yield _case(f"{name}: sound", lambda p=pack: p(good_csv()), 2, **kind)
        yield _case(f"{name}: two parts in one file", lambda p=pack: p(good_csv(1)) + p(row(2).encode()), 2, **kind)
        end = Rejected(1, 1, f"the {name} data end too early")
        yield _case(f"{name}: empty file", lambda: b"", rejected=(end,), **kind)
        yield _case(f"{name}: only its first bytes", lambda p=pack: p(good_csv())[:8], rejected=(end,), **kind)
        yield _case(
            f"{name}: garbage after the end",
            lambda p=pack: p(good_csv()) + b"garbage",
            2,
            rejected=(Rejected(3, 4, f"the {name} data are damaged"),),
            **kind,
        )
    yield _case(
        "gzip: wrong checksum",
        lambda: flipped(gz(good_csv()), len(gz(good_csv())) - 6),
        2,
        rejected=(
            Rejected(3, 4, "the gzip data are damaged (Error -3 while decompressing data: incorrect data check)"),
        ),
        packed=".gz",
    )
    yield _case(
        "zstd: wrong checksum",
        lambda: flipped(zst(good_csv()), len(zst(good_csv())) - 2),
        0,
        rejected=(Rejected(1, 1, "the zstd data are damaged"),),
        packed=".zst",
    )


def _torn() -> Iterator[Case]:
    """Damage in the middle: what came before it is read, and one row stands for the rest."""
    whole = {".gz": gz(noise(2_000)), ".zst": zst(noise(2_000))}
    for packed, name in ((".gz", "gzip"), (".zst", "zstd")):
        kind: Any = {"packed": packed, "before_damage": True}
        half = len(whole[packed]) // 2
        yield _case(
            f"{name}: cut in the middle",
            lambda packed=packed, half=half: whole[packed][:half],
            rejected=(Rejected(0, 0, f"the file cannot be read on, the {name} data end too early"),),
            **kind,
        )
        yield _case(
            f"{name}: damaged in the middle",
            lambda packed=packed, half=half: flipped(whole[packed], half),
            rejected=(Rejected(0, 0, f"the file cannot be read on, the {name} data are damaged"),),
            **kind,
        )


PACKED = [*_packed_cases(), *_torn()]

BOMBS = [
    _case(
        "gzip: a bomb of 1 GB in one line",
        lambda: long_line(1_000, f"{HEADER}\n{row(1)}\n", "\n", gz),
        1,
        rejected=(
            Rejected(2, 3, "line 3: the line is longer than 1048576 bytes"),
            Rejected(3, 4, "it is a decompression bomb"),
        ),
        packed=".gz",
    ),
    _case(
        "zstd: a bomb of 1 GB in one line",
        lambda: long_line(1_000, f"{HEADER}\n{row(1)}\n", "\n", zst),
        1,
        rejected=(
            Rejected(2, 3, "line 3: the line is longer than 1048576 bytes"),
            Rejected(3, 4, "it is a decompression bomb"),
        ),
        packed=".zst",
    ),
]

NAMES = [
    _case(f"name with {what}", good_csv, 2, stem=stem)
    for what, stem in (
        ("spaces", " of the shop (1)"),
        ("a comma", ",a,b"),
        ("quotes", "'a' \"b\""),
        ("backticks", "`id`"),
        ("a semicolon and $()", ";rm -rf $(x)"),
        ("%2e%2e%2f", "%2e%2e%2f"),
        ("an emoji", "🎉é"),
        ("Jinja", "{{ ds }}"),
        ("wildcards", "*?[a]"),
        ("a hash, a plus and an ampersand", "#+&=a"),
    )
]
