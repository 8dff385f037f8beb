"""Work ends when S3 does, and not before; and no request to S3 takes longer than it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.faults.s3_proxy import S3Fault, S3Proxy, anything

from lakehouse.core.errors import TransientError
from lakehouse.core.settings import Settings
from lakehouse.engine.watch import while_s3_answers
from lakehouse.ledger.store import ObjectStore

HANGS_SECONDS, MOST_SECONDS = 25, 90
"""What is bounded by three seconds ends long before these, on a slow machine too."""


@pytest.fixture
def proxy(servers: Settings) -> Iterator[S3Proxy]:
    host, _, port = servers.s3_endpoint.rpartition(":")
    made = S3Proxy(host.removeprefix("http://"), int(port))
    yield made
    made.close()


@pytest.fixture
def hasty(new_settings: Callable[[], Settings], proxy: S3Proxy) -> Settings:
    """A lake behind the proxy, which waits three seconds for S3."""
    return new_settings().model_copy(update={"s3_endpoint": f"http://127.0.0.1:{proxy.port}", "s3_timeout_seconds": 3})


def test_work_ends_when_s3_does(hasty: Settings, proxy: S3Proxy) -> None:
    """What Iceberg would ask for ten minutes is given up."""
    hangs = threading.Event()
    with proxy.slow(1), pytest.raises(TransientError, match="has not answered for 3 s"):
        while_s3_answers(hasty, lambda: hangs.wait(HANGS_SECONDS))


def test_slow_work_is_left_alone_while_s3_answers(hasty: Settings, proxy: S3Proxy) -> None:
    def work() -> str:
        with proxy.armed(S3Fault(anything, 503, times=2)):
            time.sleep(hasty.s3_timeout_seconds + 2)
        return "done"

    assert while_s3_answers(hasty, work) == "done"


@pytest.mark.timeout(MOST_SECONDS)
@pytest.mark.parametrize("fault", ["down", "silent", "500", "503", "reset"])
def test_a_request_is_answered_or_refused_in_time(hasty: Settings, proxy: S3Proxy, fault: str) -> None:
    store = ObjectStore.open(hasty)
    body = bytes(200_000)
    assert store.put_if_absent("there", body)
    ways = {
        "down": proxy.down,
        "silent": lambda: proxy.slow(0.1),
        "500": lambda: proxy.armed(S3Fault(anything, 500)),
        "503": lambda: proxy.armed(S3Fault(anything, 503)),
        "reset": lambda: proxy.armed(S3Fault(anything)),
    }
    asks = (lambda: store.get("there"), lambda: store.put_if_absent("new", body), lambda: [*store.list_after("")])
    with ways[fault]():
        for ask in asks:
            with pytest.raises(TransientError, match="S3"):
                ask()
    assert store.get("there") == body
