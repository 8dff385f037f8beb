"""A proxy before an S3 server that sees where requests begin: it can answer one itself, or break off inside it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from tests.faults.tcp import CHUNK, Connection, Proxy

_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_CODES = {403: b"AccessDenied", 500: b"InternalError", 503: b"SlowDown"}


@dataclass
class S3Fault:
    """What happens to requests, ``times`` of them (None: all): an answer with a status, or a reset inside the request.

    One without a body never reaches the server: it would answer, and the answer could come before the reset.

    ``meanwhile`` runs at the first one.
    """

    concerns: Callable[[str, str], bool]
    status: int | None = None
    times: int | None = None
    meanwhile: Callable[[], object] | None = None
    hits: list[str] = field(default_factory=list)

    def strikes(self, method: str, path: str) -> bool:
        if not self.concerns(method, path) or (self.times is not None and len(self.hits) >= self.times):
            return False
        self.hits.append(f"{method} {path}")
        if self.meanwhile and len(self.hits) == 1:
            self.meanwhile()
        return True


@dataclass
class _S3Connection(Connection):
    def from_client(self) -> None:
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                if not (data := self.client.recv(CHUNK)):
                    return
                rest += data
            head, _, rest = rest.partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head.lower(), "the proxy reads no body of unknown length"
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            fault = cast(S3Proxy, self.proxy).fault_for(method, path)
            if fault and fault.status:
                self._refuse(fault.status, method)
                return
            if length or not fault:
                self.send(self.server, head + b"\r\n\r\n")
                rest = self._pass_body(rest, length // 2 if fault else length)
            if fault:
                self.reset()
                return

    def _pass_body(self, rest: bytes, length: int) -> bytes:
        """Pass the rest of a request on; what came after it."""
        while length:
            if not rest and not (rest := self.client.recv(CHUNK)):
                return b""
            part, rest = rest[:length], rest[length:]
            self.send(self.server, part)
            length -= len(part)
        return rest

    def _refuse(self, status: int, method: str) -> None:
        body = b"" if method == "HEAD" else b"<Error><Code>" + _CODES[status] + b"</Code></Error>"
        head = f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self.client.sendall(head.encode() + body)
        self.client.shutdown(socket.SHUT_WR)
        while self.client.recv(CHUNK):
            pass  # whatever the client still sends: to close before would be a reset


class S3Proxy(Proxy):
    """Faults are armed for some requests, and one after another."""

    def __init__(self, host: str, port: int) -> None:
        self._faults: list[S3Fault] = []
        self._arming = threading.Lock()
        super().__init__(host, port)

    def connection(self, client: socket.socket, server: socket.socket) -> Connection:
        return _S3Connection(self, client, server)

    @contextmanager
    def armed(self, fault: S3Fault) -> Iterator[S3Fault]:
        """Inside, a fault strikes; it must have, by the end."""
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)
        assert fault.hits, "no request was hit"

    def fault_for(self, method: str, path: str) -> S3Fault | None:
        with self._arming:
            return next((fault for fault in self._faults if fault.strikes(method, path)), None)


def writes(part: str) -> Callable[[str, str], bool]:
    """Requests that write an object with this in its name."""
    return lambda method, path: method in ("PUT", "POST") and part in path


def anything(_: str, __: str) -> bool:
    """Every request."""
    return True
