"""One program as a child process, in a process group of its own, that never outlives the task that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

_END_SECONDS = 10.0
_POLL_SECONDS = 0.05


class Child:
    """A running program. What it writes to standard output is kept, its standard error is passed on line by line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def lines(self) -> Iterator[str]:
        """What it says on standard error, until it closes it."""
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        for line in self._process.stderr:
            yield line.rstrip()

    def wait(self) -> tuple[int, str]:
        """Its exit code, negative for a signal, and all that it wrote to standard output."""
        code = self._process.wait()
        self._output.seek(0)
        return code, self._output.read().decode("utf-8", "replace")

    def end(self) -> None:
        """End it with all that it started: first asked to, then killed. Nothing happens when it has ended."""
        if self._signal(signal.SIGTERM):
            deadline = time.monotonic() + _END_SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        self._signal(signal.SIGKILL)  # the group outlives its leader where a grandchild did not listen
        self._process.wait()

    def close(self) -> None:
        """End it, and let go of its files."""
        self.end()
        self._output.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _signal(self, number: signal.Signals) -> bool:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False
