# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio run``: an unmodified program, served by the stack."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from uvfio.cli.usage import MachineFile, UsageError, load_machine_file
from uvfio.live import supervisor
from uvfio.live.spawn import CannotRun
from uvfio.live.trace import Tracer
from uvfio.machine import PLATFORMS, Machine
from uvfio.topology import parse_device

EXAMPLE = "example: uvfio run -d edu -- python3 examples/edu_client.py"


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "run",
        help="run a program that uses VFIO or iommufd",
        description="Run PROGRAM: it finds the devices below, in sysfs and /dev, and the whole of VFIO and iommufd.",
        epilog=EXAMPLE,
    )
    sub.add_argument(
        "-d",
        "--device",
        action="append",
        default=[],
        metavar="MODEL[@BDF][,key=value...]",
        help="plug a device in, bound to vfio-pci (driver=none: unbound); may be repeated",
    )
    sub.add_argument("-m", "--machine", metavar="FILE", help="take the devices from a machine file (YAML)")
    names = ", ".join(sorted(PLATFORMS))
    sub.add_argument(
        "--iommu",
        metavar="NAME[,key=value...]",
        help=f"what the machine has for an IOMMU: {names} (default: vtd); options: docs/nested-translation.md",
    )
    sub.add_argument("--iommufd-test", action="store_true", help="build the kernel with CONFIG_IOMMUFD_TEST")
    sub.add_argument("--trace", metavar="FILE", help="write every call served, decoded (- is stderr)")
    sub.add_argument("--json", action="store_true", help="with --trace: one JSON object a line")
    sub.add_argument("-v", "--verbose", action="store_true", help="show the modelled kernel's log on stderr")
    sub.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM [ARG...]")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    argv = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not argv:
        raise UsageError("there must be a program to run, after --")
    file = load_machine_file(args.machine) if args.machine else MachineFile([])
    try:
        machine = Machine(iommu=args.iommu or file.iommu or "vtd", iommufd_test=args.iommufd_test)
        devices = file.devices + [parse_device(text) for text in args.device]
        machine.boot(devices)
        with _trace_file(args.trace) as out:
            return supervisor.run(argv, machine, Tracer(out, args.json) if out is not None else None, args.verbose)
    except (ValueError, CannotRun) as e:
        raise UsageError(str(e)) from None


@contextmanager
def _trace_file(path: str | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
    elif path == "-":
        yield sys.stderr
    else:
        try:
            out = open(path, "w", encoding="utf-8")
        except OSError as e:
            raise UsageError(f"the trace file must be writable: {path}: {e.strerror}") from None
        with out:
            yield out
