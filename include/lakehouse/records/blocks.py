"""Cutting a stream of bytes into blocks of whole lines, whatever the size of its pieces."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from lakehouse.records.decompress import DamagedFile
from lakehouse.records.layout import MAX_RECORD_BYTES

BLOCK_BYTES = 512 * 1024
_UTF8_MARK = b"\xef\xbb\xbf"


class CutLine(bytes):
    """The beginning of a line that is longer than a record may be; the rest of it was skipped."""


class Blocks:
    """Blocks of whole lines. ``damage`` tells, once :meth:`take` returned None, why the file could not be read on.

    With ``cr_ends_lines`` a lone CR ends a line, as in old CSV files; otherwise only LF does. ``rest`` is then what
    stood after the last whole line when the damage was met.
    """

    def __init__(self, pieces: Iterator[bytes], *, cr_ends_lines: bool) -> None:
        self._pieces = pieces
        self._cr = cr_ends_lines
        self._returned: list[bytes] = []
        self._line_end = re.compile(rb"\r\n|\n|\r(?!\Z)" if cr_ends_lines else rb"\n")
        self._is_first = True
        self.rest = b""
        self.damage: DamagedFile | None = None

    def take(self) -> bytes | None:
        """The next block, about BLOCK_BYTES long; a :class:`CutLine` for an overlong line; None at the end."""
        if self._returned:
            return self._returned.pop()
        while data := self._read():
            data = self.rest + data
            if end := self._end_of_lines(data):
                self.rest = data[end:]
                return data[:end]
            self.rest = data
            if len(data) > MAX_RECORD_BYTES:
                return self._skip_line()
        return self._take_last()

    def give_back(self, block: bytes) -> None:
        """Make ``block`` the next one to be taken."""
        if block:
            self._returned.append(block)

    def split(self, block: bytes) -> list[bytes]:
        """The lines of a block, each with its end."""
        if isinstance(block, CutLine):
            return [block]
        return block.splitlines(keepends=True) if self._cr else io.BytesIO(block).readlines()

    def _take_last(self) -> bytes | None:
        """What stands after the last line end is a line too, unless the file was damaged there."""
        if self.damage is not None or not self.rest:
            return None
        block, self.rest = self.rest, b""
        return block

    def _end_of_lines(self, data: bytes) -> int:
        """Just after the last line end; a CR at the very end may be half of one, so it waits."""
        end = data.rfind(b"\n")
        if self._cr:
            end = max(end, data.rfind(b"\r", end + 1, len(data) - 1))
        return end + 1

    def _skip_line(self) -> CutLine:
        head, data = CutLine(self.rest[: MAX_RECORD_BYTES + 1]), self.rest
        self.rest = b""
        while (match := self._line_end.search(data)) is None:
            more = self._read()
            if not more:
                return head
            data = data[-1:] + more
        self.rest = data[match.end() :]
        return head

    def _read(self) -> bytes:
        """Pieces of at least BLOCK_BYTES together; b"" at the end."""
        gathered, size = [], 0
        while size < BLOCK_BYTES and self.damage is None:
            try:
                piece = next(self._pieces, None)
            except DamagedFile as damage:
                self.damage = damage
                break
            if piece is None:
                break
            gathered.append(piece)
            size += len(piece)
        data = b"".join(gathered)
        if self._is_first and data:
            self._is_first, data = False, data.removeprefix(_UTF8_MARK)
        return data
