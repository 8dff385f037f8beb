"""The local stack: PostgreSQL and an S3 server on loopback, and what a machine needs to run the lakehouse."""

from lakehouse.stack.local import down, status, up
from lakehouse.stack.model import ServerStatus, StackStatus, Stopped

__all__ = ["ServerStatus", "StackStatus", "Stopped", "down", "status", "up"]
