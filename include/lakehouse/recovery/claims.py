"""What the catalog, a log, or one of Iceberg's own files says of another file, which that must then be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lakehouse.backup.avro_edit import AvroRecords, read_records
from lakehouse.backup.iceberg import DELETED, Document, Kind, file_kind, metadata_references

_LIST = dict.fromkeys(
    (
        "manifest_path",
        "manifest_length",
        "partition_spec_id",
        "content",
        "added_snapshot_id",
        *(f"{state}_{what}_count" for state in ("added", "existing", "deleted") for what in ("files", "rows")),
        *(f"{state}_data_files_count" for state in ("added", "existing", "deleted")),
    ),
    True,
)
_FILE = dict.fromkeys(
    (
        "content",
        "file_path",
        "file_format",
        "record_count",
        "file_size_in_bytes",
        "lower_bounds",
        "upper_bounds",
        "referenced_data_file",
        "content_offset",
        "content_size_in_bytes",
    ),
    True,
)
_ENTRY = {"status": True, "snapshot_id": True, "data_file": _FILE}
NAMES_OTHERS: tuple[Kind, ...] = ("metadata", "manifest_list", "manifest", "log")


@dataclass(frozen=True)
class Claim:
    """A file that something names, and what that says of it. ``by`` is the file that says so, '' for the catalog."""

    uri: str
    kind: Kind
    by: str = ""
    size_bytes: int | None = None
    sha256: str = ""
    is_needed: bool = True
    says: Mapping[str, Any] = field(default_factory=dict)


def claims_of_metadata(uri: str, body: bytes) -> list[Claim]:
    """What a table's metadata file says of others. Raises :class:`ValueError` where it cannot be read."""
    document: Document = json.loads(body)
    said = {each["manifest-list"]: each for each in document.get("snapshots") or [] if "manifest-list" in each}
    for name in ("statistics", "partition-statistics"):
        said |= {each["statistics-path"]: each for each in document.get(name) or []}
    return [
        Claim(each.uri, each.kind, uri, each.size_bytes, is_needed=each.is_needed, says=said.get(each.uri, {}))
        for each in metadata_references(document)
    ]


def read_list(body: bytes) -> AvroRecords:
    """A manifest list, with what it says of each manifest."""
    return read_records(body, _LIST)


def read_manifest(body: bytes) -> AvroRecords:
    """A manifest, with what it says of each file."""
    return read_records(body, _ENTRY)


def claims_of_list(uri: str, body: bytes) -> list[Claim]:
    """What a manifest list says of manifests."""
    return [
        Claim(each["manifest_path"], "manifest", uri, each["manifest_length"], says=each)
        for each in read_list(body).records
    ]


def claims_of_manifest(uri: str, body: bytes) -> list[Claim]:
    """What a manifest says of the files that live in it."""
    live = (each["data_file"] for each in read_manifest(body).records if each["status"] != DELETED)
    return [Claim(file["file_path"], file_kind(file), uri, file["file_size_in_bytes"], says=file) for file in live]


def claims_of_log(uri: str, body: bytes) -> list[Claim]:
    """What an entry of a landing log says of landed files; a decision names none."""
    from lakehouse.backup.create import landed_files

    bucket = uri.removeprefix("s3://").partition("/")[0]
    return [
        Claim(f"s3://{bucket}/{file['key']}", "landed", uri, file["size_bytes"], file["sha256"], says=file)
        for file in landed_files(uri, body)
    ]


def claims_of(kind: Kind, uri: str, body: bytes) -> list[Claim]:
    """What a file of this kind says of others. Raises :class:`ValueError` where it cannot be read."""
    readers = {
        "metadata": claims_of_metadata,
        "manifest_list": claims_of_list,
        "manifest": claims_of_manifest,
        "log": claims_of_log,
    }
    try:
        return readers[kind](uri, body) if kind in readers else []
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
