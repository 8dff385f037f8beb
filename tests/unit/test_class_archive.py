"""The archive of Spark's classes: what it fits, and that it appears whole or not at all. No JVM."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lakehouse.core import class_archive as core
from lakehouse.core.class_archive import JVM_OPTIONS, ClassArchive, archive_options, class_archive
from lakehouse.core.jars import pinned_jars
from lakehouse.core.settings import Settings
from lakehouse.core.spark_conf import CONF_FILE, LOGGING_FILE, base_conf, java_options, write_conf
from lakehouse.stack import archive
from lakehouse.stack.archive import make_archive, trained_by

GOOD = "classes"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, an installation of Spark, and a JDK."""
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    (tmp_path / "jdk" / "lib" / "server").mkdir(parents=True)
    (tmp_path / "jdk" / "lib" / "server" / "libjvm.so").write_text("a JVM")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / "spark-core.jar").write_text("a jar")
    monkeypatch.setattr(core, "spark_jars_folder", lambda: tmp_path / "spark")
    return tmp_path / "cache"


def found(cache: Path) -> ClassArchive:
    one = class_archive(cache)
    assert one is not None
    return one


def training(text: str) -> archive.Train:
    def train(made: Path) -> str:
        made.write_text(text)
        return ""

    return train


def check(archive: ClassArchive, made: Path) -> str:
    return "" if made.read_text().startswith(GOOD) else "shared class paths mismatch"


def never(made: Path) -> str:
    raise AssertionError("nothing was to be trained")


def test_an_archive_is_named_only_where_it_is(cache: Path) -> None:
    assert archive_options(cache) == ()
    assert make_archive(cache, training(GOOD), check) == ""
    options = archive_options(cache)
    assert f"-XX:SharedArchiveFile={found(cache).path}" in options
    assert "-Xshare:auto" in options, "a JVM that cannot use it must start all the same"
    assert make_archive(cache, never, check) == ""


