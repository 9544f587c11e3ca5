# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio ctl``: what happens to a machine while its program runs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from uvfio.cli.usage import UsageError
from uvfio.live.running import Connection, NoMachine, running

EXAMPLE = "example: uvfio ctl unplug 0000:00:01.0"
COLUMNS = ("bdf", "model", "driver", "group", "vfio", "open")
NEEDS = {"list": 0, "machines": 0, "plug": 1, "unplug": 1, "reset": 1, "iotlb": 1, "fault": 2}
IOTLB_COLUMNS = ("tag", "page", "to", "writable")


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "ctl",
        help="plug, unplug, reset, look into or break a device of a machine that runs",
        description=(
            "list: the devices. plug MODEL[@BDF][,key=value...]: as with run -d. unplug BDF: waits until its users "
            "have let go. reset BDF: as echo 1 > reset. iotlb BDF: what is cached of a guest's tables. "
            "fault BDF dma [COUNT]: its next accesses to memory are "
            "blocked. fault BDF error: the bus reports an error that cannot be corrected. machines: those that run."
        ),
        epilog=EXAMPLE,
    )
    sub.add_argument("what", choices=tuple(NEEDS))
    sub.add_argument("argument", nargs="*")
    sub.add_argument("-p", "--pid", type=int, help="the machine of that uvfio run, if several run")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument("-v", "--verbose", action="store_true", help="say what was done")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if len(args.argument) < NEEDS[args.what]:
        raise UsageError(f"{args.what} must be given {NEEDS[args.what]} argument(s), not {len(args.argument)}")
    try:
        if args.what == "machines":
            pids = running()
            print(json.dumps(pids) if args.json else "\n".join(map(str, pids)), end="\n" if pids or args.json else "")
            return 0
        with Connection(args.pid) as machine:
            answer = machine.ask(args.what, *args.argument)
    except NoMachine as e:
        raise UsageError(str(e)) from None
    if args.json:
        print(json.dumps(answer))
    elif not answer["ok"]:
        raise UsageError(answer["error"])
    elif args.what == "list":
        print(table(answer["result"]))
    elif args.what == "iotlb":
        print(iotlb_table(answer["result"]))
    elif args.what == "plug" or args.verbose:
        print(answer["result"])
    return 0 if answer["ok"] else 1


def table(devices: list[dict[str, Any]]) -> str:
    """The devices in columns; what a device has not is a dash."""
    return _columns([COLUMNS, *([_cell(device[key]) for key in COLUMNS] for device in devices)])


def iotlb_table(lines: list[dict[str, Any]]) -> str:
    """Addresses in hex; the tag is a PASID or an ASID."""
    cells = ([str(x["tag"]), hex(x["page"]), hex(x["to"]), "yes" if x["writable"] else "no"] for x in lines)
    return _columns([IOTLB_COLUMNS, *cells])


def _columns(rows: list[Any]) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
