"""Whether the databases can be brought back: every base backup, and the log from each one on, without a gap."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lakehouse.backup import wal
from lakehouse.backup.bases import MANIFEST, Base, base_key, complete_base_ids, load_base
from lakehouse.backup.copying import in_threads
from lakehouse.backup.records import Damage, Verification
from lakehouse.backup.vault import Stored, Vault
from lakehouse.backup.verify import Share
from lakehouse.backup.wal import Archived, Gap
from lakehouse.core.errors import IntegrityError


@dataclass
class _Server:
    """The archive of one server, each file of which is looked at once, whatever base backup leads along it."""

    vault: Vault
    number: str
    share: Share
    files: Mapping[str, Archived]
    problems: dict[str, str] = field(default_factory=dict)
    looked_at: int = 0
    read: int = 0
    read_bytes: int = 0

    def look(self, files: Sequence[Archived]) -> None:
        """Read those of them that are due and were not read yet."""
        new = [file for file in files if file.name not in self.problems]
        self.looked_at += len(new)
        due = [file for file in new if self.share.has(file.key)]
        self.problems |= {file.name: "" for file in new}
        self.problems |= dict(in_threads(lambda file: (file.name, self._problem(file)), due))
        self.read += len(due)
        self.read_bytes += sum(file.size_bytes for file in due)

    def _problem(self, file: Archived) -> str:
        try:
            return wal.misfit(file.name, self.number, wal.read(self.vault, file.key))
        except IntegrityError as error:
            return error.what


def verify_bases(vault: Vault, public_key: str, share: Share, at: datetime) -> tuple[Verification, ...]:
    """Look at every complete base backup and at the log that follows it: one record each, oldest first.

    Damage is in the records, not raised. Which segments there should be follows from their numbers.
    """
    servers: dict[str, _Server] = {}
    records = []
    for base_id in complete_base_ids(vault):
        try:
            base = load_base(vault, base_id, public_key)
        except IntegrityError as error:
            damage = Damage(base_key(base_id, MANIFEST), "", "base", f"{error.what}: the whole base backup is lost")
            records.append(Verification(base_id, at.isoformat(), str(share), 1, 1, 0, (damage,)))
            continue
        if base.server not in servers:
            servers[base.server] = _Server(vault, base.server, share, wal.archived(vault, base.server))
        records.append(_verify(vault, base, servers[base.server], share, at))
    return tuple(records)


def _verify(vault: Vault, base: Base, server: _Server, share: Share, at: datetime) -> Verification:
    looked_at, read, read_bytes = server.looked_at, server.read, server.read_bytes
    parts = [(part, _problem(vault, part, is_read=share.has(part.key))) for part in base.parts]
    damages = [Damage(part.key, "", "base", problem) for part, problem in parts if problem]
    timelines = [] if base.first_segment < wal.pruned_before(vault, base.server) else _timelines(base, server)
    for timeline in timelines:
        damages += [each for each in _along(vault, base, server, timeline) if each not in damages]
    whole = [part for part in base.parts if share.has(part.key)]
    return Verification(
        base.id,
        at.isoformat(),
        str(share),
        len(base.parts) + server.looked_at - looked_at,
        len(whole) + server.read - read,
        sum(part.size_bytes for part in whole) + server.read_bytes - read_bytes,
        tuple(damages),
    )


def _timelines(base: Base, server: _Server) -> list[int]:
    """Those that may come from a base: its own, and later ones. What went before all of them was pruned."""
    return sorted({base.timeline, *(each for each in wal.timelines(server.files) if each > base.timeline)})


def _along(vault: Vault, base: Base, server: _Server, timeline: int) -> list[Damage]:
    """What is missing or damaged of the log from a base along the way to a timeline."""
    try:
        path = wal.path_to(vault, server.files, timeline)
    except IntegrityError as error:
        return [Damage(error.where, "", "wal", error.what)]
    if not wal.leads_on(path, base.timeline, base.end_lsn):
        return []
    chain = wal.chain(server.files, path, (base.timeline, wal.lsn_of(base.start_lsn)), base.segment_bytes)
    server.look([*chain.files, *chain.beyond])
    found = [_damage(file, chain.files, server.problems[file.name]) for file in chain.files]
    return [each for each in found if each] + (_lost(server.number, chain.gap) if chain.gap else [])


def _damage(file: Archived, files: Sequence[Archived], problem: str) -> Damage | None:
    if not problem:
        return None
    place = files.index(file)
    after = files[place - 1].at if place else None
    return Damage(file.key, "", "wal", f"{problem}; {_span(after, file.at)}")


def _lost(server: str, gap: Gap) -> list[Damage]:
    said = f"it is missing; {_span(gap.after, gap.before)}"
    return [Damage(wal.key_of(server, name), "", "wal", said) for name in gap.names]


def _span(after: datetime | None, before: datetime) -> str:
    begin = f"from {after.isoformat(timespec='seconds')} " if after else ""
    end = before.isoformat(timespec="seconds")
    return f"no moment {begin}to {end}, nor a later one before the next base backup, can be reached"


def _problem(vault: Vault, part: Stored, *, is_read: bool) -> str:
    """What is wrong with a part, by what the server says of it, or by all its bytes."""
    found = vault.head(part.key, part.version)
    if found is None:
        return "it is missing"
    if found.size_bytes != part.size_bytes or (found.checksum and found.checksum != part.checksum):
        return "it has other bytes"
    if is_read and hashlib.sha256(vault.get(part.key, part.version)).hexdigest() != part.sha256:
        return "it has other bytes"
    return ""
