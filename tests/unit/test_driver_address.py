"""Where executors reach a driver: the one thing that a job must know of the machine that it runs on."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import psutil
import pytest

from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import Settings
from lakehouse.engine import session
from lakehouse.engine.session import base_conf, driver_address

OWN = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]


@pytest.mark.parametrize("master", ["local[*]", "local-cluster[2,1,1024]", "yarn", "k8s://https://127.0.0.1:6443"])
def test_a_driver_stays_on_loopback(master: str) -> None:
    assert driver_address(master) == "127.0.0.1"


def test_a_driver_faces_its_master() -> None:
    assert "127.0.0.1" in OWN
    for own in OWN:
        faced = driver_address(f"spark://{own}:7077,elsewhere:7077")
        assert ip_address(faced).is_loopback == ip_address(own).is_loopback
        assert faced in OWN


def test_a_master_that_nobody_knows_is_said() -> None:
    with pytest.raises(SettingsError, match=r"(?s)cannot be found.*spark://nowhere\.invalid:7077"):
        driver_address("spark://nowhere.invalid:7077")


def test_it_binds_where_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "jar_paths", lambda cache: ())
    conf = base_conf(Settings(spark_master="spark://127.0.0.1:7077"))
    assert conf["spark.driver.host"] == conf["spark.driver.bindAddress"] == "127.0.0.1"
    assert conf["spark.master"] == "spark://127.0.0.1:7077"
