"""What was found when sets were verified: kept beside them, since pruning and the next set go by it.

A record is signed like the manifest of a set. One that is not says nothing good about a set, whoever wrote it: else
somebody who may write backups could have the last good ones pruned. What it calls damaged is stored anew all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from lakehouse.backup.signing import Signer, check_signature
from lakehouse.backup.vault import Vault
from lakehouse.core.errors import IntegrityError

FORMAT_VERSION = 1
VERIFIED = "verified/"


@dataclass(frozen=True)
class Damage:
    """A file of a set that is not as it was stored, and the tables and snapshots that it hurts.

    ``uri`` is the original, ``kind`` what it is; ``good_version`` is the version that was stored where the server still
    has that, '' if not.
    """

    key: str
    uri: str
    kind: str
    problem: str
    tables: tuple[str, ...] = ()
    snapshots: tuple[int, ...] = ()
    good_version: str = ""


@dataclass(frozen=True)
class Verification:
    """One look at a set: ``files`` were looked at, ``read`` of them from the first byte to the last.

    ``share`` is which part of the data was read, as in 3/7; '' means all of it. ``others`` is what was found of the
    documents of other sets, which says nothing about this one.
    """

    set_id: str
    at: str
    share: str
    files: int
    read: int
    read_bytes: int
    damages: tuple[Damage, ...]
    others: tuple[Damage, ...] = ()
    format_version: int = FORMAT_VERSION
    signature: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not self.damages

    def signed(self, signer: Signer) -> Verification:
        """With a signature over everything else."""
        bare = replace(self, signature="")
        return replace(bare, signature=signer.sign(bare.to_json()))

    def is_ours(self, public_key: str) -> bool:
        """Whether it was signed with the key whose public part this is."""
        bare = replace(self, signature="").to_json()
        with suppress(IntegrityError):
            check_signature(bare, self.signature, public_key, self.set_id, what="the record of a verification")
            return True
        return False

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Verification:
        """Read what :meth:`to_json` wrote; raises :class:`IntegrityError`."""
        try:
            value: dict[str, Any] = json.loads(data)
            damages, others = (tuple(map(_damage, value.get(name, ()))) for name in ("damages", "others"))
            return cls(**{**value, "damages": damages, "others": others})
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the record of a verification cannot be read: {error}", where=where) from None


def _damage(value: dict[str, Any]) -> Damage:
    return Damage(**{**value, "tables": tuple(value["tables"]), "snapshots": tuple(value["snapshots"])})


def write_record(vault: Vault, record: Verification, signer: Signer | None) -> None:
    """Keep a record, under the set's id and the time. Without a signer it says what is damaged, and nothing else."""
    record = record.signed(signer) if signer else record
    stamp = record.at.replace(":", "").replace("-", "")
    vault.put(f"{VERIFIED}{record.set_id}/{stamp}.json", record.to_json(), anew=True)


def read_records(vault: Vault, set_id: str, public_key: str) -> list[Verification]:
    """All records of a set that we signed, oldest first."""
    return sorted(_records(vault, set_id, public_key), key=lambda each: each.at)


def newest_records(
    vault: Vault, bases: Sequence[str], public_key: str, known: dict[str, Verification]
) -> tuple[Verification | None, list[Verification]]:
    """The last look at a set, and the last one at all base backups: these have one record each, of one moment.

    Only what we signed counts. ``known`` has what was read before by its key, and afterwards what was read now.
    """
    times = {key: key.rpartition("/")[2] for key in vault.keys(VERIFIED) if key.endswith(".json")}
    latest = sorted(times, key=lambda key: times[key], reverse=True)
    of_bases = [key for key in latest if key.removeprefix(VERIFIED).partition("/")[0] in bases]
    found: dict[str, Verification] = {}

    def is_ours(key: str) -> bool:
        record = known.get(key) or _read(vault, key, public_key)
        found.update({key: record} if record else {})
        return record is not None

    newest = next(filter(is_ours, (key for key in latest if key not in of_bases)), "")
    last = next(filter(is_ours, of_bases), "")
    same = [key for key in of_bases if last and times[key] == times[last] and is_ours(key)]
    known.clear()
    known.update(found)
    return found.get(newest), [found[key] for key in sorted(same)]


def _records(vault: Vault, set_id: str, public_key: str = "") -> list[Verification]:
    """All that can be read: nobody stops a backup by writing others beside them."""
    found = (_read(vault, key, public_key) for key in sorted(vault.keys(f"{VERIFIED}{set_id}/")))
    return [record for record in found if record and record.set_id == set_id]


def _read(vault: Vault, key: str, public_key: str = "") -> Verification | None:
    """What stands there, on top or below; with a key only what was signed with it."""
    for body in vault.bodies(key):
        with suppress(IntegrityError):
            record = Verification.from_json(body, vault.store.where(key))
            if not public_key or record.is_ours(public_key):
                return record
    return None


def damaged_keys(vault: Vault, set_id: str) -> frozenset[str]:
    """The objects that any verification of a set found damaged."""
    return frozenset(damage.key for record in _records(vault, set_id) for damage in record.damages)
