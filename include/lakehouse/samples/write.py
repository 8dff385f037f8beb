"""Writing a sample file: streamed, compressed by its name, and there as a whole or not at all."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from lakehouse.core.errors import SettingsError


@dataclass(frozen=True)
class Written:
    """A part of the sample: how many files and lines (or rows of a table), and how many bytes on disk."""

    files: int = 0
    rows: int = 0
    size_bytes: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.files + other.files, self.rows + other.rows, self.size_bytes + other.size_bytes)


def write_lines(path: Path, lines: Iterable[bytes], *, header_lines: int = 0) -> Written:
    """Write the lines to ``path``, compressed when it ends in .gz or .zst. ``rows`` leaves the header out."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            count = _write(file, path.suffix, lines)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise SettingsError(
            f"a sample file cannot be written: {error.strerror}", where=str(path), todo="choose a folder with --out"
        ) from None
    return Written(1, count - header_lines, path.stat().st_size)


def _write(file: BinaryIO, suffix: str, lines: Iterable[bytes]) -> int:
    count = 0
    with _packed(file, suffix) as sink:
        for line in lines:
            if line:
                sink.write(line)
                count += 1
    return count


@contextmanager
def _packed(file: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """The file behind its compression. No time and no name go into it, so that equal lines give equal bytes."""
    if suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            yield cast(BinaryIO, packed)
    elif suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as writer:
            yield cast(BinaryIO, writer)
    else:
        yield file
