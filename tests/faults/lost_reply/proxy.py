"""A TCP proxy between Spark's catalog and PostgreSQL that lets a commit happen and swallows the reply.

It understands as much of PostgreSQL's wire protocol as it takes to see which statement a message carries out: messages
are framed, prepared statements remembered by name, and the texts of bound parameters read.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.tcp import CHUNK, Connection, Proxy

from lakehouse.core.names import TableName

Verb = Literal["UPDATE", "INSERT", "DELETE"]
_POINTERS = " iceberg_tables"
_PLAIN_REQUESTS = (80877103, 80877104)  # for TLS and GSS encryption: the server answers with one byte


def nothing() -> None:
    """What happens between most lost replies and the client's next try."""


@dataclass
class Fault:
    """One reply to lose: that to the ``skip``-th next commit of a table's pointer, once the server has made it.

    ``then`` says what the client sees: its connection closed, or silence. ``meanwhile`` runs after the server's commit,
    and before the client can know that it has to try again.
    """

    table: TableName
    then: Literal["closed", "silent"] = "closed"
    verb: Verb = "UPDATE"
    skip: int = 0
    meanwhile: Callable[[], object] = nothing
    happened: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)

    def concerns(self, sql: str, parameters: Sequence[str]) -> bool:
        """Whether a statement commits this table's pointer; counts those that are let through."""
        words = sql.split()
        is_commit = words[:1] == [self.verb] and _POINTERS in sql
        if not (is_commit and {self.table.namespace, self.table.name} <= set(parameters)):
            return False
        self.skip -= 1
        return self.skip < 0

    def check(self) -> None:
        """Raise unless the reply was lost, and what was to happen meanwhile went well."""
        assert self.happened.wait(300), f"no reply to {self.verb} of {self.table} was lost"
        if self.errors:
            raise self.errors[0]

    def strike(self) -> None:
        """The reply is lost now."""
        try:
            self.meanwhile()
        except BaseException as error:  # the test's thread is to see it
            self.errors.append(error)
        self.happened.set()


class Messages:
    """Cuts a stream of bytes into PostgreSQL's messages: a type, four bytes of length, a body."""

    def __init__(self) -> None:
        self.rest = b""

    def take(self, data: bytes, *, plain: bool = False) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Type, body, and all bytes of each complete message. ``plain``: the first message has no type."""
        self.rest += data
        start = 0 if plain else 1
        while len(self.rest) >= start + 4:
            (length,) = struct.unpack_from("!I", self.rest, start)
            end = start + length
            if len(self.rest) < end:
                return
            whole, self.rest = self.rest[:end], self.rest[end:]
            yield whole[:start], whole[start + 4 :], whole
            if plain:
                return


@dataclass
class _Connection(Connection):
    proxy: CatalogProxy
    statements: dict[bytes, str] = field(default_factory=dict)
    losing: Fault | None = None
    answers_due: int = 0
    is_silent: bool = False

    def from_client(self) -> None:
        messages, is_started = Messages(), False
        while data := self.client.recv(CHUNK):
            while True:
                before = is_started
                for kind, body, whole in messages.take(data, plain=not is_started):
                    if kind:
                        self._understand(kind, body)
                    elif struct.unpack("!I", body[:4])[0] in _PLAIN_REQUESTS:
                        self.answers_due += 1
                    else:
                        is_started = True
                    if not self.proxy.is_deaf:
                        self.server.sendall(whole)
                data = b""
                if before == is_started:
                    break

    def _understand(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self.statements[name] = sql.decode()
        elif kind == b"B":
            _, name, rest = body.split(b"\0", 2)
            self.losing = self.losing or self.proxy.fault_for(self.statements[name], list(_parameters(rest)))

    def from_server(self) -> None:
        messages, kept, tag = Messages(), b"", b""
        while data := self.server.recv(CHUNK):
            while self.answers_due and data:
                answer, data = data[:1], data[1:]
                assert answer == b"N", "the proxy does not read encrypted connections"
                self.answers_due -= 1
                self.client.sendall(answer)
            for kind, body, whole in messages.take(data):
                kept += whole
                tag = body if kind == b"C" else tag
                if self.losing is None or (kind == b"Z" and tag.rstrip(b"\0")[-2:] == b" 0"):
                    self.losing = None  # nothing was committed, so there is no commit to lose
                    self._send(kept)
                    kept = b""
                elif kind == b"Z" and body == b"T":  # the commit is still to come
                    self._send(kept)
                    kept = b""
                elif kind == b"Z":
                    assert tag.split()[0] != b"ROLLBACK\0", "what was not committed cannot be lost"
                    kept = b""
                    self._lose(self.losing)

    def _send(self, data: bytes) -> None:
        if not (self.is_silent or self.proxy.is_deaf):
            self.client.sendall(data)

    def _lose(self, fault: Fault) -> None:
        self.losing, self.is_silent = None, True
        fault.strike()
        if fault.then == "closed":
            self.close()


def _parameters(rest: bytes) -> Iterator[str]:
    """The texts of a Bind message's parameters; binary ones (numbers) are left out."""
    (formats,) = struct.unpack_from("!H", rest)
    codes = struct.unpack_from(f"!{formats}H", rest, 2)
    at = 2 + 2 * formats
    (count,) = struct.unpack_from("!H", rest, at)
    at += 2
    for number in range(count):
        (length,) = struct.unpack_from("!i", rest, at)
        at += 4
        code = codes[number] if len(codes) > 1 else (*codes, 0)[0]
        if length >= 0:
            if code == 0:
                yield rest[at : at + length].decode()
            at += length


class CatalogProxy(Proxy):
    """Passes everything on, but for the replies that it was told to lose."""

    def __init__(self, host: str, port: int) -> None:
        self.is_deaf = False
        self._armed: list[Fault] = []
        self._arming = threading.Lock()
        super().__init__(host, port)

    def connection(self, client: socket.socket, server: socket.socket) -> Connection:
        return _Connection(self, client, server)

    def arm(self, fault: Fault) -> Fault:
        """Lose a reply, once."""
        with self._arming:
            self._armed.append(fault)
        return fault

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Nothing passes in either direction, and nobody is told: connections are made and never answered."""
        self.is_deaf = True
        try:
            yield
        finally:
            self.is_deaf = False
            self.drop_connections()

    def fault_for(self, sql: str, parameters: Sequence[str]) -> Fault | None:
        """The armed fault that a statement sets off, if any; it is armed no longer."""
        with self._arming:
            found = next((fault for fault in self._armed if fault.concerns(sql, parameters)), None)
            if found is not None:
                self._armed.remove(found)
            return found

    def disarm(self) -> None:
        """Pass everything on from here."""
        with self._arming:
            self._armed.clear()
