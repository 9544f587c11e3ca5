# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio top``: a machine that runs, seen live."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from uvfio.cli.usage import UsageError
from uvfio.live.running import Connection, NoMachine

EXAMPLE = "example: uvfio top -i 0.5"
CALLS_SHOWN = 12
DEVICE_COLUMNS = ("bdf", "model", "driver", "group", "vfio", "open")
KIBI = 1024


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "top",
        help="watch the devices, objects, mappings and calls of a machine that runs",
        description="Shows a machine until it ends, or Ctrl-C.",
        epilog=EXAMPLE,
    )
    sub.add_argument("-p", "--pid", type=int, help="the machine of that uvfio run, if several run")
    sub.add_argument(
        "-i", "--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (default: 1)"
    )
    sub.add_argument("-n", "--number", type=int, default=0, metavar="N", help="look N times, then end")
    sub.add_argument("--json", action="store_true", help="one JSON object a look, on a line of its own")
    sub.add_argument("-v", "--verbose", action="store_true", help="every call, not only the most frequent")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if args.interval <= 0:
        raise UsageError(f"the interval must be more than 0 seconds, not {args.interval}")
    console = Console()
    try:
        with Connection(args.pid) as machine:
            if args.json:
                for status in _looks(machine, args.interval, args.number):
                    print(json.dumps(status), flush=True)
                return 0
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                for status in _looks(machine, args.interval, args.number):
                    live.update(render(status, args.verbose), refresh=True)
    except NoMachine as e:
        if machine_ended(e):
            return 0
        raise UsageError(str(e)) from None
    return 0


def machine_ended(e: NoMachine) -> bool:
    """Did it end while we watched? That is how watching ends, and no mistake."""
    return str(e).endswith("has ended")


def _looks(machine: Connection, interval: float, number: int) -> Any:
    """What the machine says of itself, each time with the rate of each call since the last."""
    before: dict[str, int] | None = None
    at = 0.0
    done = 0
    while True:
        status = machine.ask("status")["result"]
        now = time.monotonic()
        calls = status["calls"]
        elapsed = now - at
        status["rates"] = (
            {} if before is None else {name: (n - before.get(name, 0)) / elapsed for name, n in calls.items()}
        )
        before, at = calls, now
        yield status
        done += 1
        if number and done == number:
            return
        time.sleep(interval)


def render(status: dict[str, Any], every_call: bool = False) -> Group:
    """What a person sees of one look."""
    head = Text()
    head.append(f"uvfio {status['pid']}", style="bold")
    head.append(f"  {' '.join(status['program'])}\n")
    head.append(f"{status['processes']} processes, {status['files']} files open, ")
    head.append(f"{sum(status['rates'].values()):,.0f} calls/s\n")
    return Group(head, _devices(status["devices"]), _spaces(status["address_spaces"]), _calls(status, every_call))


def _devices(devices: list[dict[str, Any]]) -> Table:
    table = Table(*(name.upper() for name in DEVICE_COLUMNS), box=None, pad_edge=False, header_style="bold")
    for device in devices:
        cells = ["-" if device[key] is None else str(device[key]) for key in DEVICE_COLUMNS]
        table.add_row(*cells, style="green" if device["open"] else "")
    return table


def _spaces(spaces: list[dict[str, Any]]) -> Table:
    table = Table("ADDRESS SPACE", "OBJECTS", "MAPPINGS", "SIZE", box=None, pad_edge=False, header_style="bold")
    for space in spaces:
        objects = ", ".join(f"{n} {kind}" for kind, n in sorted(space["objects"].items())) or "-"
        table.add_row(space["name"], objects, f"{space['mappings']:,}", size(space["bytes"]))
    return table


def _calls(status: dict[str, Any], every_call: bool) -> Table:
    table = Table("CALL", "PER SECOND", "IN ALL", box=None, pad_edge=False, header_style="bold")
    rates, calls = status["rates"], status["calls"]
    busiest = sorted(calls, key=lambda name: (-rates.get(name, 0), -calls[name], name))
    for name in busiest if every_call else busiest[:CALLS_SHOWN]:
        table.add_row(name, f"{rates.get(name, 0):,.0f}", f"{calls[name]:,}")
    return table


def size(n: int | None) -> str:
    """
    Bytes as a person says them.

    >>> size(3 << 20)
    '3 MiB'
    """
    if n is None:
        return "(many)"
    unit = 0
    while n >= KIBI and unit < 4 and not n % KIBI:
        n //= KIBI
        unit += 1
    return f"{n:,} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"
