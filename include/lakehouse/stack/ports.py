"""Ports on the loopback interface. Nothing of the local stack listens anywhere else."""

from __future__ import annotations

import socket

from lakehouse.core.errors import StackError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_answered(host: str, port: int, timeout_seconds: float = 1.0) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout_seconds):
            return True
    except OSError:
        return False


def any_free() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def choose(wanted: int, remembered: int, setting: str) -> int:
    """The port to use: the one that was asked for, else the one used before if it is free, else any free one.

    Raises :class:`StackError` when the port that ``setting`` asks for is taken.
    """
    if wanted and not is_free(wanted):
        raise StackError(
            f"port {wanted} is taken by another program",
            where=setting,
            todo=f"stop that program, or set {setting} to another port, or unset it for any free one",
        )
    if wanted:
        return wanted
    return remembered if remembered and is_free(remembered) else any_free()
