"""Secrets that are files, and what `lakehouse prepare` says before it reaches a server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lakehouse.core.errors import SettingsError, StackError
from lakehouse.core.settings import Settings, load_settings, read_settings
from lakehouse.stack import credentials, ports, roles
from lakehouse.stack.prepare import RolePasswords, prepare


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets, and nothing of the caller's environment."""
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("LAKEHOUSE_SECRETS", str(folder))
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path / "home"))
    return folder


def test_a_file_stands_for_a_variable(secrets: Path) -> None:
    (secrets / "lakehouse_catalog_password").write_text("from a file\n")
    (secrets / "lakehouse_connections").write_text('{"crm": "postgresql://reader@crm/sales"}')
    (secrets / "postgres_exporter_token").write_text("of another program")
    found = load_settings()
    assert found.catalog_password.get_secret_value() == "from a file"
    assert found.connections["crm"].get_secret_value() == "postgresql://reader@crm/sales"
    assert found.secrets == secrets


def test_the_environment_and_the_stack_win_over_files(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "lakehouse_catalog_password").write_text("from a file")
    (secrets / "lakehouse_reader_password").write_text("from a file")
    home = Path(os.environ["LAKEHOUSE_HOME"])
    credentials.write_stack_env(home, {"LAKEHOUSE_CATALOG_PASSWORD": "of the stack"})
    monkeypatch.setenv("LAKEHOUSE_READER_PASSWORD", "of the environment")
    found = load_settings()
    assert found.catalog_password.get_secret_value() == "of the stack"
    assert found.reader_password.get_secret_value() == "of the environment"


def test_a_folder_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_SECRETS", "/no/such/folder")
    with pytest.raises(SettingsError, match="(?s)LAKEHOUSE_SECRETS is no folder.*/no/such/folder"):
        load_settings()


def test_a_secret_that_cannot_be_read_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "lakehouse_catalog_password").write_text("hidden")
    read = Path.read_text

    def refuse(path: Path, **options: str) -> str:
        if path.parent == secrets:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)  # root reads whatever the mode is
    with pytest.raises(SettingsError, match="(?s)Permission denied.*lakehouse_catalog_password"):
        load_settings()


def test_a_secret_that_is_no_json_is_refused_without_being_shown(secrets: Path) -> None:
    (secrets / "lakehouse_connections").write_text("{hush")
    with pytest.raises(SettingsError, match="LAKEHOUSE_SECRETS") as raised:
        load_settings()
    assert "hush" not in str(raised.value)


def test_the_readers_password_is_enough_to_read() -> None:
    servers = {"s3_access_key_id": "key", "postgres_port": 5432}
    Settings(**servers, reader_password="r").require_servers()
    Settings(**servers, catalog_password="c").require_servers()
    with pytest.raises(SettingsError, match="no servers yet"):
        Settings(**servers).require_servers()


def give_all(secrets: Path) -> None:
    for name in RolePasswords.model_fields:
        (secrets / f"lakehouse_{name}").write_text(f"of {name}")


def test_every_role_has_a_password_of_its_own(secrets: Path) -> None:
    give_all(secrets)
    given = read_settings(RolePasswords).passwords()
    assert given == roles.Passwords(**{name: f"of {name}_password" for name in roles.Passwords.__dataclass_fields__})
    assert "of catalog" not in repr(given)
    signing_in = roles.passwords_of(Settings(), given)
    assert len(set(signing_in.values())) == len(signing_in) >= 7
    assert given.superuser not in signing_in.values()
    assert set(roles.owners_of(Settings()).values()) <= signing_in.keys()


def test_every_missing_password_is_named(secrets: Path) -> None:
    give_all(secrets)
    (secrets / "lakehouse_backup_password").unlink()
    (secrets / "lakehouse_ingest_password").write_text("")
    with pytest.raises(SettingsError, match="LAKEHOUSE_BACKUP_PASSWORD, LAKEHOUSE_INGEST_PASSWORD"):
        prepare(load_settings())


def test_a_server_that_is_not_there_is_said(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_all(secrets)
    port = ports.any_free()
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_PORT", str(port))
    with pytest.raises(StackError, match=f"(?s)PostgreSQL cannot be made ready: .*127.0.0.1:{port}") as raised:
        prepare(load_settings())
    assert "of superuser" not in str(raised.value)


def test_without_a_superuser_only_s3_is_touched_and_its_absence_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_S3_ENDPOINT", f"http://127.0.0.1:{ports.any_free()}")
    monkeypatch.setenv("LAKEHOUSE_S3_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("LAKEHOUSE_S3_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(StackError, match="bucket landing cannot be created: Could not connect") as raised:
        prepare(load_settings())
    assert "hush" not in str(raised.value)
