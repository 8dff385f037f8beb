"""What is known of the lake's files from elsewhere: the backup sets, newest first, and earlier checks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lakehouse.backup.sets import BackupSet, Entry, Files, complete_ids, load_set
from lakehouse.backup.vault import Stored, Vault
from lakehouse.backup.verify import difference
from lakehouse.core.errors import IntegrityError
from lakehouse.recovery.memory import Memory

Told = Callable[[str], None]


@dataclass(frozen=True)
class Expected:
    """The bytes that a file must have; ``by`` says who knows: a set, the landing log, an earlier check."""

    size_bytes: int
    sha256: str
    by: str


@dataclass(frozen=True)
class GoodCopy:
    """Where the right bytes of a file are: an object of the backup, or a version of the file itself.

    ``is_sure``: its hash is the one that was known; else it is only whole by its structure. ``body`` are the bytes
    themselves, where other files of the lake say them.
    """

    source: str
    stored: Stored
    is_backup: bool
    is_sure: bool = True
    body: bytes | None = field(default=None, repr=False)


@dataclass
class Known:
    """Expectations and copies. Without a bucket of backups there are no sets. Older ones are read when needed."""

    vault: Vault | None
    public_key: str
    memory: Memory
    told: Told = lambda _: None
    _sets: list[tuple[BackupSet, Files]] = field(default_factory=list)
    _left: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._left = complete_ids(self.vault) if self.vault else []
        self._more()

    @property
    def newest(self) -> BackupSet | None:
        """The newest set that can be read."""
        return self._sets[0][0] if self._sets else None

    def entry(self, uri: str) -> Entry | None:
        """What the newest set says of a file."""
        return self._sets[0][1].get(uri) if self._sets else None

    def entries(self, uri: str) -> Iterator[tuple[str, Entry]]:
        """What each set says of a file, the newest first; reads on in older ones as long as somebody asks."""
        place = 0
        while place < len(self._sets) or self._more():
            found, files = self._sets[place]
            if uri in files:
                yield found.id, files[uri]
            place += 1

    def below(self, uri: str) -> tuple[str, list[Entry]]:
        """What a file named, by the newest set that has it."""
        for set_id, entry in self.entries(uri):
            if entry.refs:
                files = next(files for found, files in self._sets if found.id == set_id)
                return set_id, [files[ref] for ref in entry.refs]
        return "", []

    def expected(self, uri: str) -> Expected | None:
        """The bytes that a file must have, by the newest set or an earlier check."""
        if (entry := self.entry(uri)) is not None and self.newest is not None:
            return Expected(entry.copy.size_bytes, entry.copy.sha256, f"backup set {self.newest.id}")
        seen = self.memory.files.get(uri)
        return Expected(seen.size_bytes, seen.sha256, f"the check of {seen.at[:19]}") if seen else None

    def backup_copy(self, uri: str, sha256: str = "") -> GoodCopy | None:
        """The newest copy of a file that is whole now, with this hash where it is known."""
        tried: set[tuple[str, str]] = set()
        for set_id, entry in self.entries(uri):
            stored = entry.copy
            if sha256 in ("", stored.sha256) and (stored.key, stored.version) not in tried:
                tried.add((stored.key, stored.version))
                for version in dict.fromkeys(("", stored.version)):
                    if self.vault and _is_whole(self.vault, stored, version):
                        return GoodCopy(f"backup set {set_id}", _at(stored, version), is_backup=True)
        return None

    def _more(self) -> bool:
        """Read the next older set; those that cannot be read are passed over. False where there is none."""
        with self._lock:
            while self.vault and self._left:
                set_id = self._left.pop()
                try:
                    found = load_set(self.vault, set_id, self.public_key)
                    self._sets.append((found, found.files()))
                    return True
                except IntegrityError as error:
                    self.told(f"backup set {set_id} is of no use: {error.what}")
            return False


def _at(stored: Stored, version: str) -> Stored:
    return Stored(stored.key, stored.size_bytes, stored.sha256, stored.checksum, version)


def _is_whole(vault: Vault, stored: Stored, version: str) -> bool:
    try:
        sha256, size = vault.digest(stored.key, version)
    except IntegrityError:
        return False
    return not difference(stored, size, sha256)
