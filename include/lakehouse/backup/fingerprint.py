"""What a table's content is called: one hash that stands for the bytes of all files that its current snapshot has."""

from __future__ import annotations

import hashlib

from lakehouse.backup.iceberg import Kind
from lakehouse.backup.sets import Files

_CONTENT: tuple[Kind, ...] = ("data", "position_deletes", "equality_deletes", "deletion_vector")


def content_fingerprint(files: Files, metadata: str, snapshot_id: int | None) -> str:
    """SHA-256 over the sorted lines ``<kind> <sha256>`` of the data and delete files that live in a snapshot.

    ``metadata`` is the table's metadata file among ``files``. Nothing is read or decoded. What comes back byte for byte
    has the same fingerprint, wherever it lies and whatever its metadata is called. The same rows written anew have
    another one, which is what the fingerprint of rows is for. A table without a snapshot has that of no lines.
    """
    lists = [uri for uri in files[metadata].refs if uri in files and files[uri].kind == "manifest_list"]
    manifests = {ref for uri in lists if files[uri].snapshot_id == snapshot_id for ref in files[uri].refs}
    living = {ref for uri in manifests for ref in files[uri].refs}
    lines = sorted(f"{files[uri].kind} {files[uri].copy.sha256}\n" for uri in living if files[uri].kind in _CONTENT)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
