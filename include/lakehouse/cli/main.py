"""``lakehouse``: the program. Every command works without Airflow."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from lakehouse.cli import (
    backup,
    contract,
    databases,
    decide,
    demo,
    doctor,
    dropped,
    fsck,
    history,
    land,
    maintain,
    plan,
    quality,
    query,
    replay,
    restore,
    run,
    sample,
    stack,
    travel,
    trim,
)
from lakehouse.core.errors import told_on_stderr
from lakehouse.core.process import end_with_parent

app = typer.Typer(
    help="A lakehouse on Iceberg: land, run, query. Every command says what it did, and what it left untouched.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for area in (
    stack,
    doctor,
    demo,
    sample,
    land,
    run,
    plan,
    replay,
    decide,
    trim,
    maintain,
    query,
    history,
    travel,
    dropped,
    fsck,
    quality,
    backup,
    restore,
    databases,
    contract,
):
    area.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; an error that a person is meant to read goes to stderr and sets the exit code.

    ``arguments``: those of a program that is one of the commands.
    """
    end_with_parent()
    try:
        with told_on_stderr():
            app(args=arguments, prog_name="lakehouse" if arguments else None)
    except KeyboardInterrupt:
        print("stopped; what was published stays, the rest is still pending", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
