"""How a session in its own process is started: what Spark's scripts are told. No JVM."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from lakehouse.core import spark_conf
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import Settings
from lakehouse.engine import session as sessions
from lakehouse.engine.session import bare_session, session

CHANGED = ("SPARK_CONF_DIR", "PYSPARK_SUBMIT_ARGS", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_LOCAL_IP")


class Builder:
    """Stands for Spark's: whatever is built has the configuration ``has``."""

    def __init__(self, has: dict[str, str]) -> None:
        self.builder = self
        self._has = has
        self.stopped = 0

    def appName(self, name: str) -> Builder:  # noqa: N802 - as Spark has it
        return self

    def getOrCreate(self) -> Any:  # noqa: N802 - as Spark has it
        return SimpleNamespace(conf=self._has, stop=self._stop)

    def _stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Builder]:
    monkeypatch.setattr(spark_conf, "jar_paths", lambda cache: (tmp_path / "a.jar",))
    for name in CHANGED:
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("SPARK_LOCAL_IP")
    builder = Builder({})
    monkeypatch.setattr(sessions, "SparkSession", builder)
    yield builder


def settings(home: Path, **more: Any) -> Settings:
    secrets = {"catalog_password": SecretStr("catalog-secret"), "s3_secret_access_key": SecretStr("s3-secret")}
    given = {"cache": home / "cache", "s3_access_key_id": "key", "postgres_port": 5432, **secrets, **more}
    return Settings(home=home, **given)


def told() -> list[str]:
    return shlex.split(os.environ["PYSPARK_SUBMIT_ARGS"])


def test_a_session_is_told_where_its_configuration_is_and_no_secret(built: Builder, tmp_path: Path) -> None:
    with session(settings(tmp_path / "with space"), "a job"):
        conf = tmp_path / "with space" / "spark" / "writer" / "spark-defaults.conf"
        assert told() == ["--properties-file", str(conf), "pyspark-shell"]
        assert "catalog-secret" in conf.read_text() and conf.stat().st_mode & 0o777 == 0o600
        # A folder with files on the class path would keep the JVM from its archive of classes.
        assert not Path(os.environ["SPARK_CONF_DIR"]).exists()
        assert os.environ["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert built.stopped == 1


def test_short_jobs_compile_quickly(built: Builder, tmp_path: Path) -> None:
    quick = "-XX:TieredStopAtLevel=1"
    for is_short in (True, False):
        with session(settings(tmp_path), "a job", is_short=is_short):
            assert (quick in os.environ["PYSPARK_SUBMIT_ARGS"]) is is_short
    with session(settings(tmp_path), "a console", read_only=True):
        (option,) = [text for text in told() if text.endswith(quick)]
        assert option.startswith("spark.driver.extraJavaOptions=-XX:+UseParallelGC")
        assert str(tmp_path / "spark" / "reader" / "spark-defaults.conf") in told()
    with bare_session(settings(tmp_path, spark_master="connect"), "cases"):
        assert "local[*]" in (tmp_path / "spark" / "bare" / "spark-defaults.conf").read_text()


def test_spark_submit_must_have_the_configuration_of_this_lake(
    built: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    with pytest.raises(SettingsError, match="lakehouse conf --writer"), session(settings(tmp_path), "a job"):
        pass
    given = spark_conf.catalog_conf(settings(tmp_path))
    monkeypatch.setattr(built, "_has", given)
    with session(settings(tmp_path), "a job"):
        pass
    with pytest.raises(SettingsError, match=r"\.uri of its session"):
        with session(settings(tmp_path, catalog_database="another"), "a job"):
            pass
    with bare_session(settings(tmp_path), "cases"):
        pass
