"""Which sets there must be: a name for each outside its own folder, so that a set that is lost as a whole is missed.

A set is entered when it is complete, and struck out when it is pruned. One that is here and nowhere else was lost.
"""

from __future__ import annotations

import hashlib

from lakehouse.backup.copying import in_threads
from lakehouse.backup.records import Damage
from lakehouse.backup.sets import COMPLETE, MANIFEST, PRUNED, ROSTER, load_set, set_ids, set_key
from lakehouse.backup.vault import Vault
from lakehouse.core.errors import IntegrityError

_EVERY_TABLE = ("every table",)


def enter(vault: Vault, set_id: str) -> None:
    """Enter a complete set. Once is enough."""
    if vault.head(f"{ROSTER}{set_id}") is None:
        vault.put(f"{ROSTER}{set_id}", f"{set_id}\n".encode())


def entered(vault: Vault) -> list[str]:
    """The sets that were complete once and were not pruned, oldest first."""
    return sorted(key.removeprefix(ROSTER) for key in vault.keys(ROSTER))


def lost(vault: Vault, public_key: str, but: str, *, is_whole: bool) -> tuple[Damage, ...]:
    """What is wrong with the other sets' own documents. ``is_whole``: their lists of files are read, too."""
    listed = set(entered(vault))
    others = sorted({*listed, *set_ids(vault)} - {but})
    found = in_threads(lambda set_id: _problem(vault, public_key, set_id, set_id in listed, is_whole), others)
    return tuple(damage for damage in found if damage is not None)


def _problem(vault: Vault, public_key: str, set_id: str, is_entered: bool, is_whole: bool) -> Damage | None:
    if vault.head(set_key(set_id, PRUNED)) is not None:
        return None
    if vault.head(set_key(set_id, COMPLETE)) is None:
        return _damage(set_id, COMPLETE, "the set was complete once, and is gone") if is_entered else None
    try:
        found = load_set(vault, set_id, public_key)
        if is_whole:
            found.files()
    except IntegrityError as error:
        key = error.where.removeprefix(f"s3://{vault.store.bucket}/")
        return Damage(key, "", "document", f"{error.what}: the whole set is lost", _EVERY_TABLE)
    for name, sha256 in found.documents.items():
        problem = _covered(vault, set_key(set_id, name), sha256, is_read=is_whole or name in (MANIFEST, COMPLETE))
        if problem:
            return _damage(set_id, name, problem)
    return None


def _covered(vault: Vault, key: str, sha256: str, *, is_read: bool) -> str:
    """What is wrong with a document as a reader of the bucket sees it, '' if nothing. A former version may be whole."""
    if not is_read:
        return "" if vault.head(key) else "it is missing"
    try:
        return (
            "" if hashlib.sha256(vault.get(key)).hexdigest() == sha256 else "its bytes are not those that were stored"
        )
    except IntegrityError:
        return "it is missing"


def _damage(set_id: str, name: str, problem: str) -> Damage:
    return Damage(set_key(set_id, name), "", "document", problem, _EVERY_TABLE)
