"""What bytes look like, for the message about a file whose name promised something else."""

from __future__ import annotations

_KNOWN = (
    (b"\x1f\x8b", "gzip; such a file must be named .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd; such a file must be named .zst"),
    (b"PAR1", "Parquet"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"BZh", "bzip2, which is not read"),
    (b"\xfd7zXZ", "xz, which is not read"),
    (b"%PDF", "a PDF"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_STARTS = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<?xml", "XML"), (b"{", "JSON"))


def hint(data: bytes) -> str:
    """``; it looks like …``, to be put after a reason; empty where the first bytes say nothing."""
    start = data[:64].lstrip().lower()
    found = [name for magic, name in _KNOWN if data.startswith(magic)]
    found += [name for text, name in _STARTS if start.startswith(text)]
    return f"; it looks like {found[0]}" if found else ""
