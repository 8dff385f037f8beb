"""What to do about damage that has no good copy: in words, with the command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lakehouse.backup.copying import in_threads
from lakehouse.backup.sets import BackupSet
from lakehouse.core.errors import LakehouseError
from lakehouse.recovery.lakefiles import LakeFiles
from lakehouse.recovery.report import LakeDamage, Point

_METADATA = ".metadata.json"


def advised(
    damages: Sequence[LakeDamage],
    whole: Mapping[str, Point | None],
    files: LakeFiles,
    newest: BackupSet | None,
) -> tuple[LakeDamage, ...]:
    """The same damages; those without a good copy say what else can be done."""
    return tuple(each if each.copy else replace(each, todo=_todo(each, whole, files, newest)) for each in damages)


def _todo(damage: LakeDamage, whole: Mapping[str, Point | None], files: LakeFiles, newest: BackupSet | None) -> str:
    if damage.kind == "metadata":
        return _about_metadata(damage, files, newest)
    if damage.kind == "landed":
        return f"put the source's file in its place, whose SHA-256 is {damage.sha256}; bronze keeps what it has read"
    if damage.kind == "segment":
        return "its entries are damaged, too: bring them back first"
    if damage.kind == "log":
        return "no set has this entry: write nothing to this source before it is back, and never renumber"
    if damage.kind == "statistics":
        return "queries do without it; `lakehouse maintain` makes statistics anew"
    if not any(hurt.is_current for hurt in damage.hurts):
        return "only former snapshots need it: what the tables say now is whole"
    return "; ".join(_about_table(table, whole.get(table), newest) for table in damage.tables)


def _about_table(table: str, point: Point | None, newest: BackupSet | None) -> str:
    if point is not None:
        return (
            f"the newest whole snapshot of {table} is {point.snapshot_id} of {point.at[:19]}: "
            f"`lakehouse rollback {table} --to {point.snapshot_id}`"
        )
    if newest is not None and any(each.table == table for each in newest.manifest.tables):
        return f"no snapshot of {table} is whole; backup set {newest.id} has the table"
    return f"no snapshot of {table} is whole and no set has it: `lakehouse replay {table}` makes it anew"


def _about_metadata(damage: LakeDamage, files: LakeFiles, newest: BackupSet | None) -> str:
    """The newest former metadata file that is whole: the one thing for which a folder is listed."""
    former, names = newest_former(damage.uri, files), " ".join(damage.tables)
    if former:
        return (
            f"the newest former metadata file that is whole is {former}: "
            f"`lakehouse undrop {names} --metadata {former}` takes the table back to it, and the next run catches up"
        )
    if newest is not None and any(each.table in damage.tables for each in newest.manifest.tables):
        return f"backup set {newest.id} has {names} as it was"
    return f"nothing else says where the files of {names} are"


def newest_former(uri: str, files: LakeFiles) -> str:
    """The metadata file beside a lost one that was committed last and is whole; '' if there is none.

    By what the files say: the bucket's times are those of the last repair.
    """
    store, key = files.store(uri)
    folder = key.rpartition("/")[0] + "/"
    there = [found.key for found in store.list_after(folder) if found.key.endswith(_METADATA) and found.key != key]
    names = [f"s3://{store.bucket}/{each}" for each in there]
    dated = zip(in_threads(lambda name: _updated(files, name), names), names, strict=True)
    return max((each for each in dated if each[0]), default=(0, ""))[1]


def _updated(files: LakeFiles, uri: str) -> int:
    """When a metadata file was committed; 0 where it, or the list of its current snapshot, is not whole."""
    try:
        with files.reading(uri) as body:
            document = json.loads(body.data) if body else {}
        current = document.get("current-snapshot-id")
        lists = [each["manifest-list"] for each in document["snapshots"] if each["snapshot-id"] == current]
        return int(document["last-updated-ms"]) if all(files.head(each) for each in lists) else 0
    except (ValueError, KeyError, TypeError, LakehouseError):
        return 0
