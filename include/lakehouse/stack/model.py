"""What ``up``, ``down`` and ``status`` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["up", "down", "unreachable"]


@dataclass(frozen=True)
class ServerStatus:
    """One server. ``pid`` is 0 for a server that is not ours or doesn't run."""

    name: str
    kind: str
    state: State
    address: str
    pid: int
    detail: str


@dataclass(frozen=True)
class Login:
    """A user of Airflow. The password is for the one who starts it, and stands in no status."""

    user: str
    role: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class StackStatus:
    """The servers, and what a person should know about them."""

    home: str
    servers: tuple[ServerStatus, ...]
    notices: tuple[str, ...] = ()

    def server(self, name: str) -> ServerStatus | None:
        """The server of this name, if the stack has one."""
        return next((server for server in self.servers if server.name == name), None)

    @property
    def is_up(self) -> bool:
        """Whether every server is up."""
        return all(server.state == "up" for server in self.servers)


@dataclass(frozen=True)
class Stopped:
    """What ``down`` stopped: the servers' kinds."""

    kinds: tuple[str, ...]
