"""Where file sources are: a folder, or a prefix on the S3 server. Both list, and read a file in one known state."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lakehouse.core.errors import SourceError
from lakehouse.ledger.store import ContentMismatch, ObjectStore, Reader

_S3 = "s3://"


@dataclass(frozen=True)
class FoundFile:
    """A file of a source. ``name`` is relative to the folder that was listed; ``state`` names what is in it.

    ``fault`` says why it must not be read, if so. A folder that cannot be read is a file too: its name ends with a /.
    """

    name: str
    path: str
    size_bytes: int
    state: str
    fault: str = ""


class Place(Protocol):
    """A root below which sources lie."""

    def has_folder(self, folder: str) -> bool:
        """Whether there is such a folder; an empty name means the root."""
        ...

    def files(self, folder: str, depth: int) -> Iterator[FoundFile]:
        """The files at most ``depth`` names below a folder."""
        ...

    @contextmanager
    def reading(self, found: FoundFile) -> Iterator[Reader]:
        """Read a file; raises :class:`ContentMismatch` when it is no longer in the state that was listed."""
        ...


def open_place(root: str, store: ObjectStore) -> Place:
    """A folder, or ``s3://bucket/prefix`` on the server of ``store``. Raises SourceError where there is none."""
    if root.startswith(_S3):
        bucket, _, prefix = root.removeprefix(_S3).partition("/")
        return S3Place(store.in_bucket(bucket), prefix.strip("/"))
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise SourceError(
            "there is no such folder of sources",
            where=str(folder),
            todo="give one with --root, set LAKEHOUSE_SOURCES, or make sample sources with `lakehouse sample`",
        )
    return LocalPlace(folder)


@dataclass(frozen=True)
class LocalPlace:
    """A folder of this machine."""

    root: Path

    def has_folder(self, folder: str) -> bool:
        return (self.root / folder).is_dir()

    def files(self, folder: str, depth: int) -> Iterator[FoundFile]:
        start = self.root / folder
        yield from self._walk(str(start), "", depth)

    def _walk(self, path: str, above: str, depth: int) -> Iterator[FoundFile]:
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            if not above:
                raise
            yield FoundFile(above, path, 0, "", f"the folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            name = f"{above}{entry.name}"
            if os.path.isdir(entry.path) and not self._leaves_root(entry.path):
                if depth > 1:
                    yield from self._walk(entry.path, f"{name}/", depth - 1)
                else:
                    yield FoundFile(name, entry.path, 0, "", "it is a folder; a file is expected")
            else:
                yield self._found(entry.path, name)

    def _found(self, path: str, name: str) -> FoundFile:
        try:
            status = os.stat(path)
        except OSError as error:
            return FoundFile(name, path, 0, "", f"it cannot be read: {error.strerror}")
        if self._leaves_root(path):
            return FoundFile(name, path, 0, "", "it is a link that leads out of the sources' root")
        fault = "" if stat.S_ISREG(status.st_mode) else "it is not a regular file"
        return FoundFile(name, path, status.st_size, _state(status), fault)

    def _leaves_root(self, path: str) -> bool:
        return os.path.islink(path) and not Path(path).resolve().is_relative_to(self.root)

    @contextmanager
    def reading(self, found: FoundFile) -> Iterator[Reader]:
        with open(found.path, "rb", buffering=0) as stream:
            self._require_state(found, os.fstat(stream.fileno()))
            yield _FullReader(stream)
            self._require_state(found, os.fstat(stream.fileno()))
            self._require_state(found, os.stat(found.path))

    @staticmethod
    def _require_state(found: FoundFile, status: os.stat_result) -> None:
        if _state(status) != found.state:
            raise ContentMismatch("the file changed while it was read", where=found.path)


@dataclass(frozen=True)
class S3Place:
    """A prefix of a bucket."""

    store: ObjectStore
    prefix: str

    def has_folder(self, folder: str) -> bool:
        return not folder or any(self.store.list_after(self._below(folder)))

    def files(self, folder: str, depth: int) -> Iterator[FoundFile]:
        below = self._below(folder)
        for found in self.store.list_after(below, delimiter="/" if depth == 1 else ""):
            name = found.key.removeprefix(below)
            if name and not name.endswith("/"):  # consoles create empty objects as folders
                yield FoundFile(name, found.key, found.size_bytes, found.etag)

    @contextmanager
    def reading(self, found: FoundFile) -> Iterator[Reader]:
        with self.store.reading(found.path, found.state) as stream:
            yield stream

    def _below(self, folder: str) -> str:
        return "".join(f"{part}/" for part in (self.prefix, folder) if part)


class _FullReader:
    """An unbuffered file; the caller chooses the size of its reads."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(size) or b""


def _state(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
