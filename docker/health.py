"""Health checks of docker-compose.yaml. Nothing but the standard library: one runs in each container every few seconds.

health.py url URL               the URL answers with success
health.py port HOST PORT        something accepts connections there
health.py airflow URL COMPONENT Airflow's API server at URL says that the component has been heard of lately
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request

_SECONDS = 8.0


def read(url: str) -> bytes:
    """What the URL answers; raises OSError when it does not, or not with success."""
    if not url.startswith("http://"):
        raise OSError(f"{url} is no http:// address")
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - the scheme was looked at
        return bytes(answer.read())


def problem(arguments: list[str]) -> str:
    """Why the container is not healthy, in one line; empty when it is."""
    try:
        match arguments:
            case ["url", url]:
                read(url)
                return ""
            case ["port", host, port]:
                socket.create_connection((host, int(port)), _SECONDS).close()
                return ""
            case ["airflow", url, component]:
                status = json.loads(read(f"{url}/api/v2/monitor/health")).get(component, {}).get("status")
                return "" if status == "healthy" else f"Airflow says that its {component} is {status or 'not there'}"
            case _:
                return __doc__ or "wrong arguments"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    said = problem(sys.argv[1:])
    print(said or "healthy")
    sys.exit(1 if said else 0)
