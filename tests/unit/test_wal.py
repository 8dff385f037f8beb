"""The archive of the databases' log: names, headers, timelines, gaps; and how a server is told to use it."""

from __future__ import annotations

import gzip
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lakehouse.backup import unpack_wal, wal
from lakehouse.backup.bases import Base
from lakehouse.backup.signing import Signer, new_key, signer_of
from lakehouse.backup.wal import Archived, Chain, Fork
from lakehouse.cli.main import app
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import Settings
from lakehouse.recovery import wal_target
from lakehouse.recovery.databases import _timeline_at, differ
from lakehouse.stack import archiving, postgres

SIZE = 16 << 20
SERVER = "7711108814147012607"
AT = datetime(2026, 3, 1, tzinfo=UTC)


def segment(timeline: int, number: int, server: str = SERVER, size: int = SIZE) -> bytes:
    """A segment with a header as PostgreSQL writes it, and nothing in it."""
    header = struct.pack("<HHIQI4xQII", 0xD118, 2, timeline, number * size, 0, int(server), size, 8192)
    return header.ljust(size, b"\0")


def files(*names: str) -> Mapping[str, Archived]:
    return {name: Archived(f"k/{name}", name, 1, AT + timedelta(minutes=at)) for at, name in enumerate(names)}


def names(found: Chain) -> list[str]:
    return [file.name for file in found.files]


def name(timeline: int, number: int) -> str:
    return wal.segment_name(timeline, number, SIZE)


def test_names_are_postgresqls() -> None:
    assert name(1, 3) == "000000010000000000000003"
    assert name(2, 256) == "000000020000000100000000"
    assert wal.segment_of("000000020000000100000000", SIZE) == (2, 256)
    assert wal.segment_of("00000002.history", SIZE) is None
    assert wal.lsn_of("1/2000028") == (1 << 32) + 0x2000028
    assert wal.key_of("7", "00000002.history") == "databases/wal/7/00000002/00000002.history.gz"
    for wrong in ("../../etc", "000000010000000000000003.tmp", "", "00000001000000000000000g"):
        with pytest.raises(SettingsError, match="no file of PostgreSQL's archive"):
            wal.key_of("7", wrong)


def test_a_segment_says_what_it_is() -> None:
    good = segment(1, 3)
    assert wal.misfit(name(1, 3), SERVER, good) == ""
    assert wal.misfit(name(2, 3), SERVER, good) == "", "the first one of a new timeline begins with the old one's"
    assert wal.misfit(name(1, 4), SERVER, good) == "it is another segment"
    assert wal.misfit(name(1, 3), SERVER, segment(2, 3)) == "it is another segment"
    assert "another server" in wal.misfit(name(1, 3), "5", good)
    for broken in (good[:-1], b"", b"\0" * SIZE):
        assert wal.misfit(name(1, 3), SERVER, broken) == "it is no whole segment"
    assert wal.misfit("00000002.history", SERVER, b"text") == ""


def test_the_same_bytes_are_stored_alike() -> None:
    assert wal.compressed(b"x" * 100) == wal.compressed(b"x" * 100)
    assert gzip.decompress(wal.compressed(b"x" * 100)) == b"x" * 100


def test_every_bit_of_a_stored_file_counts() -> None:
    body = wal.compressed(b"x" * 100 + bytes(5000))
    assert wal.uncompressed(body) == b"x" * 100 + bytes(5000)
    for place in range(len(body)):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="other bytes"):
            wal.uncompressed(bytes(flipped))
    for cut in (body[:-1], body[:9], b"", body + b"x"):
        with pytest.raises(ValueError, match="other bytes"):
            wal.uncompressed(cut)


