"""Many small requests at once, given up together when the server that answers them is away."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from lakehouse.core.errors import LakehouseError, TransientError

WORKERS = 8
Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


def ask_each(
    keys: Iterable[Key], ask: Callable[[Key], Answer], workers: int = WORKERS
) -> Iterator[tuple[Key, Answer | LakehouseError]]:
    """What ``ask`` says of each key, as the answers come: its answer, or the error that concerns this key alone.

    Raises :class:`TransientError` as soon as one request met it: the server is away, and the others would wait for it
    one after the other.
    """
    waiting: dict[Future[Answer], Key] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lakehouse-page")
    remaining = iter(keys)
    try:
        while True:
            for key in islice(remaining, workers - len(waiting)):
                waiting[pool.submit(ask, key)] = key
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                key, answer = waiting.pop(future), _answer(future)
                yield key, answer
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(future: Future[Answer]) -> Answer | LakehouseError:
    try:
        return future.result()
    except TransientError:
        raise
    except LakehouseError as error:
        return error
