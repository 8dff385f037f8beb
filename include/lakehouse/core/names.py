"""Names are checked before they reach SQL, a path or an object key."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lakehouse.core.errors import SettingsError

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_NAMESPACES = ("bronze", "silver", "gold", "quarantine", "ops")

BATCH = "_batch"
UNIT = "_unit"
FILE = "_source_file"  # Iceberg reserves _file
RECORD = "_record"
LINE = "_line"
LANDED_AT = "_landed_at"
EXTRA = "_extra"
MISSING = "_missing"
RAW = "_raw"
REJECTED = "_rejected"
KEY = "_key"
VERSION_KEY = "_version_key"
RULES = "_rules"
FINGERPRINT = "_fingerprint"
OCCURRENCE = "occurrence"
EFFECTIVE_FROM = "effective_from"
EFFECTIVE_TO = "effective_to"
IS_CURRENT = "is_current"


def is_identifier(name: str) -> bool:
    """Whether a name may be used for a table, column, domain or dataset."""
    return bool(_IDENTIFIER.match(name))


def check_identifier(name: str, what: str) -> str:
    """Return ``name``, or raise :class:`SettingsError` saying which rule it breaks."""
    if not is_identifier(name):
        raise SettingsError(
            f"{name!r} is not a valid {what}",
            todo="use lower-case letters, digits and _, start with a letter, at most 63 characters",
        )
    return name


def quote(name: str) -> str:
    """A column name as Spark SQL wants it, whatever it contains."""
    return "`" + name.replace("`", "``") + "`"


@dataclass(frozen=True, order=True)
class TableName:
    """A table of the lake: ``namespace.name``."""

    namespace: str
    name: str

    def __post_init__(self) -> None:
        if self.namespace not in _NAMESPACES:
            raise SettingsError(f"{self.namespace!r} is no layer of the lake", todo=f"use one of {_NAMESPACES}")
        check_identifier(self.name, "table name")

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read ``namespace.name``; raises :class:`SettingsError` where it is something else."""
        namespace, dot, name = text.partition(".")
        if not dot:
            raise SettingsError(f"{text!r} is not a table", todo="write it as layer.table, as in silver.dim_customer")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"