def test_a_chain_ends_at_the_first_gap() -> None:
    there = files(*(name(1, n) for n in (2, 3, 4, 7, 8)))
    found = wal.chain(there, ((1, 0),), (1, 3 * SIZE + 40), SIZE)
    assert names(found) == [name(1, 3), name(1, 4)]
    assert found.gap and found.gap.names == (name(1, 5), name(1, 6))
    assert (found.gap.after, found.gap.before) == (there[name(1, 4)].at, there[name(1, 7)].at)
    assert [file.name for file in found.beyond] == [name(1, 7), name(1, 8)]
    whole = wal.chain(files(name(1, 3), name(1, 4)), ((1, 0),), (1, 3 * SIZE), SIZE)
    assert (names(whole), whole.gap) == ([name(1, 3), name(1, 4)], None)
    nothing = wal.chain({}, ((1, 0),), (1, 3 * SIZE), SIZE)
    assert (nothing.files, nothing.gap) == ((), None)
    first = wal.chain(files(name(1, 4)), ((1, 0),), (1, 3 * SIZE), SIZE)
    assert first.gap and first.gap.names == (name(1, 3),)


def test_a_chain_follows_timelines_and_not_what_they_left() -> None:
    """Timeline 2 left 1 within segment 5: 1's own 6 and 7 were undone, and 5 is there under both names or one."""
    path = ((1, 0), (2, 5 * SIZE + 100))
    both = files(*(name(1, n) for n in range(3, 8)), name(2, 5), name(2, 6))
    expected = [name(1, 3), name(1, 4), name(2, 5), name(2, 6)]
    assert names(wal.chain(both, path, (1, 3 * SIZE), SIZE)) == expected
    young = files(*(name(1, n) for n in range(3, 8)))
    found = wal.chain(young, path, (1, 3 * SIZE), SIZE)
    assert (names(found), found.gap) == ([name(1, 3), name(1, 4), name(1, 5)], None)
    assert names(wal.chain(both, ((1, 0),), (1, 3 * SIZE), SIZE)) == [name(1, n) for n in range(3, 8)]


def test_a_path_goes_through_a_base_or_not() -> None:
    path = ((1, 0), (2, 5 * SIZE))
    assert wal.leads_on(path, 1, "0/3000120")
    assert not wal.leads_on(path, 1, "0/6000120"), "it ended after the timeline was left"
    assert wal.leads_on(path, 2, "0/6000120")
    assert not wal.leads_on(path, 3, "0/6000120")


def test_histories_are_read() -> None:
    text = "1\t0/5000098\tbefore 2026-11-22\n\n2\t0/8000000\tno recovery target specified\n"
    assert wal.read_forks(text) == (Fork(1, 0x5000098), Fork(2, 0x8000000))


def test_the_timeline_is_that_of_the_moment() -> None:
    there = files("00000002.history", name(2, 5), "00000003.history")
    assert _timeline_at(there, 1, AT - timedelta(seconds=1)) == 1
    assert _timeline_at(there, 1, AT + timedelta(minutes=1)) == 2
    assert _timeline_at(there, 1, None) == 3
    assert _timeline_at({}, 4, None) == 4
    assert _timeline_at(there, 1, None, own=2) == 2, "3 is another machine's"
    assert _timeline_at(there, 3, None, own=1) == 1, "a home on the first timeline never left it"
    assert _timeline_at(there, 1, AT + timedelta(minutes=1), own=3) == 2, "3 had not begun"


def test_what_a_recovery_changes_is_named() -> None:
    found = differ({"a.x": "1", "a.y": "1", "a.z": "1"}, {"a.y": "2", "a.z": "1", "b.w": "1"})
    assert (found.back, found.gone, found.moved) == (("b.w",), ("a.x",), ("a.y",))


def test_a_base_backup_that_was_changed_is_not_trusted() -> None:
    signer: Signer = signer_of(Settings(backup_signing_key=new_key()[0]))  # type: ignore[arg-type]
    base = Base("i", SERVER, "18.4", 1, "", AT.isoformat(), "0/3000028", "0/3000120", SIZE, 1, ()).signed(signer)
    read = Base.from_json(base.to_json(), "there")
    read.check(signer.public_key, "there")
    with pytest.raises(IntegrityError, match="not signed with our key"):
        replace(read, end_lsn="0/4000000").check(signer.public_key, "there")
    with pytest.raises(IntegrityError, match="cannot be read"):
        Base.from_json(b'{"format_version": 2}', "there")
    assert base.first_segment == 3


