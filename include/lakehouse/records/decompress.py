"""Streamed decompression with bounded memory. What could be read comes out before the damage is reported."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from lakehouse.records.layout import Compression
from lakehouse.records.magic import hint

_PLAIN_BYTES = 512 * 1024
_PIECE_BYTES = 128 * 1024
_GZIP_BYTES = 64 * 1024
_ZSTD_BYTES = 1024  # 4 bytes of zstd can hold 128 KiB, so this bounds one step's output to 32 MiB
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_FREE_BYTES = 256 * 1024 * 1024
_MAX_EXPANSION = 200  # text that people keep shrinks to a tenth or a thirtieth; a bomb to a thousandth and less


class DamagedFile(Exception):
    """The file cannot be read any further; the text says why, in plain words."""


def pieces(stream: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """The stream's decompressed bytes, a piece at a time.

    Raises :class:`DamagedFile` where the compressed data are corrupt, cut short, something else or a decompression
    bomb; an ``OSError`` of the stream itself passes through.
    """
    if compression is None:
        return _read(stream, _PLAIN_BYTES)
    packed = _Counted(stream)
    return _bounded(_gunzip(packed) if compression == "gzip" else _unzstd(packed), packed)


def most_bytes(packed_bytes: int) -> int:
    """How much a file of this size may expand to: what it fills of memory and disk is bounded by what was landed."""
    return _FREE_BYTES + _MAX_EXPANSION * packed_bytes


def bomb(packed_bytes: int) -> DamagedFile:
    """The refusal of a file that expands to more than :func:`most_bytes`."""
    return DamagedFile(
        f"it is a decompression bomb: {packed_bytes:,} bytes of it expand to more than {most_bytes(packed_bytes):,}; "
        "if it is meant, send it in smaller files or less compressed"
    )


class _Counted:
    """A stream that knows how much was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size_bytes = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.size_bytes += len(data)
        return data


def _bounded(plain: Iterator[bytes], packed: _Counted) -> Iterator[bytes]:
    total = 0
    for piece in plain:
        total += len(piece)
        if total > most_bytes(packed.size_bytes):
            raise bomb(packed.size_bytes)
        yield piece


def utf8_from_utf16(source: Iterator[bytes]) -> Iterator[bytes]:
    """Recode UTF-16 (byte order by its mark) as UTF-8; unpaired surrogates come out as bytes that are not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
    for piece in source:
        yield decoder.decode(piece).encode("utf-8", "surrogatepass")
    try:
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise DamagedFile("the UTF-16 text ends in the middle of a character") from None


def _read(stream: BinaryIO | _Counted, size: int) -> Iterator[bytes]:
    while piece := stream.read(size):
        yield piece


def _gunzip(stream: _Counted) -> Iterator[bytes]:
    """All members of a gzip file, one after another; zero bytes after the last one are padding."""
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    is_between = is_first = True
    first = b""
    for data in _read(stream, _GZIP_BYTES):
        first = first or data
        while data:
            if is_between:
                if not is_first:
                    data = data.lstrip(b"\0")
                if not data:
                    break
                decoder, is_between, is_first = zlib.decompressobj(_GZIP_WINDOW), False, False
            before = decoder.copy()
            try:
                piece = decoder.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                yield _salvage(before, data)
                raise DamagedFile(f"the gzip data are damaged ({error}){hint(first)}") from None
            yield piece
            is_between = decoder.eof
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    yield decoder.flush()
    if not decoder.eof:
        raise DamagedFile("the gzip data end too early")


def _salvage(decoder: zlib._Decompress, data: bytes) -> bytes:
    """What can still be read before the damaged byte."""
    good = bytearray()
    try:
        for position in range(len(data)):
            good += decoder.decompress(data[position : position + 1])
            if len(good) >= _PIECE_BYTES:
                break
    except zlib.error:
        pass
    return bytes(good)


def _unzstd(stream: _Counted) -> Iterator[bytes]:
    """All frames of a zstd file. The library's own stream reader takes a file that was cut short for a whole one."""
    import zstandard

    decoder = zstandard.ZstdDecompressor().decompressobj()
    is_between = is_first = True
    first = b""
    for data in _read(stream, _ZSTD_BYTES):
        first = first or data
        while data:
            if is_between:
                decoder, is_between, is_first = zstandard.ZstdDecompressor().decompressobj(), False, False
            try:
                piece = decoder.decompress(data)
            except zstandard.ZstdError as error:
                raise DamagedFile(f"the zstd data are damaged ({error}){hint(first)}") from None
            for start in range(0, len(piece), _PIECE_BYTES):
                yield piece[start : start + _PIECE_BYTES]
            is_between = decoder.eof
            data = decoder.unused_data if decoder.eof else b""
    if is_first or not is_between:
        raise DamagedFile("the zstd data end too early")
