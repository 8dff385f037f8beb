"""Bad input in files of JSON lines."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.bad_input.making import (
    Data,
    event,
    flipped,
    good_csv,
    good_jsonl,
    gz,
    jsonl_of,
    long_line,
    values,
    zst,
)
from tests.bad_input.model import Case, Rejected

_case = partial(Case, "events")
LONG_LINES = 400


def _lines(*lines: str) -> Data:
    return lambda: jsonl_of(*lines)


def _broken(title: str, line: str | bytes, reason: str) -> Case:
    """A broken line between two good ones."""
    middle = line if isinstance(line, bytes) else line.encode()
    data = jsonl_of(event(1)) + middle + b"\n" + jsonl_of(event(3))
    return _case(title, lambda: data, 2, rejected=(Rejected(2, 2, reason),))


def _value(title: str, *rules: str, **changes: Any) -> Case:
    """A value that fails these rules, or none, between two good records."""
    lines = (event(1), event(2, **changes), event(3))
    return _case(title, _lines(*lines), 2 if rules else 3, {2: rules} if rules else {})


def _number(title: str, number: str, *rules: str) -> Case:
    """The same for a number that Python would not write."""
    line = event(2, amount="?").replace('"?"', number)
    return _case(title, _lines(event(1), line, event(3)), 2 if rules else 3, {2: rules} if rules else {})


def _dropped(name: str) -> bytes:
    import json

    return jsonl_of(json.dumps({key: value for key, value in values(1).items() if key != name}))


def _every_line(data: bytes, first: str) -> tuple[Rejected, ...]:
    lines = [line for line in data.split(b"\n") if line.strip()]
    return tuple(Rejected(at, at, first if at == 1 else "line") for at in range(1, len(lines) + 1))


_UTF16 = good_jsonl().decode().encode("utf-16")
_PRETTY = b'{\n "id": "r1",\n "note": "x"\n}\n'

JSONL = [
    _case("empty file", lambda: b""),
    _case("blank lines only", lambda: b"\n \n\t\n"),
    _case("no line end after the last record", lambda: good_jsonl().rstrip(), 2),
    _case("byte order mark of UTF-8", lambda: b"\xef\xbb\xbf" + good_jsonl(), 2),
    _case("UTF-16", lambda: _UTF16, rejected=_every_line(_UTF16, "it contains NUL bytes; it looks like UTF-16")),
    _broken("NUL bytes", b'{"id": "a\0b"}', "line 2: it contains NUL bytes"),
    _broken("invalid UTF-8", b'{"id": "caf\xe9"}', "line 2: byte 0xe9 at position 12 is not UTF-8"),
    _broken("half a character", '{"id": "\\ud800"}', "line 2: a \\u escape stands for half a character"),
    _broken("unclosed quote", '{"id": "r2', "line 2: it is not JSON (Invalid control character"),
    _broken("unclosed brace", '{"id": "r2"', "line 2: it is not JSON"),
    _broken("single quotes", "{'id': 'r2'}", "line 2: it is not JSON"),
    _broken("two objects in one line", '{"id": "r2"} {"id": "r3"}', "line 2: it is not JSON (Extra data"),
    _broken("an array", '[{"id": "r2"}]', "line 2: it is JSON, but not an object"),
    _broken("NaN", '{"id": "r2", "ratio": NaN}', "line 2: NaN is not JSON"),
    _broken("infinity", '{"id": "r2", "ratio": -Infinity}', "line 2: -Infinity is not JSON"),
    _broken("key twice", '{"id": "r2", "id": "r3"}', "line 2: the key 'id' stands there more than once"),
    _broken("30,000 keys, each twice", "{" + ",".join(f'"{at}":1,"{at}":2' for at in range(30_000)) + "}",
            "and 29995 others stands there more than once"),
    _broken("nested 100 deep", '{"note": ' + "[" * 100 + "]" * 100 + "}", "line 2: nested deeper than 64 levels"),
    _broken("nested 100,000 deep", '{"note": ' + "[" * 100_000 + "}", "line 2: nested deeper than 64 levels"),
    _value("nested 60 deep", note={"x": eval("[" * 58 + "]" * 58)}),  # noqa: S307 - brackets only
    _value("an object as a value", note={"a": [1, None, {"b": "c"}]}),
    _case("pretty-printed JSON", lambda: _PRETTY, rejected=_every_line(_PRETTY, "line 1: it is not JSON")),
    _case(
        "half-written: the last line is torn",
        lambda: good_jsonl()[:-20],
        1,
        rejected=(Rejected(2, 2, "line 2: it is not JSON"),),
    ),
    _case(
        "field of 100 MB",
        lambda: long_line(100, event(1) + '\n{"id": "', '"}\n' + event(3) + "\n", gz),
        2,
        rejected=(Rejected(2, 2, "line 2: the line is longer than 1048576 bytes"),),
        packed=".gz",
    ),
    _case("10,000 keys", lambda: jsonl_of(event(1, **{f"c{at}": at for at in range(9_993)})), 1, extra=9_993),
    _case("key added", _lines(event(1, new="x")), 1, extra=frozenset({"new"})),
    _case("key dropped", lambda: _dropped("note"), 1, missing=frozenset({"note"})),
    _case("key of the row dropped", lambda: _dropped("id"), 0, {1: ("id_not_null",)}, missing=frozenset({"id"})),
    _case(
        "key renamed",
        lambda: good_jsonl(1).replace(b'"note"', b'"remark"'),
        1,
        extra=frozenset({"remark"}),
        missing=frozenset({"note"}),
    ),
    _case(
        "key in other case",
        lambda: good_jsonl(1).replace(b'"note"', b'"Note"'),
        1,
        extra=frozenset({"Note"}),
        missing=frozenset({"note"}),
    ),
    _value("null", amount=None, note=None),
    _value("null as the key", "id_not_null", id=None),
    _number("number with more digits than a double has", "12345678.90"),
    _number("decimal overflow", "123456789.00", "amount_type"),
    _number("1e400 in a decimal", "1e400", "amount_type"),
    _value("text in an integer", "quantity_type", quantity="many"),
    _value("a list in an integer", "quantity_type", quantity=[1]),
    _value("year 0001", day="0001-01-01", happened_at="0001-01-01T00:00:00Z"),
    _value("year 9999", day="9999-12-31", happened_at="9999-12-31T23:59:59Z"),
    _case("every record poisoned", lambda: jsonl_of(*(event(at, quantity=-1) for at in range(1, 21))), 0,
          {at: ("quantity_not_negative",) for at in range(1, 21)}),
    _case("CSV named .jsonl", good_csv, rejected=_every_line(good_csv(), "line 1: it is not JSON")),
    _case("gzip: cut short", lambda: gz(good_jsonl())[:-9], rejected=(Rejected(0, 0, "the gzip data end too early"),),
          packed=".gz", before_damage=True),
    _case("zstd: damaged", lambda: flipped(zst(good_jsonl(500)), 60),
          rejected=(Rejected(0, 0, "the zstd data are damaged"),), packed=".zst", before_damage=True),
    _case(
        "zstd: a bomb of 1 GB in one line",
        lambda: long_line(1_000, event(1) + '\n{"id": "', '"}\n', zst),
        1,
        rejected=(Rejected(2, 2, "line 2: the line is longer"), Rejected(3, 3, "it is a decompression bomb")),
        packed=".zst",
    ),
]  # fmt: skip
