"""Names of tables that a restore took the place of: they stay in the catalog until somebody lets them go."""

from __future__ import annotations

import hashlib

from lakehouse.core.names import TableName

KEPT_NAMESPACE = "ops"
KEPT_PREFIX = "kept_"
KEPT_PROPERTY = "lakehouse.kept."
"""What restores note of each table among the properties of a namespace, in the transaction that moves the pointers."""
_DIGITS = 8


def kept_name(table: TableName, restore_id: str) -> TableName:
    """The name under which a table is kept that a restore took the place of."""
    digits = hashlib.sha256(str(table).encode()).hexdigest()[:_DIGITS]
    return TableName(KEPT_NAMESPACE, f"{KEPT_PREFIX}{restore_id}_{digits}")


def is_kept(namespace: str, name: str) -> bool:
    """Whether a name of the catalog is that of a table that is kept so.

    Nobody works on such a table, and no backup has it. Its files are referred to like those of any other.
    """
    return namespace == KEPT_NAMESPACE and name.startswith(KEPT_PREFIX)
