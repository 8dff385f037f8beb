"""Streamed decompression with bounded memory. What could be read comes out before the damage is reported."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from lakehouse.records.layout import Compression

_PLAIN_BYTES = 512 * 1024
_PIECE_BYTES = 128 * 1024
_GZIP_BYTES = 64 * 1024
_ZSTD_BYTES = 1024  # 4 bytes of zstd can hold 128 KiB, so this bounds one step's output to 32 MiB
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class DamagedFile(Exception):
    """The file cannot be read any further; the text says why, in plain words."""


def pieces(stream: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """The stream's decompressed bytes, a piece at a time.

    Raises :class:`DamagedFile` where the compressed data are corrupt, cut short or something else; an ``OSError`` of
    the stream itself passes through.
    """
    if compression == "gzip":
        return _gunzip(stream)
    if compression == "zstd":
        return _unzstd(stream)
    return _read(stream, _PLAIN_BYTES)


def utf8_from_utf16(source: Iterator[bytes]) -> Iterator[bytes]:
    """Recode UTF-16 (byte order by its mark) as UTF-8; unpaired surrogates come out as bytes that are not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
    for piece in source:
        yield decoder.decode(piece).encode("utf-8", "surrogatepass")
    try:
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise DamagedFile("the UTF-16 text ends in the middle of a character") from None


def _read(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while piece := stream.read(size):
        yield piece


def _gunzip(stream: BinaryIO) -> Iterator[bytes]:
    """All members of a gzip file, one after another; zero bytes after the last one are padding."""
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    is_between = is_first = True
    for data in _read(stream, _GZIP_BYTES):
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
                raise DamagedFile(f"the gzip data are damaged ({error})") from None
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


def _unzstd(stream: BinaryIO) -> Iterator[bytes]:
    """All frames of a zstd file. The library's own stream reader takes a file that was cut short for a whole one."""
    import zstandard

    decoder = zstandard.ZstdDecompressor().decompressobj()
    is_between = is_first = True
    for data in _read(stream, _ZSTD_BYTES):
        while data:
            if is_between:
                decoder, is_between, is_first = zstandard.ZstdDecompressor().decompressobj(), False, False
            try:
                piece = decoder.decompress(data)
            except zstandard.ZstdError as error:
                raise DamagedFile(f"the zstd data are damaged ({error})") from None
            for start in range(0, len(piece), _PIECE_BYTES):
                yield piece[start : start + _PIECE_BYTES]
            is_between = decoder.eof
            data = decoder.unused_data if decoder.eof else b""
    if is_first or not is_between:
        raise DamagedFile("the zstd data end too early")
