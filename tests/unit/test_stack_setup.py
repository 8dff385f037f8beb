"""Jars, prerequisites, the Makefile and the settings' documentation."""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
from pathlib import Path

import pytest

from lakehouse.cli import stack
from lakehouse.core import jars as core_jars
from lakehouse.core.errors import IntegrityError, SettingsError, StackError
from lakehouse.core.jars import Jar, jar_paths, pinned_jars
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.stack import jars, java, minio
from lakehouse.stack.settings_page import render

CONTENT = b"a jar"
JAR = Jar("group", "artifact", "1.0", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def writes(content: bytes) -> jars.Fetch:
    def fetch(jar: Jar, folder: Path) -> Path:
        (folder / jar.file_name).write_bytes(content)
        return folder / jar.file_name

    return fetch


def test_a_jar_with_the_pinned_bytes_is_kept(tmp_path: Path) -> None:
    jars.install(JAR, tmp_path, writes(CONTENT))
    assert JAR.path(tmp_path).read_bytes() == CONTENT
    assert JAR.is_present(tmp_path) and JAR.is_verified(JAR.path(tmp_path))


def test_a_jar_with_other_bytes_is_refused_named_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"artifact-1.0.jar.*expected {JAR.sha256}"):
        jars.install(JAR, tmp_path, writes(b"b jar"))
    assert list((tmp_path / "jars").iterdir()) == []


def test_a_refused_jar_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    jars.install(JAR, tmp_path, writes(CONTENT))
    with pytest.raises(IntegrityError):
        jars.install(JAR, tmp_path, writes(b"b jar"))
    assert JAR.path(tmp_path).read_bytes() == CONTENT


def test_missing_and_short_jars_are_all_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Jar("group", "other", "2.0", "", 7)
    monkeypatch.setattr(core_jars, "pinned_jars", lambda: (JAR, other))
    (tmp_path / "jars").mkdir()
    other.path(tmp_path).write_bytes(b"short")
    with pytest.raises(SettingsError, match="(?s)artifact-1.0.jar, other-2.0.jar.*lakehouse setup"):
        jar_paths(tmp_path)
    JAR.path(tmp_path).write_bytes(CONTENT)
    other.path(tmp_path).write_bytes(b"7 bytes")
    assert jar_paths(tmp_path) == (JAR.path(tmp_path), other.path(tmp_path))


def test_every_jar_is_pinned_by_hash_and_size() -> None:
    assert len(pinned_jars()) >= 3
    assert all(len(jar.sha256) == 64 and jar.size > 1_000_000 for jar in pinned_jars())
    assert next(iter(jars.spark_jars_folder().glob("ivy-*.jar"))).is_file()


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "11.0.2" 2019-01-15', 11),
        ('java version "1.8.0_292"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("command not found", None),
    ],
)
def test_java_says_its_version_to_python_and_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, version: int | None
) -> None:
    program(tmp_path, "java", f"echo 'Picked up JAVA_TOOL_OPTIONS: -Dx' >&2; echo '{said}' >&2")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert java.java_version(java.java_program()) == version
    made = subprocess.run(["make", "-s", "check-java"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    line = f"lakehouse needs Java 17 (found {version or 'none'}): install openjdk-17-jre-headless or set JAVA_HOME"
    assert (made.returncode == 0) == (version == 17)
    if version == 17:
        assert java.require_java() == tmp_path / "java" and made.stderr == ""
    else:
        assert made.stderr.splitlines()[0] == line
        with pytest.raises(SettingsError) as raised:
            java.require_java()
        assert str(raised.value) == line


def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin", "java", "echo 'openjdk version \"17.0.1\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.java_program() == tmp_path / "bin" / "java"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert java.java_program() is None


@pytest.mark.parametrize(("version", "is_enough"), [("3.10", False), ("3.11", True), ("3.13", True)])
def test_make_wants_a_python_that_is_new_enough(tmp_path: Path, version: str, is_enough: bool) -> None:
    minor = version.split(".")[1]
    program(tmp_path, "python", f'case "$2" in *print*) echo {version};; *exit*) test {minor} -ge 11;; esac')
    made = subprocess.run(
        ["make", "-s", "check-python", f"PYTHON={tmp_path / 'python'}"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode == 0) == is_enough
    if not is_enough:
        needed = f"lakehouse needs Python 3.11 or newer (found {version})"
        assert made.stderr.startswith(needed) and "set PYTHON=" in made.stderr.splitlines()[0]


def test_make_up_starts_the_whole_stack_and_lakehouse_up_does_not() -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    command = ["make", "-n", "up"]
    told = subprocess.run(command, cwd=PROJECT_ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1].endswith("lakehouse up --spark --airflow")
    defaults = {name: parameter.default for name, parameter in inspect.signature(stack.up).parameters.items()}
    assert (defaults["spark"], defaults["airflow"]) == (False, False)


def test_minio_on_path_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert minio.find(tmp_path) is None
    program(tmp_path / "bin", "minio", "true")
    assert minio.find(tmp_path) == tmp_path / "bin" / "minio"
    program(tmp_path / "path", "minio", "true")
    assert minio.find(tmp_path) == tmp_path / "path" / "minio"


@pytest.mark.parametrize(("go", "reason"), [(None, "Go is not installed"), ("go1.23.4", "Go is go1.23.4")])
def test_without_minio_and_go_the_reason_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go: str | None, reason: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if go:
        program(tmp_path, "go", f"echo {go}")
    found = minio.find_or_build(tmp_path / "cache", None)
    assert found.path is None and reason in found.reason and "install Go 1.24" in found.reason
    with pytest.raises(StackError, match=reason):
        minio.require(found)


def test_a_failed_build_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "go", 'if test "$1" = env; then echo go1.26.0; else echo "no such module" >&2; exit 1; fi')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    found = minio.find_or_build(tmp_path / "cache", None)
    assert found.path is None and "no such module" in found.reason
    assert list((tmp_path / "cache" / "bin").iterdir()) == []


def test_credentials_of_minio_travel_by_environment_only() -> None:
    command = minio.command(Path("minio"), Path("data"), 1, 2, Path("certificates"))
    environment = minio.environment("the key", "the secret")
    assert "the secret" not in " ".join(command) and "the secret" in environment.values()


def test_settings_page_is_that_of_the_settings() -> None:
    page = (PROJECT_ROOT / "docs" / "settings.md").read_text()
    assert page == render(), "run: python -m lakehouse.stack.settings_page > docs/settings.md"
    assert len(Settings.model_fields) >= 20
    assert [name for name in Settings.model_fields if f"`LAKEHOUSE_{name.upper()}`" not in page] == []
