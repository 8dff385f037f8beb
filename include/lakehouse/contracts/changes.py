"""What a changed contract means for a table that was made with an earlier one. Pure: two contracts and some evidence.

A change is ``free`` when the table that stands is the one that a rebuild would give, but for its metadata; a
``replay`` when it only decides which rows are good, so that no value of a row may differ; a ``rebuild`` when rows may
differ; ``refused`` when the column that stands cannot hold the new type. A doubt is a rebuild. Types, names and rules
are compared as the earlier contract would have said them, so that a rename or a wider type shows up once and not in
each rule that mentions the column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from lakehouse.contracts import derive
from lakehouse.contracts.derive import Automatic
from lakehouse.contracts.model import Column, Contract, Table
from lakehouse.contracts.rewriting import computes_with, is_null_with, rename_columns
from lakehouse.contracts.semantics import semantics
from lakehouse.core import names
from lakehouse.core.types import DataType

Verdict = Literal["free", "replay", "rebuild", "refused"]
VERDICTS: tuple[Verdict, ...] = ("free", "replay", "rebuild", "refused")


@dataclass(frozen=True)
class Change:
    """One difference: what (``column added``), of what (its name, '' for the table), and what it means."""

    what: str
    subject: str = ""
    before: str = ""
    after: str = ""
    verdict: Verdict = "rebuild"
    reason: str = ""

    def render(self) -> str:
        """As a person reads it, without the verdict."""
        subject = f" {self.subject}" if self.subject else ""
        values = f": {self.before} → {self.after}" if self.before and self.after else ""
        values = values or (f": {self.after or self.before}" if self.after or self.before else "")
        return f"{self.what}{subject}{values}" + (f" ({self.reason})" if self.reason else "")


class Evidence(Protocol):
    """What has to be looked up in the lake, asked only where the verdict depends on it."""

    def seen(self, columns: frozenset[str]) -> frozenset[str]:
        """Those source columns of which live bronze rows may hold values."""
        ...

    def refused(self, rules: frozenset[str]) -> bool:
        """Whether a live row is in quarantine for one of these rules."""
        ...

    def names(self, column: str) -> frozenset[str]:
        """Every name that a column ever had, its own included."""
        ...


@dataclass(frozen=True)
class Worst:
    """Evidence where nothing is known: everything was seen, everything was refused."""

    def seen(self, columns: frozenset[str]) -> frozenset[str]:
        return columns

    def refused(self, rules: frozenset[str]) -> bool:
        return True

    def names(self, column: str) -> frozenset[str]:
        return frozenset({column})


def verdict_of(changes: Iterable[Change]) -> Verdict:
    """The gravest verdict; ``free`` where nothing changed."""
    return max((change.verdict for change in changes), key=VERDICTS.index, default="free")


def widens(before: DataType, after: DataType) -> bool:
    """Whether Iceberg can read every value of one type as the other without rewriting a file."""
    if before.name == after.name == "decimal":
        return before.scale == after.scale and before.precision < after.precision
    return (before.name, after.name) == ("int", "long")


def renames(before: Table, after: Table) -> dict[str, str]:
    """New name → former name of the columns that the later contract renames."""
    return {
        name: column.renamed_from
        for name, column in after.typed.items()
        if column.renamed_from
        and name not in before.typed
        and column.renamed_from in before.typed
        and column.renamed_from not in after.typed
        and (name in after.order) == (column.renamed_from in before.order)
    }


def only_adds(before: Table, after: Table) -> bool:
    """Whether every column that a table had is there by its name and type, so that kept observations can be read."""
    kept = {name: after.typed[name].type for name in before.typed if name in after.typed}
    return kept == {name: column.type for name, column in before.typed.items()}


def compare(before: Contract, after: Contract, name: str, evidence: Evidence) -> list[Change]:
    """Every difference that the rows or columns of a table may show, with its verdict, in the contract's order."""
    found = list(_Comparison(before, after, name, evidence).changes())
    if only_adds(before.tables[name], after.tables[name]):
        return found
    return [_not_alone(change) if change.verdict == "replay" else change for change in found]


