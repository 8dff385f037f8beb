"""Where the benchmark keeps its data, and the servers and the peers' environment that it makes for itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KINDS = ("delta", "snapshot")


@dataclass(frozen=True)
class Place:
    """One part's folder: input data, a home of the lakehouse with servers of its own, and the peers' stores."""

    folder: Path

    @property
    def home(self) -> Path:
        """LAKEHOUSE_HOME of this part."""
        return self.folder / "home"

    def data(self, name: str) -> Path:
        """An input file of typed Parquet, the same for every contestant."""
        return self.folder / "data" / f"{name}.parquet"

    def store(self, contestant: str) -> Path:
        """Where a contestant without servers keeps its tables."""
        path = self.folder / "stores" / contestant
        path.mkdir(parents=True, exist_ok=True)
        return path

    def export(self, contestant: str, kind: str) -> Path:
        """Where a contestant's table is written as Parquet, to be compared."""
        return self.folder / "exports" / f"{contestant}-{kind}"

    def log(self, name: str) -> Path:
        """Where a program's own words go."""
        path = self.folder / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def open_place(work: Path, name: str) -> Place:
    """A part's folder, made where it is missing. PostgreSQL's user must be able to enter it when we are root."""
    place = Place(work / name)
    for folder in (work, place.folder, place.home):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    return place


@contextmanager
def servers(place: Place) -> Iterator[None]:
    """PostgreSQL and an S3 server for the block; their data stays."""
    from lakehouse.core.settings import load_settings
    from lakehouse.stack import down, up

    up(load_settings(place.home))
    try:
        yield
    finally:
        down(load_settings(place.home))


def peers_python(work: Path) -> Path:
    """The interpreter of the peers' own environment, which is made when it is missing or its pins have changed."""
    pins, folder = HERE / "requirements.txt", work / "peers"
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    if not stamp.exists() or stamp.read_bytes() != pins.read_bytes():
        uv = _uv()
        subprocess.run([uv, "venv", "--quiet", "--clear", str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(pins)], check=True)
        shutil.copyfile(pins, stamp)
    return python


def _uv() -> str:
    from lakehouse.core.errors import SettingsError

    found = shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / ".local" / "bin")]))
    if found is None:
        raise SettingsError("the peers' environment needs uv", todo="install uv, and put it on PATH")
    return found
