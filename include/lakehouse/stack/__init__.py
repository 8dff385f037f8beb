"""The local stack: PostgreSQL and an S3 server on loopback, and what a machine needs to run the lakehouse."""

from lakehouse.stack.local import down, logins, status, up
from lakehouse.stack.model import Login, ServerStatus, StackStatus, Stopped

__all__ = ["Login", "ServerStatus", "StackStatus", "Stopped", "down", "logins", "status", "up"]
