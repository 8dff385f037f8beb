"""The class archive (AppCDS): Spark's classes as the JVM wants them, parsed and checked once by ``lakehouse setup``.

A JVM that starts reads some twenty thousand classes out of nearly three hundred jars, and checks each. With an archive
it maps them instead. An archive fits one JDK, one class path and one set of options, so its name is a hash of these.
The JVM looks again, and goes on without an archive that does not fit: no job fails for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lakehouse.core.jars import pinned_jars, spark_jars_folder
from lakehouse.core.java import java_program

FORMAT_VERSION = 1
JVM_OPTIONS = (
    # Work comes in small pieces on few cores: a collector beside it costs more than its pauses.
    "-XX:+UseParallelGC",
    # Each run generates code; a JVM that lives for an hour fills the default 240 MB, and then stops compiling.
    "-XX:ReservedCodeCacheSize=512m",
)
"""What every JVM of ours is started with. An archive is made and used under the same options."""
SHORT_JOB = "-XX:TieredStopAtLevel=1"
"""Compile quickly and never well: for a job that is over before the good compiler has paid for itself."""
SILENT = "-Xlog:cds*=off"
"""Not a word about archives: what a JVM says goes to stdout."""


@dataclass(frozen=True)
class ClassArchive:
    """An archive, whether or not it is there, and the jars before Spark's own on the class path it is made for."""

    path: Path
    jars: tuple[Path, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """How a JVM is told to use the archive; nothing where it is not there. It must not speak of it, either."""
        return (f"-XX:SharedArchiveFile={self.path}", "-Xshare:auto", SILENT) if self.path.is_file() else ()

    def outdated(self) -> list[Path]:
        """Archives of the same installation that nobody can use any more."""
        return [each for each in self.path.parent.glob(f"{_owner(self.path)}-*.jsa") if each != self.path]


def class_archive(cache: Path) -> ClassArchive | None:
    """The archive for this JDK and these jars; None where there is no JDK that could have one."""
    java = java_program()
    libjvm = _libjvm(java) if java else None
    if libjvm is None:
        return None
    spark, ours = spark_jars_folder(), [jar.path(cache) for jar in pinned_jars()]
    facts = [str(FORMAT_VERSION), *JVM_OPTIONS, *_described([libjvm, *ours, *sorted(spark.glob("*.jar"))])]
    name = f"{_hash([str(spark)])[:12]}-{_hash(facts)[:32]}.jsa"
    return ClassArchive(cache / "cds" / name, tuple(ours))


def archive_options(cache: Path) -> tuple[str, ...]:
    """The options for the archive that fits; empty where there is none."""
    found = class_archive(cache)
    return found.options if found else ()


def _owner(path: Path) -> str:
    return path.stem.partition("-")[0]


def _libjvm(java: Path) -> Path | None:
    """The JVM itself: an update of the JDK replaces it."""
    found = java.resolve().parent.parent / "lib" / "server"
    return next((each for name in ("libjvm.so", "libjvm.dylib") if (each := found / name).is_file()), None)


def _described(files: Iterable[Path]) -> Iterator[str]:
    """The files as the JVM compares them: by path, size and time of change."""
    for path in files:
        if path.is_file():
            found = path.stat()
            yield f"{path}:{found.st_size}:{found.st_mtime_ns}"
        else:
            yield f"{path}:missing"


def _hash(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
