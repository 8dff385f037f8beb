"""The page for users, made of the cases: ``python -m tests.bad_input.page > docs/bad-input.md``."""

from __future__ import annotations

from tests.bad_input.cases import GROUPS
from tests.bad_input.model import FORMATS, Case
from tests.bad_input.names import NAME_CASES, NameCase

_INTRODUCTION = """# What becomes of bad input

This page is made by `python -m tests.bad_input.page` of the cases in `tests/bad_input`, and a test compares the two.
Every case runs through the real readers, and through landing, bronze and silver on real servers, beside a sound file
of the same day, whose rows are published whatever the case is.

| word | what it means | where to look |
|---|---|---|
| accepted | the rows are published | the silver tables |
| quarantined | the row could be read and fails a rule; it is kept as it came, with the names of all rules | \
`quarantine.<table>`: `_source_file`, `_record`, `_rules` |
| rejected | a record, or the rest of a file, could not be read; it is kept as it came, up to 1 MiB of it, with the \
reason | `bronze.<source>`: `_source_file`, `_record`, `_line`, `_raw`, `_rejected` |
| refused | landing does not take the unit, and says why; the other units land | the end of `lakehouse land`, which \
then ends with code 4 |
| passed over | the file does not belong to the source | the list that `lakehouse land` prints |

A record is counted from 1 in its file; a line, where the format has lines, is the physical one that the record starts
on. What to do is the same for all: put the file right at its source and land it again under the same name. The new
batch takes the place of the old one, and rejected and quarantined rows of the old one count no longer.

How much one file may take is bounded. A record longer than 1 MiB is rejected. A compressed file, and a Parquet file,
may expand to 256 MiB and 200 times its own size; what goes beyond is taken for a decompression bomb, and the rest of
the file is rejected as one record. A column name may have 255 bytes. JSON may be nested 64 deep.

Two things cannot be seen in the bytes of one file: a CSV file that was cut inside its last field without leaving out
one (write such files under another name, such as `.part`, and rename them), and rows of a damaged gzip file that came
before the damage was met, which are accepted. If that is not wanted, discard the batch.
"""
_NAMES = """## Names and things that are not files

`DAY` stands for the unit. Names that hold spaces, commas, quotes, backticks, semicolons, `%2e`, braces or emoji are
plain text everywhere; they are above.

| input | what becomes of it | what is said |
|---|---|---|
"""
_REST = """
## Changes, copies and words in place of dates

| input | what becomes of it |
|---|---|
| same name, other bytes | another batch, which takes the place of the first |
| other name, same bytes | nothing: `unchanged` |
| two names with the same bytes in one unit | refused: the rows would count twice; files without a record may be equal |
| a file that grows, shrinks, is rewritten, replaced or removed while it is read | refused; landed by the next run, \
when it is at rest |
| a half-written file that is complete later | landed as it is, the torn last line rejected; the whole file takes \
its place |
| Jinja (`{{ ds }}`), paths or SQL in place of a date, a source or a folder | refused with code 2 or 4; nothing is \
rendered |
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for title, cases in GROUPS.items():
        rows = "".join(_row(case) for case in cases)
        parts.append(f"## {title}\n\n| input | format | what becomes of it | what is said |\n|---|---|---|---|\n{rows}")
    names = "".join(_name_row(case) for case in NAME_CASES)
    return "\n".join([*parts, _NAMES + names]) + _REST


def _row(case: Case) -> str:
    said = dict.fromkeys(one.reason for one in case.rejected)
    rules = dict.fromkeys(rule for rules in case.quarantined.values() for rule in rules)
    text = "; ".join([*(f"… {reason} …" for reason in said), *(f"`{rule}`" for rule in rules), *_columns(case)])
    packed = f", `{case.packed}`" if case.packed else ""
    return f"| {_cell(case.title)} | {FORMATS[case.source]}{packed} | {_fate(case)} | {_cell(text)} |\n"


def _fate(case: Case) -> str:
    if case.before_damage:
        return "what comes before the damage is read, the rest rejected"
    parts = [f"{case.good:,} accepted"] if case.good else []
    parts += [f"{len(case.quarantined)} quarantined{_at(sorted(case.quarantined))}"] if case.quarantined else []
    parts += [f"{len(case.rejected)} rejected{_at([one.record for one in case.rejected])}"] if case.rejected else []
    return ", ".join(parts) or "accepted, without a record"


def _at(records: list[int]) -> str:
    return f" (record {records[0]:,})" if len(records) == 1 else ""


def _columns(case: Case) -> list[str]:
    """Which columns were found or lost."""
    many = isinstance(case.extra, int)
    extra = f"{case.extra:,} columns" if many else ", ".join(f"`{name}`" for name in sorted(case.extra))  # type: ignore
    missing = ", ".join(f"`{name}`" for name in sorted(case.missing))
    found = [f"kept in `_extra`: {extra}"] if extra else []
    return found + ([f"null, and named in `_missing`: {missing}"] if missing else [])


def _name_row(case: NameCase) -> str:
    name = case.name.replace("{day}", "DAY").encode("unicode_escape", "backslashreplace").decode()
    fate = {"unit refused": "refused, with its unit", "file refused": "refused", "lands": "accepted"}
    name = name if len(name) < 60 else name[:20] + "…"
    said = f"… {case.reason} …" if case.reason else ""
    return f"| {_cell(case.title)}: `{name}` | {fate.get(case.verdict, case.verdict)} | {_cell(said)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(render(), end="")
