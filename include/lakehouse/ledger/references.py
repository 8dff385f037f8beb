"""Every file that a table refers to, walked from its metadata; a listing is never asked what belongs to a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot


def references(table: Table) -> Iterator[str]:
    """Metadata files, and of all snapshots: manifest lists, manifests, data and delete files, statistics.

    Snapshots that no branch leads to count, too, as long as the metadata has them: expiry decides about these.
    """
    metadata = table.metadata
    yield table.metadata_location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (each.statistics_path for each in (*metadata.statistics, *metadata.partition_statistics))
    yield from snapshot_references(table, metadata.snapshots)


def snapshot_references(
    table: Table, snapshots: Iterable[Snapshot], *, live: bool = False, seen: set[str] | None = None
) -> Iterator[str]:
    """The files of some snapshots, each manifest read once; of ``live`` ones only what their rows are in.

    ``seen`` are manifests that were read before: what they lead to is left out. Those that are read now are added.
    """
    seen = set() if seen is None else seen
    for snapshot in snapshots:
        yield snapshot.manifest_list
        with reaching(f"read the manifests of {'.'.join(table.name())}"):
            new = [each for each in snapshot.manifests(table.io) if each.manifest_path not in seen]
        for manifest in new:
            seen.add(manifest.manifest_path)
            yield manifest.manifest_path
            with reaching(f"read a manifest of {'.'.join(table.name())}"):
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=live)
            yield from (entry.data_file.file_path for entry in entries)
