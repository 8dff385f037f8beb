"""Memory that threads share for whole files, kept and used again: the system clears what it hands out, page by page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from mmap import mmap

MOST_BYTES = 512 * 1024 * 1024
AT_ONCE_BYTES = 128 * 1024 * 1024
"""Up to this size a file is sent in one request, where there is room for it."""
SMALL_BYTES = 16 * 1024 * 1024
"""For files up to this size there always is: one part of a larger one takes as much."""


@dataclass
class Room:
    """So many bytes at most for all threads together, beside what small files need."""

    most_bytes: int = MOST_BYTES
    _free: list[mmap] = field(default_factory=list)
    _held_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[memoryview | None]:
        """Memory for a file of this size; None where it is too large, or there is no room for it now.

        After an error the memory is not used again: a request that took too long may still write into it.
        """
        memory = self._take(size_bytes) if size_bytes <= AT_ONCE_BYTES else None
        if memory is None:
            yield None
            return
        try:
            yield memoryview(memory)[:size_bytes]
        except BaseException:
            self._forget(memory)
            raise
        with self._lock:
            self._free.append(memory)

    def _take(self, size_bytes: int) -> mmap | None:
        with self._lock:
            fitting = [memory for memory in self._free if len(memory) >= size_bytes]
            if fitting:
                return self._taken(min(fitting, key=len))
            while self._free and self._held_bytes + size_bytes > self.most_bytes:
                self._held_bytes -= len(self._taken(self._free[0]))
            if self._held_bytes + size_bytes > self.most_bytes and size_bytes > SMALL_BYTES:
                return None
            self._held_bytes += size_bytes
        return mmap(-1, max(1, size_bytes))  # unlike a bytearray, it costs nothing before it is written

    def _taken(self, memory: mmap) -> mmap:
        self._free = [other for other in self._free if other is not memory]
        return memory

    def _forget(self, memory: mmap) -> None:
        with self._lock:
            self._held_bytes -= len(memory)
