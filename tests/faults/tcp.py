"""A TCP proxy on loopback, before a real server: passes everything on, until it is told to break something."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CHUNK = 1 << 16
_TICK_SECONDS = 0.05


@dataclass
class Connection:
    """One client's connection and the one to the server that stands for it."""

    proxy: Proxy
    client: socket.socket
    server: socket.socket

    def start(self) -> None:
        for pump in (self.from_client, self.from_server):
            threading.Thread(target=self._pump, args=(pump,), daemon=True).start()

    def close(self) -> None:
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def reset(self) -> None:
        """Break off with RST, as a machine does that lost its memory."""
        with suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.close()
        self.close()

    def from_client(self) -> None:
        while data := self.client.recv(CHUNK):
            self.send(self.server, data)

    def from_server(self) -> None:
        while data := self.server.recv(CHUNK):
            self.send(self.client, data)

    def send(self, to: socket.socket, data: bytes) -> None:
        """Pass bytes on, as slowly as the proxy is told to."""
        while data and (pace := self.proxy.bytes_per_second):
            piece, data = data[: max(1, int(pace * _TICK_SECONDS))], data[max(1, int(pace * _TICK_SECONDS)) :]
            to.sendall(piece)
            time.sleep(len(piece) / pace)
        to.sendall(data)

    def _pump(self, pump: Callable[[], None]) -> None:
        try:
            with suppress(OSError):
                pump()
        finally:
            self.close()


class Proxy:
    """Listens on a free port. A subclass makes connections that understand what passes through them."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes_per_second = 0.0
        self._connections: list[Connection] = []
        self._lock = threading.Lock()
        self._listen()

    def connection(self, client: socket.socket, server: socket.socket) -> Connection:
        return Connection(self, client, server)

    def go_down(self) -> None:
        """The server is gone: its connections are closed, and new ones are refused."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    def come_back(self) -> None:
        """It listens again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Inside, the server is gone."""
        self.go_down()
        try:
            yield
        finally:
            self.come_back()

    @contextmanager
    def slow(self, bytes_per_second: float) -> Iterator[None]:
        """Inside, that many bytes pass in a second, each way of each connection."""
        self.bytes_per_second = bytes_per_second
        try:
            yield
        finally:
            self.bytes_per_second = 0.0

    def drop_connections(self) -> None:
        """Close all connections, as a restart of the network's middle would."""
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self.go_down()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self._upstream)
                except OSError:
                    client.close()
                    continue
                connection = self.connection(client, server)
                with self._lock:
                    self._connections.append(connection)
                connection.start()
