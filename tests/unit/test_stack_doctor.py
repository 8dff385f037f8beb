"""Each check of `lakehouse doctor`, with the facts that pass and the facts that don't."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from lakehouse.stack import checks
from lakehouse.stack.checks import Check
from lakehouse.stack.doctor import memory_bytes, pins

GIB = 1 << 30
PATH = Path("/somewhere")

CASES: list[tuple[Check, str]] = [
    (checks.check_python((3, 11)), "ok"),
    (checks.check_python((3, 10)), "fail"),
    (checks.check_java(17, "java"), "ok"),
    (checks.check_java(11, "java"), "fail"),
    (checks.check_java(None, "None"), "fail"),
    (checks.check_spark("4.1.3", "4.1.3"), "ok"),
    (checks.check_spark("4.1.3", "4.1.4"), "fail"),
    (checks.check_spark("4.1.2", "4.1.2"), "fail"),
    (checks.check_spark("4.1.3", None), "fail"),
    (checks.check_pins({"a": "1"}, {"a": "1", "b": "2"}), "ok"),
    (checks.check_pins({"a": "1"}, {"a": "2"}), "fail"),
    (checks.check_pins({"a": "1"}, {}), "fail"),
    (checks.check_pins({}, {"a": "1"}), "fail"),
    (checks.check_jars([], [], 3), "ok"),
    (checks.check_jars(["a.jar"], [], 3), "fail"),
    (checks.check_jars([], ["a.jar"], 3), "fail"),
    (checks.check_disk("home", PATH, 6 * GIB), "ok"),
    (checks.check_disk("home", PATH, 4 * GIB), "warn"),
    (checks.check_disk("home", PATH, 1000), "fail"),
    (checks.check_memory(8 * GIB, "2g", 2 * GIB), "ok"),
    (checks.check_memory(3 * GIB, "2g", 2 * GIB), "warn"),
    (checks.check_memory(8 * GIB, "9g", 9 * GIB), "fail"),
    (checks.check_port("P", 0, False, False), "ok"),
    (checks.check_port("P", 1, True, False), "ok"),
    (checks.check_port("P", 1, False, True), "ok"),
    (checks.check_port("P", 1, False, False), "fail"),
    (checks.check_server("s3", "a", ""), "ok"),
    (checks.check_server("s3", "a", "no"), "fail"),
    (checks.check_backups("s3://b", "", ()), "ok"),
    (checks.check_backups("s3://b", "", ("it has no lock",)), "warn"),
    (checks.check_backups("s3://b", "it does not answer", ()), "fail"),
    (checks.check_backups("", "", ()), "warn"),
    (checks.check_databases("a base backup of 3 h ago", (), True), "ok"),
    (checks.check_databases("a base backup of 3 d ago", ("it is old",), True), "warn"),
    (checks.check_databases("no base backup", (), False), "warn"),
    (checks.check_backup_disk(PATH, True), "ok"),
    (checks.check_backup_disk(PATH, False), "warn"),
    (checks.check_stand_in("minio"), "ok"),
    (checks.check_stand_in("moto"), "warn"),
    (checks.check_mode(PATH, 0o100600), "ok"),
    (checks.check_mode(PATH, 0o100400), "ok"),
    (checks.check_mode(PATH, None), "ok"),
    (checks.check_mode(PATH, 0o100640), "fail"),
    (checks.check_skew("s3", -4.9), "ok"),
    (checks.check_skew("s3", 5.1), "warn"),
    (checks.check_skew("s3", -61.0), "fail"),
    (checks.check_skew("s3", None), "warn"),
]


@pytest.mark.parametrize(("found", "expected"), CASES, ids=lambda value: str(getattr(value, "name", value)))
def test_each_check_judges_and_says_what_to_do(found: Check, expected: str) -> None:
    assert found.result == expected
    assert bool(found.todo) == (expected != "ok")


def test_every_check_is_tried_with_more_than_one_outcome() -> None:
    functions = [name for name, _ in inspect.getmembers(checks, inspect.isfunction) if name.startswith("check_")]
    source = inspect.getsource(inspect.getmodule(test_every_check_is_tried_with_more_than_one_outcome))  # type: ignore[arg-type]
    assert len(functions) >= 11
    assert [name for name in functions if source.count(f"checks.{name}(") < 2] == []


def test_pins_are_those_of_this_python_and_system() -> None:
    text = """
# comment
Alpha_One==1.0 \\
    --hash=sha256:00
beta[extra]==2.0 ; python_full_version >= '3.0' \\
    --hash=sha256:00
gamma==3.0 ; sys_platform == 'plan9' \\
    --hash=sha256:00
"""
    assert pins(text) == {"alpha-one": "1.0", "beta": "2.0"}


@pytest.mark.parametrize(("text", "expected"), [("2g", 2 * GIB), ("512m", GIB // 2), ("1T", 1024 * GIB), ("x", 0)])
def test_memory_is_read_as_spark_writes_it(text: str, expected: int) -> None:
    assert memory_bytes(text) == expected