CHANGES: dict[str, Callable[[Path], object]] = {
    "a jar of Spark": lambda root: (root / "spark" / "spark-core.jar").write_text("another jar"),
    "one jar more": lambda root: (root / "spark" / "more.jar").write_text("more"),
    "the time of a jar": lambda root: os.utime(root / "spark" / "spark-core.jar", (1, 1)),
    "a pinned jar": lambda root: (root / "cache" / "jars" / pinned_jars()[0].file_name).write_text("cut"),
    "the JDK": lambda root: (root / "jdk" / "lib" / "server" / "libjvm.so").write_text("a newer JVM"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_archive_fits_what_it_was_made_for(cache: Path, change: Callable[[Path], object]) -> None:
    assert make_archive(cache, training(GOOD), check) == ""
    before = found(cache).path
    (cache / "jars").mkdir(exist_ok=True)
    change(cache.parent)
    assert found(cache).path != before and archive_options(cache) == ()


def test_an_archive_fits_the_options(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(cache).path
    monkeypatch.setattr(core, "JVM_OPTIONS", ("-XX:+UseSerialGC",))
    assert found(cache).path != before


def test_a_new_archive_takes_the_place_of_the_old_one_of_the_same_installation(cache: Path) -> None:
    make_archive(cache, training(GOOD), check)
    old, others = found(cache).path, cache / "cds" / "0123456789ab-other.jsa"
    others.write_text("another clone's")
    os.utime(cache.parent / "spark" / "spark-core.jar", (1, 1))
    assert make_archive(cache, training(f"{GOOD} anew"), check) == ""
    assert not old.exists() and others.exists()
    assert found(cache).path.read_text() == f"{GOOD} anew"


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (lambda made: "the run failed", "the run failed"),
        (lambda made: "", "the JVM wrote no archive"),
        (training("half of it"), "shared class paths mismatch"),
    ],
)
def test_what_cannot_be_used_is_told_and_not_kept(cache: Path, train: archive.Train, reason: str) -> None:
    assert reason in make_archive(cache, train, check)
    assert archive_options(cache) == () and list((cache / "cds").iterdir()) == []


def test_nothing_is_raised(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(made: Path) -> str:
        raise OSError(28, "No space left on device")

    assert "No space left" in make_archive(cache, full, check)
    monkeypatch.setenv("JAVA_HOME", str(cache / "nowhere"))
    assert archive_options(cache) == ()
    assert "no JDK" in make_archive(cache, never, check)


def test_training_has_a_home_of_its_own_that_is_gone_afterwards(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_HOST", "db.example")
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path / "mine"))
    said = tmp_path / "said.json"
    program = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    made = tmp_path / "made.jsa"
    assert trained_by([sys.executable, "-c", program, str(said)], cache)(made) == ""
    seen = {name: value for name, value in json.loads(said.read_text()).items() if name.startswith("LAKEHOUSE_")}
    home = Path(seen.pop("LAKEHOUSE_HOME"))
    assert home != tmp_path / "mine" and not home.exists()
    conf = json.loads(seen.pop("LAKEHOUSE_SPARK_CONF"))
    assert f"-XX:ArchiveClassesAtExit={made}" in conf["spark.driver.defaultJavaOptions"]
    assert seen == {"LAKEHOUSE_CACHE": str(cache)}


def test_training_that_fails_is_told_in_its_last_words(cache: Path, tmp_path: Path) -> None:
    program = "import sys; print('first'); sys.exit('no server')"
    assert trained_by([sys.executable, "-c", program], cache)(tmp_path / "x").endswith("failed: no server")


def test_training_ends_when_its_last_process_does(cache: Path, tmp_path: Path) -> None:
    """The JVM writes the archive after the program that started it has ended."""
    later = f"import time; time.sleep(0.5); open({str(tmp_path / 'late')!r}, 'w')"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {later!r}])"
    started = time.monotonic()
    assert trained_by([sys.executable, "-c", program], cache)(tmp_path / "x") == ""
    assert (tmp_path / "late").exists() and time.monotonic() - started >= 0.5


def settings_with_jars(cache: Path) -> Settings:
    for jar in pinned_jars():
        jar.path(cache).parent.mkdir(parents=True, exist_ok=True)
        with jar.path(cache).open("wb") as file:
            file.truncate(jar.size)
    return Settings(home=cache.parent / "home", cache=cache)


def test_sessions_are_started_with_the_archive(cache: Path) -> None:
    settings = settings_with_jars(cache)
    assert base_conf(settings)["spark.driver.defaultJavaOptions"] == ""
    make_archive(cache, training(GOOD), check)
    conf = base_conf(settings)
    assert str(found(cache).path) in conf["spark.driver.defaultJavaOptions"]
    assert conf["spark.driver.extraJavaOptions"] == " ".join(JVM_OPTIONS)
    # The class path is what the archive was made for: the lake's jars, then Spark's own.
    assert conf["spark.driver.extraClassPath"].split(os.pathsep) == [str(jar) for jar in found(cache).jars]


def test_the_configuration_is_its_owners_and_speaks_to_a_file(tmp_path: Path) -> None:
    folder = write_conf(tmp_path / "with space", {"spark.driver.defaultJavaOptions": "-Xshare:auto", "a.password": "x"})
    text = (folder / CONF_FILE).read_text()
    logging = f"-Dlog4j2.configurationFile={(folder / LOGGING_FILE).as_uri()}"
    assert f"spark.driver.defaultJavaOptions -Xshare:auto {logging}\n" in text
    assert [path.stat().st_mode & 0o777 for path in sorted(folder.iterdir())] == [0o600, 0o600]
    assert str(folder / "spark.log") in (folder / LOGGING_FILE).read_text()


def test_options_with_spaces_are_quoted() -> None:
    assert java_options(["-Da=b", "-Dc=/d e"]) == '-Da=b "-Dc=/d e"'