def _not_alone(change: Change) -> Change:
    """A change of rules where columns changed too: the former rules cannot be said of the columns as they are now."""
    return replace(change, verdict="rebuild", reason=change.reason or "columns changed with it")


@dataclass(frozen=True)
class _Comparison:
    before: Contract
    after: Contract
    name: str
    evidence: Evidence

    @cached_property
    def old(self) -> Table:
        return self.before.tables[self.name]

    @cached_property
    def new(self) -> Table:
        return self.after.tables[self.name]

    @cached_property
    def renamed(self) -> dict[str, str]:
        return renames(self.old, self.new)

    @cached_property
    def widened(self) -> dict[str, DataType]:
        """New name → type before."""
        found = {}
        for name, column in self.new.typed.items():
            former = self.old.typed.get(self.renamed.get(name, name))
            if former is not None and widens(former.type, column.type):
                found[name] = former.type
        return found

    @cached_property
    def values(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The semantics of both, in the earlier one's names and types."""
        former = as_before(self.after, self.name, self.renamed, self.widened)
        earlier = as_before(self.before, self.name, dict.fromkeys(self.renamed, ""), {}) if self.renamed else None
        return semantics(earlier or self.before, self.name), semantics(former, self.name)

    def changes(self) -> Iterator[Change]:
        if self.old.kind != self.new.kind:
            yield Change("kind of the table", "", self.old.kind, self.new.kind, "refused")
            return
        for name, former in self.renamed.items():
            yield Change("column renamed", name, former, name, "free")
        for name in self.widened:
            yield self._widened(name)
        yield from self._columns("columns", "column")
        if self.new.kind == "dimension":
            yield from self._columns("order", "order column")
        yield from self._rules()
        yield from self._settings()
        yield from self._source()

    def _widened(self, name: str) -> Change:
        former, column = self.widened[name], self.new.typed[name]
        change = Change("column widened", name, str(former), str(column.type), "free")
        if self.evidence.refused(self._automatic(name, Automatic.of_type)):
            return replace(change, verdict="rebuild", reason="values that did not fit before are in quarantine")
        using = [r.name for r in self.new.all_rules if r.level == "error" and computes_with(r.check, name)]
        if using:
            return replace(change, verdict="rebuild", reason=f"rule {', '.join(using)} computes with it")
        return change

    def _automatic(self, name: str, rule: Callable[[str], str]) -> frozenset[str]:
        former = self.renamed.get(name, name)
        return frozenset(rule(each) for each in self.evidence.names(former) | {former, name})

    def _columns(self, part: str, word: str) -> Iterator[Change]:
        old, new = (value[part] for value in self.values)
        back = {former: name for name, former in self.renamed.items()}
        for name in getattr(self.new, part):
            if self.renamed.get(name, name) not in old:
                yield self._added(name, word)
        for name in getattr(self.old, part):
            if name not in new:
                yield Change(f"{word} removed", name, str(self.old.typed[name].type))
        for name in getattr(self.old, part):
            if name in new:
                yield from self._column(back.get(name, name), word, old[name], new[name])

    def _column(self, name: str, word: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
        for field in sorted(field for field in new if old[field] != new[field]):
            change = Change(f"{field} of the {word}", name, _text(old[field]), _text(new[field]))
            if field == "type" and word == "column":
                change = replace(change, verdict="refused")
            elif field == "nullable":
                change = replace(change, verdict="replay")
                if new[field]:
                    change = self._unless_refused(change, self._automatic(name, Automatic.not_null))
            yield change

    def _unless_refused(self, change: Change, rules: frozenset[str]) -> Change:
        """Free where no row is in quarantine for a rule that no longer is, or is laxer."""
        if self.evidence.refused(rules):
            return replace(change, reason="rows that it refused are in quarantine")
        return replace(change, verdict="free")

    @cached_property
    def unseen(self) -> frozenset[str]:
        """Added columns that are null in every row that bronze has."""
        return frozenset(
            name
            for name, column in self.new.typed.items()
            if self.renamed.get(name, name) not in self.old.typed
            and is_null_with(derive.expression_of(name, column), self._never_seen(name, column))
        )

    def _never_seen(self, name: str, column: Column) -> frozenset[str]:
        read = derive.compile_column(self.after, name, column).columns
        return read - self.evidence.seen(read)

    def _added(self, name: str, word: str) -> Change:
        column = self.new.typed[name]
        change = Change(f"{word} added", name, "", str(column.type))
        if name in self.new.key:
            return replace(change, reason="part of the key")
        if name not in self.unseen:
            return replace(change, reason="bronze can fill it for batches that were taken before")
        if not column.nullable:
            return replace(change, reason="it is not nullable, and no earlier row has it")
        return replace(change, verdict="free")

    def _rules(self) -> Iterator[Change]:
        old, new = (value["rules"] for value in self.values)
        checks = {rule.name: rule.check for rule in self.new.all_rules}
        former = {rule.name: rule.check for rule in self.old.all_rules}
        for name in sorted({*old, *new}):
            if name not in new:
                change = Change("rule removed", name, former[name], verdict="replay")
                yield self._unless_refused(change, frozenset({name}))
            elif name not in old:
                passes = self.unseen and is_null_with(checks[name], self.unseen)
                yield Change("rule added", name, "", checks[name], "free" if passes else "replay")
            elif old[name] != new[name]:
                yield Change("rule changed", name, former[name], checks[name], "replay")

    def _settings(self) -> Iterator[Change]:
        old, new = self.values
        for field in sorted({*old, *new} - {"columns", "order", "rules", "source", "kind", "format"}):
            if old.get(field) != new.get(field):
                change = Change(field.replace("_", " "), "", _text(old.get(field)), _text(new.get(field)))
                if field == "future_allowance_hours":
                    change = replace(change, verdict="replay")
                    if new[field] > old[field]:
                        change = self._unless_refused(change, frozenset({Automatic.FUTURE}))
                yield change

    def _source(self) -> Iterator[Change]:
        old, new = (value["source"] for value in self.values)
        for field in sorted(field for field in new if old[field] != new[field]):
            change = Change(f"{field} of the source", "", _text(old[field]), _text(new[field]))
            if field in ("csv", "format"):  # how files are read into bronze; what bronze has stays as it is
                change = replace(change, verdict="free", reason="for files that are read from now on")
            yield change


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items()) or "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None or value == "" else str(value)


def as_before(contract: Contract, name: str, renamed: Mapping[str, str], types: Mapping[str, DataType]) -> Contract:
    """The contract with columns of one table under former names and types. An empty former name changes nothing,
    but brings the checks into the same spelling."""
    back = {new: former for new, former in renamed.items() if former}
    raw = contract.dump()
    table, model = raw["tables"][name], contract.tables[name]
    for part in ("columns", "order"):
        columns = {}
        for column, spec in table.get(part, {}).items():
            spec |= {"expression": derive.expression_of(column, model.typed[column])}
            spec |= {"type": str(types[column])} if column in types else {}
            columns[back.get(column, column)] = spec
        table[part] = columns
    for rule in table.get("rules", ()) if renamed else ():
        rule["check"] = rename_columns(rule["check"], back)
    _rename_uses(table, back)
    return Contract.model_validate(raw)


def _rename_uses(table: dict[str, Any], back: Mapping[str, str]) -> None:
    for field in ("key", "sort"):
        table[field] = [back.get(column, column) for column in table.get(field, ())]
    for place in (*table.get("tie_breakers", ()), *filter(None, [table.get("deletion")])):
        place["column"] = back.get(place["column"], place["column"])
    for reference in table.get("references", ()):
        reference["key"] = [back.get(column, column) for column in reference["key"]]
    effective = table.get("effective_time", "")
    if effective and effective != names.UNIT:
        table["effective_time"] = back.get(effective, effective)
