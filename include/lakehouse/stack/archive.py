"""Make the class archive: a small run of everything, in a JVM that writes down at its end which classes it had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lakehouse.core.class_archive import JVM_OPTIONS, SHORT_JOB, SILENT, ClassArchive, class_archive
from lakehouse.core.errors import LakehouseError
from lakehouse.core.jars import spark_jars_folder
from lakehouse.core.settings import load_settings
from lakehouse.core.spark_conf import CONF_FILE, java_options, write_conf
from lakehouse.stack.files import file_lock
from lakehouse.stack.local import down

_SECONDS = 900.0
_KEPT = ("LAKEHOUSE_SPARK_DRIVER_MEMORY",)

Train = Callable[[Path], str]
"""Runs what is worth remembering in a JVM that writes the archive to a path; '' or why it could not."""
Check = Callable[[ClassArchive, Path], str]
"""Tries what was written; '' or why it is of no use."""


def make_archive(cache: Path, train: Train, check: Check, on_start: Callable[[], None] = lambda: None) -> str:
    """Make the archive for this installation unless it is there. Returns '' or the reason why there is none.

    A job without an archive starts more slowly, and works: so nothing is raised. An archive appears whole or not at
    all, and what was there before stays until then.
    """
    archive = class_archive(cache)
    if archive is None:
        return "no JDK was found whose classes could be archived"
    if archive.path.is_file():
        return ""
    try:
        with file_lock(cache / "cds.lock", _SECONDS, "making the class archive"):
            return "" if archive.path.is_file() else _make(archive, train, check, on_start)
    except (LakehouseError, OSError, subprocess.SubprocessError) as error:
        return str(error)


def _make(archive: ClassArchive, train: Train, check: Check, on_start: Callable[[], None]) -> str:
    on_start()
    archive.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.path.parent, prefix=".making-") as folder:
        made = Path(folder) / archive.path.name
        reason = train(made) or (check(archive, made) if made.is_file() else "the JVM wrote no archive")
        if reason:
            return reason
        os.replace(made, archive.path)
    for outdated in archive.outdated():
        outdated.unlink(missing_ok=True)
    return ""


def refusal(archive: ClassArchive, made: Path) -> str:
    """Why a JVM that Spark starts does not take the archive; '' when it does."""
    options = ["-Xshare:on", f"-XX:SharedArchiveFile={made}"]
    conf = write_conf(
        made.parent / "conf",
        {
            "spark.driver.extraClassPath": os.pathsep.join(map(str, archive.jars)),
            "spark.driver.defaultJavaOptions": java_options(options),
            "spark.driver.extraJavaOptions": java_options(JVM_OPTIONS),
        },
    )
    submit = str(spark_jars_folder().parent / "bin" / "spark-submit")
    done = subprocess.run(
        [submit, "--properties-file", str(conf / CONF_FILE), "--version"],
        env={**os.environ, "SPARK_CONF_DIR": str(conf / "nothing")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return "the JVM does not take the archive: " + _last_line(done.stdout + done.stderr) if done.returncode else ""


def trained_by(command: Sequence[str], cache: Path) -> Train:
    """Training by a command of the lakehouse, on servers and data of its own, which are gone afterwards."""

    def train(made: Path) -> str:
        with _home() as home:
            return _run(command, _environment(home, cache, made))

    return train


@contextmanager
def _home() -> Iterator[Path]:
    """A state folder that nobody else uses; its servers are stopped at the end, whatever happened."""
    home = Path(tempfile.mkdtemp(prefix="lakehouse-setup-"))
    home.chmod(0o711)  # PostgreSQL runs as another account when started by root
    try:
        yield home
    finally:
        down(load_settings(home))
        shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path, cache: Path, made: Path) -> Mapping[str, str]:
    """The caller's environment without what it says of a lakehouse."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_") or name in _KEPT}
    conf = {
        "spark.driver.defaultJavaOptions": java_options([f"-XX:ArchiveClassesAtExit={made}", SILENT]),
        "spark.driver.extraJavaOptions": java_options([*JVM_OPTIONS, SHORT_JOB]),
    }
    return {
        **plain,
        "LAKEHOUSE_HOME": str(home),
        "LAKEHOUSE_CACHE": str(cache),
        "LAKEHOUSE_SPARK_CONF": json.dumps(conf),
    }


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run it, and wait until the JVM is gone too: that writes the archive after the command has ended."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # the JVM holds it as well, so it ends with the JVM
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the run that would have made it did not end in {_SECONDS:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"the run that would have made it failed: {_last_line(said)}" if process.returncode else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
