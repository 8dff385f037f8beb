"""A lake whose Spark reaches the catalog through the proxy, and the same lake as others see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.faults.lost_reply.proxy import CatalogProxy
from tests.sessions import small_session

from lakehouse.core.settings import Settings
from lakehouse.engine.publish import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PATIENT_SECONDS, HASTY_SECONDS = 300, 2
"""How long Spark waits for an answer: longer than anything that happens meanwhile, or as short as a test can wait."""


@dataclass(frozen=True)
class Faulty:
    """One lake, seen by several: the Spark sessions of ``lake`` and ``hasty`` go through the proxy, ``other`` past it.

    With the settings ``through``, all else goes through the proxy too, and waits as ``hasty`` does.
    """

    lake: Lake
    hasty: Lake
    other: Lake
    proxy: CatalogProxy
    through: Settings


@pytest.fixture(scope="module")
def new_faulty(spark: SparkSession, new_settings: Callable[[], Settings]) -> Iterator[Callable[[], Faulty]]:
    """Makes an empty lake behind a proxy of its own."""
    proxies: list[CatalogProxy] = []

    def make() -> Faulty:
        mine = new_settings()
        proxy = CatalogProxy(mine.postgres_host, mine.postgres_port)
        proxies.append(proxy)
        patient, hasty = (
            mine.model_copy(update={"postgres_port": proxy.port, "catalog_timeout_seconds": seconds})
            for seconds in (PATIENT_SECONDS, HASTY_SECONDS)
        )
        lakes = (Lake(small_session(spark, seen), mine) for seen in (patient, hasty, mine))
        return Faulty(*lakes, proxy, hasty)

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture(scope="module")
def shared(new_faulty: Callable[[], Faulty]) -> Faulty:
    """A lake that the tests of a module share; each uses tables of its own."""
    return new_faulty()


@pytest.fixture
def faulty(shared: Faulty) -> Iterator[Faulty]:
    """The shared lake, with nothing armed before and after."""
    shared.proxy.disarm()
    yield shared
    shared.proxy.disarm()
