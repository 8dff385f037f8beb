"""A lake of its own, in a home of its own, as a newcomer makes it with the commands of the README."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.recovery.runbook import Shell
from tests.recovery.world import Moment, moment

from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings

FIRST_DAYS = 3
SIZE = "0.05"


@dataclass
class Home:
    """A home with a native stack, and a shell in which `lakehouse` works on it."""

    folder: Path
    shell: Shell
    days: int = 0

    @property
    def settings(self) -> Settings:
        """What the home's own files say now."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
                patch.delenv(name)
            for name, value in self.shell.environment.items():
                if name.startswith("LAKEHOUSE_"):
                    patch.setenv(name, value)
            return load_settings()

    def say(self, command: str) -> str:
        """A command that has to succeed; returns what it printed."""
        code, printed = self.shell.run(command)
        assert code == 0, f"{command}\n{printed}"
        return printed

    def grow(self, days: int = 1) -> None:
        """So many days of sample data arrive, and land; nobody has run anything."""
        self.days += days
        self.say(f"lakehouse sample --days {self.days} --size {SIZE} --clean --json")
        self.say("lakehouse land --json")

    def look(self, *, snapshots: bool = True) -> Moment:
        """What every table says now."""
        return moment(self.settings, snapshots=snapshots)


def new_home(folder: Path, **given: str) -> Home:
    """An empty home in this folder, with these settings. Nothing of the caller's environment reaches it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    if "LAKEHOUSE_CACHE" in os.environ:
        kept["LAKEHOUSE_CACHE"] = os.environ["LAKEHOUSE_CACHE"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {f"LAKEHOUSE_{name.upper()}": value for name, value in given.items()}
    environment = {**kept, "LAKEHOUSE_HOME": str(folder / "home"), "PATH": path, **settings}
    return Home(folder, Shell(PROJECT_ROOT, environment))


@contextmanager
def in_a_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter when tests run as root."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-recovery-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - entering is enough, and needed
        yield Path(folder)


@pytest.fixture(scope="module")
def machine() -> Iterator[Home]:
    """A lake that took some days and was backed up, with its servers and a warm Spark. Backups are on another disk."""
    with in_a_folder() as folder:
        made = new_home(folder, backup_data=str(folder / "disk2"), spark_driver_memory="1g")
        try:
            made.say("lakehouse up --spark")
            made.grow(FIRST_DAYS)
            made.say("lakehouse run --json")
            made.say("lakehouse backup databases --json")
            made.say("lakehouse backup create --json")
            yield made
        finally:
            made.shell.run("lakehouse down")
