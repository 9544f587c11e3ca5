# SPDX-License-Identifier: GPL-2.0-only
"""
The ``uvfio`` command.

Exit status: ``run`` has the program's own (128+N for signal N, 125 when uvfio
itself failed); the other verbs 0, 1 for a finding, 2 for bad usage, 3 when a budget
ended first. Whatever goes wrong is one line on stderr that says what must be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from uvfio.cli import bugs, ctl, devices, doctor, explore, run, serve, top
from uvfio.cli.usage import UsageError
from uvfio.runtime.errors import InternalError

VERBS = (run, explore, bugs, devices, ctl, top, serve, doctor)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> Parser:
    """The whole command line, also for the tests of the documentation."""
    top = Parser(
        prog="uvfio",
        description="Linux device assignment in user space: run programs on it, explore its races.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: uvfio run -d edu -- python3 examples/edu_client.py",
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_arguments(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    failed = 125 if words[:1] == ["run"] else 2
    try:
        args = parser().parse_args(words)
        status: int = args.main(args)
        return status
    except UsageError as e:
        print(f"uvfio: {e}", file=sys.stderr)
        return failed
    except InternalError as e:
        print(f"uvfio: internal error, please report it: {e}", file=sys.stderr)
        return 125
    except BrokenPipeError:
        return 141  # as a shell reports a command that SIGPIPE ended
    except KeyboardInterrupt:
        return 130
