"""The columns of a table at two snapshots, by field id: what was added, dropped, renamed, widened, and what each means.

Names are those of the table now; a column that is gone keeps the one it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse.contracts.derive import generated_columns
from lakehouse.contracts.model import Table as Contracted
from lakehouse.core import names
from lakehouse.ledger.compare import Layout
from lakehouse.ledger.files import ColumnSource

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

MASK = "***"
_CLASSIFIED = ("sensitive", "pii")
_PREVIOUS = "previous_"
_INTERVAL = (names.EFFECTIVE_FROM, names.EFFECTIVE_TO, names.IS_CURRENT)


@dataclass(frozen=True)
class SchemaChange:
    """How the columns of two snapshots differ; ``renamed`` and ``retyped`` go from the old to the new."""

    added: tuple[str, ...]
    dropped: tuple[str, ...]
    renamed: Mapping[str, str]
    retyped: Mapping[str, tuple[str, str]]

    def __bool__(self) -> bool:
        return any((self.added, self.dropped, self.renamed, self.retyped))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Columns:
    """Two snapshots' business columns, by the names they are shown under, and the system's keys."""

    spec: Contracted
    change: SchemaChange
    common: tuple[str, ...]
    old: Mapping[str, ColumnSource]
    new: Mapping[str, ColumnSource]

    @cached_property
    def layout(self) -> Layout:
        """What the common columns mean: the contract's word now; one that it doesn't know counts as versioned."""
        attributes = [name for name in self.common if name not in (*self.spec.key, *_INTERVAL)]
        if self.spec.kind == "fact":
            return Layout(False, tuple(attributes))
        written_over = tuple(name for name in attributes if self._is_overwritten(name))
        return Layout(True, tuple(name for name in attributes if name not in written_over), written_over)

    def _is_overwritten(self, name: str) -> bool:
        if name in self.spec.attributes:
            return self.spec.history(name) != 2
        return name.startswith(_PREVIOUS) and name.removeprefix(_PREVIOUS) in self.spec.columns_of_type(3)


def masked(spec: Contracted, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row to show, without values that are classified, or of columns that the contract doesn't know any more."""
    public = {name for name, column in spec.columns.items() if column.classification not in _CLASSIFIED}
    for name in generated_columns(spec):
        original = name.removeprefix(_PREVIOUS)
        public |= {name} if original in public or original not in spec.columns else set()
    return {name: value if value is None or name in public else MASK for name, value in values.items()}


def schema_of(table: Table, snapshot: Snapshot) -> Schema:
    """The columns that a snapshot is read with: those of its time, and for the head those of now."""
    if snapshot.snapshot_id == table.metadata.current_snapshot_id or snapshot.schema_id is None:
        return table.schema()
    return table.schemas()[snapshot.schema_id]


def match_columns(table: Table, spec: Contracted, old: Schema, new: Schema) -> Columns:
    """The columns of two schemas of a table, matched by field id."""
    shown = _shown_names(table.schema(), old, new)
    before = {field.field_id: field for field in old.fields if field.field_id in shown}
    after = {field.field_id: field for field in new.fields if field.field_id in shown}
    types = {**before, **after, **{f.field_id: f for f in table.schema().fields if f.field_id in before}}
    both = [i for i in after if i in before]
    change = SchemaChange(
        added=tuple(shown[i] for i in after if i not in before),
        dropped=tuple(shown[i] for i in before if i not in after),
        renamed={before[i].name: after[i].name for i in both if before[i].name != after[i].name},
        retyped={
            shown[i]: (str(before[i].field_type), str(after[i].field_type))
            for i in both
            if before[i].field_type != after[i].field_type
        },
    )
    return Columns(
        spec,
        change,
        tuple(shown[i] for i in both if not shown[i].startswith("_")),
        {shown[i]: _source(types[i]) for i in before},
        {shown[i]: _source(types[i]) for i in after},
    )


def _shown_names(now: Schema, old: Schema, new: Schema) -> dict[int, str]:
    """A name for each business column and key of either schema; two columns never share one."""
    system = (names.KEY, names.VERSION_KEY)
    shown: dict[int, str] = {}
    for schema in (now, new, old):
        for field in schema.fields:
            if field.field_id not in shown and (field.name in system or not field.name.startswith("_")):
                is_taken = field.name in shown.values()
                shown[field.field_id] = f"{field.name} (column {field.field_id})" if is_taken else field.name
    return shown


def _source(field: Any) -> ColumnSource:
    """A column as Arrow has it. The system's keys are short; the rest of a column may be more than 2 GB."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.schema import Schema

    if field.name in (names.KEY, names.VERSION_KEY):
        return ColumnSource(field.field_id, pa.string())
    return ColumnSource(field.field_id, schema_to_pyarrow(Schema(field), include_field_ids=False).field(0).type)
