"""Fetch the pinned jars with the Ivy that ships inside pyspark, verify them, and keep them in the cache."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from lakehouse.core.errors import IntegrityError, SettingsError, StackError
from lakehouse.core.jars import Jar, pinned_jars, sha256_of, spark_jars_folder
from lakehouse.core.settings import Settings
from lakehouse.stack.files import file_lock
from lakehouse.stack.java import require_java

_FETCH_SECONDS = 1200.0
_TAIL_LINES = 6

Fetch = Callable[[Jar, Path], Path]


def missing_jars(cache: Path) -> tuple[Jar, ...]:
    """The pinned jars that are not in the cache, or not whole. Cheap: sizes only."""
    return tuple(jar for jar in pinned_jars() if not jar.is_present(cache))


def fetch_jars(settings: Settings, on_jar: Callable[[Jar], None] = lambda jar: None) -> tuple[Jar, ...]:
    """Fetch what is missing and return it; ``on_jar`` is called before each.

    Raises :class:`IntegrityError` for a jar whose bytes are not the pinned ones (it is not kept),
    :class:`StackError` when a jar cannot be fetched, :class:`SettingsError` when Java is missing.
    """
    if not missing_jars(settings.cache):
        return ()
    java = require_java()
    with file_lock(settings.cache / "jars.lock", _FETCH_SECONDS, "fetching jars"):
        missing = missing_jars(settings.cache)
        for jar in missing:
            on_jar(jar)
            install(jar, settings.cache, lambda jar, folder: _ivy(java, settings.ivy_settings, jar, folder))
    return missing


def install(jar: Jar, cache: Path, fetch: Fetch) -> None:
    """Fetch one jar into a temporary folder, verify it there, and move it into the cache."""
    target = jar.path(cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        fetched = fetch(jar, Path(folder))
        if not jar.is_verified(fetched):
            raise IntegrityError(
                f"{jar.file_name} is not the pinned jar: sha256 is {sha256_of(fetched)}, expected {jar.sha256}",
                where=str(target),
                untouched="the cache; the jar that was fetched was thrown away",
                todo="find out who serves another jar under this name; don't change the pin to match",
            )
        os.replace(fetched, target)


def _ivy(java: Path, ivy_settings: Path | None, jar: Jar, folder: Path) -> Path:
    ivy = next(iter(sorted(spark_jars_folder().glob("ivy-*.jar"))), None)
    if ivy is None:
        raise SettingsError("pyspark's folder has no Ivy jar", where=str(spark_jars_folder()), todo="run `make setup`")
    done = subprocess.run(
        [
            str(java),
            "-jar",
            str(ivy),
            *(("-settings", str(ivy_settings)) if ivy_settings else ()),
            *("-cache", str(folder / "cache")),
            *("-dependency", jar.group, jar.artifact, jar.version),
            *("-confs", "default"),
            *("-retrieve", str(folder / "[artifact]-[revision].[ext]")),
            "-notransitive",
            *("-types", "jar"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_FETCH_SECONDS,
    )
    fetched = folder / jar.file_name
    if done.returncode or not fetched.is_file():
        raise StackError(
            f"{jar.file_name} cannot be fetched",
            where="\n".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL_LINES:]),
            todo="check the network; behind a mirror, set LAKEHOUSE_IVY_SETTINGS to an Ivy settings file",
        )
    return fetched
