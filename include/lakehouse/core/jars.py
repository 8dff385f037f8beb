"""The jars that Spark needs, pinned by sha256 in ``jars.json``. They are fetched by ``lakehouse setup``."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lakehouse.core.errors import SettingsError

_PINS = Path(__file__).with_name("jars.json")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Jar:
    """One pinned jar; ``size`` is in bytes."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """What the jar is called in the cache."""
        return f"{self.artifact}-{self.version}.jar"

    def path(self, cache: Path) -> Path:
        """Where the jar is kept, whether or not it is there."""
        return cache / "jars" / self.file_name

    def is_present(self, cache: Path) -> bool:
        """Whether a file of the right size is there; cheap, so it doesn't hash."""
        path = self.path(cache)
        return path.is_file() and path.stat().st_size == self.size

    def is_verified(self, path: Path) -> bool:
        """Whether the file at ``path`` has the pinned sha256."""
        return path.is_file() and sha256_of(path) == self.sha256


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def pinned_jars() -> tuple[Jar, ...]:
    """Every jar that Spark is started with."""
    return tuple(Jar(**pin) for pin in json.loads(_PINS.read_text()))


def jar_paths(cache: Path) -> tuple[Path, ...]:
    """The jars' paths. Raises :class:`SettingsError` naming every jar that is missing or cut short."""
    missing = [jar.file_name for jar in pinned_jars() if not jar.is_present(cache)]
    if missing:
        raise SettingsError(
            f"jars are missing or incomplete: {', '.join(missing)}",
            where=str(cache / "jars"),
            todo="run `lakehouse setup` (or `make setup`), which fetches and verifies them",
        )
    return tuple(jar.path(cache) for jar in pinned_jars())


def spark_jars_folder() -> Path:
    """The jars inside the pyspark package, which is looked up and not imported."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise SettingsError("the package pyspark is not installed", todo="run `make setup`")
    return Path(spec.origin).parent / "jars"
