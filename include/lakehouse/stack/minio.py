"""MinIO: found on PATH or in the cache, else built with Go at the pinned version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lakehouse.core.errors import StackError
from lakehouse.stack.files import file_lock

PROGRAM = "minio"
MODULE = "github.com/minio/minio"
VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
GO_AT_LEAST = (1, 24)
_BUILD_SECONDS = 1800.0
_GO_VERSION = re.compile(r"go(\d+)\.(\d+)")


@dataclass(frozen=True)
class Found:
    """MinIO's path, or, where there is none, the reason that a person can act on."""

    path: Path | None
    reason: str = ""


def find(cache: Path) -> Path | None:
    """MinIO on PATH, else in the cache; None where there is neither."""
    on_path = shutil.which(PROGRAM)
    cached = cache / "bin" / PROGRAM
    if on_path:
        return Path(on_path)
    return cached if cached.is_file() and os.access(cached, os.X_OK) else None


def find_or_build(cache: Path, console: Console | None) -> Found:
    """MinIO from PATH or the cache, else built now, which takes about three minutes."""
    if path := find(cache):
        return Found(path)
    go, reason = usable_go()
    if go is None:
        return Found(None, reason)
    with file_lock(cache / "build.lock", _BUILD_SECONDS, "building MinIO"):
        return Found(path) if (path := find(cache)) else _build(go, cache, console)


def usable_go() -> tuple[str | None, str]:
    """The ``go`` program, or None and why it cannot be used."""
    go = shutil.which("go")
    needed = ".".join(map(str, GO_AT_LEAST))
    if go is None:
        return None, f"MinIO is not on PATH and Go is not installed: install Go {needed} or newer, or MinIO"
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    match = _GO_VERSION.match(answer.stdout.strip())
    if match is None or (int(match[1]), int(match[2])) < GO_AT_LEAST:
        return None, f"MinIO is not on PATH and Go is {answer.stdout.strip() or 'unusable'}: install Go {needed}"
    return go, ""


def _build(go: str, cache: Path, console: Console | None) -> Found:
    """Build into a folder of its own and move the result into the cache, so that a cut build is never used."""
    target = cache / "bin" / PROGRAM
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        tail = _run_go(go, Path(folder), console)
        built = Path(folder) / PROGRAM
        if not built.is_file():
            return Found(None, f"building MinIO failed: {tail}")
        os.replace(built, target)
    return Found(target)


def _run_go(go: str, folder: Path, console: Console | None) -> str:
    """Run ``go install``, show what it compiles, and return the last lines it said."""
    said: list[str] = []
    environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
    shown = console or Console(stderr=True)
    with (
        shown.status("building MinIO with Go, once; about three minutes") as status,
        subprocess.Popen(
            [go, "install", "-v", "-trimpath", f"{MODULE}@{VERSION}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as build,
    ):
        for line in build.stdout or ():
            said = [*said[-4:], line.strip()]
            status.update(f"building MinIO with Go, once; about three minutes: {line.strip()[:80]}")
        build.wait()
    return "; ".join(said)


def command(program: Path, data: Path, port: int, console_port: int, certificates: Path) -> list[str]:
    """The server's command line. Its certificates' folder is its own, lest a person's own ones switch it to TLS."""
    return [
        str(program),
        "server",
        "--address",
        f"127.0.0.1:{port}",
        "--console-address",
        f"127.0.0.1:{console_port}",
        "--certs-dir",
        str(certificates),
        str(data),
    ]


def environment(access_key: str, secret_key: str) -> dict[str, str]:
    """The server's environment; credentials go this way because anyone can read a command line."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_UPDATE": "off",
    }


def require(found: Found) -> Path:
    """The path, or :class:`StackError` with the reason why there is none."""
    if found.path is None:
        raise StackError(
            "there is no MinIO",
            where=found.reason,
            todo="do what it names, or set LAKEHOUSE_S3_SERVER=moto for a stand-in that keeps data in memory only",
        )
    return found.path
