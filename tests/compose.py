"""docker-compose.yaml as tests read it, and its services as processes of this machine: no container is started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings
from lakehouse.stack import backup_access, buckets, credentials, down, roles, up
from lakehouse.stack.files import write_env
from lakehouse.stack.ports import LOOPBACK

TEXT = (PROJECT_ROOT / "docker-compose.yaml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(:?[-?])?((?:[^${}]|\$\{[^{}]*\})*)\}")


def filled_in(value: object, environment: Mapping[str, str] | None = None) -> str:
    """A value as Compose fills it in; by default with no variable set."""
    given = environment or {}

    def fill(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        found = given.get(name)
        if found or (found == "" and operator in ("-", "?")):
            return found
        assert operator in (":-", "-"), f"{match[0]} has no default"
        return filled_in(default, given)

    return VARIABLE.sub(fill, str(value))


def environment_of(service: str) -> dict[str, str]:
    """The environment that a service gets when no variable is set; a name without a value is then left out."""
    return known(SERVICES[service].get("environment", {}))


def known(environment: Mapping[str, Any]) -> dict[str, str]:
    """The variables that have a value when no variable is set."""
    return {name: filled_in(value) for name, value in environment.items() if value is not None}


def secrets_of(service: str) -> dict[str, dict[str, str]]:
    """The service's secrets, by the name of the file that they become."""
    return {secret.get("target", secret["source"]): secret for secret in SERVICES[service].get("secrets", [])}


def make_env(path: Path) -> dict[str, str]:
    """Make a file with docker/make-env.sh, and read it as Compose does."""
    subprocess.run(["sh", PROJECT_ROOT / "docker" / "make-env.sh", path], check=True, capture_output=True)
    lines = (line.partition("=") for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in lines}


@dataclass(frozen=True)
class Here:
    """The services as processes of this machine, with their secrets as files below ``root``.

    ``env`` is what .env says. ``moved`` says what stands here for folders and addresses of containers; ``told`` are
    variables of every service.
    """

    root: Path
    env: Mapping[str, str]
    moved: Mapping[str, str]
    told: Mapping[str, str]

    def with_env(self, **changed: str) -> Here:
        """The same with other lines in .env."""
        return replace(self, env={**self.env, **changed})

    def command(self, service: str, *other: str) -> list[str]:
        """What a service runs, or another command, with the programs of this environment."""
        program, *arguments = other or SERVICES[service]["command"]
        return [str(Path(sys.executable).parent / program), *map(self._here, arguments)]

    def healthcheck(self, service: str) -> list[str]:
        """What tells whether a service is healthy."""
        kind, program, *arguments = SERVICES[service]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        return [sys.executable, *map(self._here, arguments)]

    def environment(self, service: str, **other: str) -> dict[str, str]:
        """What a service knows, and nothing of the caller's settings."""
        folder = str(self._secrets(service))
        said = {
            name: self._here(value.replace("/run/secrets", folder)) for name, value in environment_of(service).items()
        }
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LAKEHOUSE_CACHE") if name in os.environ}
        python = os.pathsep.join((str(PROJECT_ROOT), str(PROJECT_ROOT / "include")))
        return {**kept, "PYTHONPATH": python, **said, **self.told, **other}

    def _here(self, value: str) -> str:
        for there, here in self.moved.items():
            value = value.replace(there, here)
        return value

    def _secrets(self, service: str) -> Path:
        folder = self.root / "secrets" / service
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, secret in secrets_of(service).items():
            file, value = folder / name, self.env[COMPOSE["secrets"][secret["source"]]["environment"]]
            file.unlink(missing_ok=True)
            if value:  # Compose makes no file of an empty one
                file.write_text(value)
                file.chmod(int(secret["mode"], 8))
        return folder


@contextmanager
def fresh_servers() -> Iterator[tuple[Settings, Here]]:
    """PostgreSQL and an S3 server as their containers start them, with the secrets of .env and nothing else."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-tests-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - PostgreSQL's account enters it when tests run as root
        yield from _fresh_servers(Path(folder))


def _fresh_servers(root: Path) -> Iterator[tuple[Settings, Here]]:
    env, home = make_env(root / ".env"), root / "servers"
    given = {
        "POSTGRES_SUPERUSER_PASSWORD": env["LAKEHOUSE_SUPERUSER_PASSWORD"],
        "S3_ACCESS_KEY_ID": env["LAKEHOUSE_S3_ACCESS_KEY_ID"],
        "S3_SECRET_ACCESS_KEY": env["LAKEHOUSE_S3_SECRET_ACCESS_KEY"],
        "BACKUP_ROOT_ACCESS_KEY_ID": env["LAKEHOUSE_BACKUP_ROOT_ACCESS_KEY_ID"],
        "BACKUP_ROOT_SECRET_ACCESS_KEY": env["LAKEHOUSE_BACKUP_ROOT_SECRET_ACCESS_KEY"],
    }
    write_env(credentials.admin_path(home), given, "Of the containers.")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
            patch.delenv(name)
        patch.setattr(roles, "provision", lambda *arguments: None)
        patch.setattr(buckets, "create", lambda *arguments: None)
        patch.setattr(backup_access, "make", lambda *arguments: None)
        try:
            up(load_settings(home))
            settings = load_settings(home)
            yield settings, _beside(settings, root, env)
        finally:
            down(load_settings(home))


def _beside(settings: Settings, root: Path, env: Mapping[str, str]) -> Here:
    at = f"@{LOOPBACK}:{settings.postgres_port}/"
    return Here(
        root,
        env={name: value.replace("@postgres:5432/", at) for name, value in env.items()},
        moved={
            "/opt/lakehouse": str(PROJECT_ROOT),
            "/var/lib/lakehouse": str(root / "home"),
            "http://s3:9000": settings.s3_endpoint,
            "http://backups:9000": settings.backup_s3_endpoint,
        },
        told={"LAKEHOUSE_POSTGRES_HOST": LOOPBACK, "LAKEHOUSE_POSTGRES_PORT": str(settings.postgres_port)},
    )