def test_the_log_ends_where_there_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "one.gz").write_bytes(gzip.compress(b"content"))
    command = [sys.executable, "-I", "-S", unpack_wal.__file__, str(tmp_path)]
    assert subprocess.run([*command, "one", str(tmp_path / "out")], check=False).returncode == 0
    assert (tmp_path / "out").read_bytes() == b"content"
    assert subprocess.run([*command, "two", str(tmp_path / "out2")], check=False).returncode == 1
    (tmp_path / "bad.gz").write_bytes(gzip.compress(b"content")[:-3])
    bad = subprocess.run([*command, "bad", str(tmp_path / "out3")], check=False, capture_output=True)
    assert bad.returncode != 0 and b"EOFError" in bad.stderr


def test_nothing_is_archived_without_a_place(tmp_path: Path) -> None:
    bare = Settings(home=tmp_path)
    assert not archiving.is_on(bare) and archiving.facts(bare) == ()
    assert not any(word.startswith("archive") for word in postgres.command(tmp_path / "p", 5432))


def test_the_program_knows_who_writes_backups_and_nothing_else(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "it's 100% mine",
        s3_access_key_id="jobs",
        catalog_password="catalog-secret",  # type: ignore[arg-type]
        backup_bucket="backups",
        backup_s3_endpoint="https://elsewhere.example",
        backup_s3_access_key_id="writer",
        backup_s3_secret_access_key="writer's secret",  # type: ignore[arg-type]
        backup_signing_key=new_key()[0],  # type: ignore[arg-type]
    )
    settings.home.mkdir()
    archiving.write_identity(settings, None)
    folder = archiving.folder_of(settings.home)
    text = (folder / "stack.env").read_text()
    assert "writer's secret" in text.replace("\\", "") and "elsewhere.example" in text
    assert not {"jobs", "catalog-secret", settings.backup_signing_key.get_secret_value()} & set(text.split("="))
    assert "catalog-secret" not in text and settings.backup_signing_key.get_secret_value() not in text
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "stack.env").stat().st_mode & 0o777 == 0o600
    command = archiving.options(folder)["archive_command"]
    assert "secret" not in command
    words = shlex.split(command.replace("%p", "P").replace("%f", "F").replace("%%", "%"))
    assert str(folder) in words and words[-2:] == ["P", "F"]


def test_a_swap_is_finished(tmp_path: Path) -> None:
    data, restored = tmp_path / "postgres", tmp_path / postgres.RESTORED
    restored.mkdir()
    (restored / "it").touch()
    postgres.finish_swap(data)
    assert (data / "it").exists() and not restored.exists()
    os.mkdir(restored)
    postgres.finish_swap(data)
    assert (data / "it").exists() and restored.exists(), "what is in use stays"


def test_undrop_takes_a_table_or_all() -> None:
    for words in (["undrop"], ["undrop", "silver.x", "--all"], ["undrop", "--all", "--metadata", "s3://b/x"]):
        failed = CliRunner().invoke(app, words)
        assert isinstance(failed.exception, SettingsError) and "name a table" in str(failed.exception)


def test_the_place_of_a_moment_is_after_the_last_commit_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [wal_target.Commit(f"0/{n}", AT + timedelta(seconds=n)) for n in (1, 2, 5)]
    monkeypatch.setattr(wal_target, "read_commits", lambda segments: commits[len(commits) - len(segments) :])
    segments = [Path("a"), Path("b"), Path("c")]

    def place(second: int, first: int = 0) -> tuple[str, bool]:
        found = wal_target.find_place(segments, first, AT + timedelta(seconds=second))
        return found.lsn, found.is_passed

    assert place(2) == ("0/2", True), "what was committed at the moment is in"
    assert place(4) == ("0/2", True)
    assert place(9) == ("0/5", False), "nothing is known to have happened after it"
    assert place(0) == ("", True), "before the first commit"
    assert place(1, first=2) == ("0/1", True), "looked for further back where the last segments begin after it"
