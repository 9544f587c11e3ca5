# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio serve``: devices over the vfio-user protocol, for VMMs that speak it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from uvfio.cli.usage import UsageError
from uvfio.machine import PLATFORMS, Machine
from uvfio.serve.server import CannotServe, Service, serve
from uvfio.topology import parse_device

EXAMPLE = "example: uvfio serve --socket /tmp/edu.sock -d edu"


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "serve",
        help="offer devices over the vfio-user protocol",
        description=(
            "Offer each device at a socket, the first at the first and so on, until Ctrl-C. QEMU 10.1 or later: "
            '-device \'{"driver":"vfio-user-pci","socket":{"type":"unix","path":"PATH"}}\', with shared memory.'
        ),
        epilog=EXAMPLE,
    )
    sub.add_argument("--socket", action="append", default=[], metavar="PATH", help="may be repeated")
    sub.add_argument(
        "-d", "--device", action="append", default=[], metavar="MODEL[@BDF][,key=value...]", help="as with run"
    )
    sub.add_argument("--iommu", choices=sorted(PLATFORMS), default="vtd", help="as with run (default: vtd)")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument("-v", "--verbose", action="store_true", help="say at which address of the machine a device is")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if not args.socket or len(args.socket) != len(args.device):
        given = f"{len(args.socket)} and {len(args.device)}"
        raise UsageError(f"there must be a --socket for each -d, and at least one, not {given}")
    machine = Machine(iommu=args.iommu)
    try:
        machine.boot()
        devices = [parse_device(text) for text in args.device]
        sockets = {machine.plug(device): path for device, path in zip(devices, args.socket, strict=True)}
        models = dict(zip(sockets, (device.model for device in devices), strict=True))
        serve(machine, sockets, lambda service: _say(service, models[service.bdf], args))
    except (ValueError, CannotServe) as e:
        raise UsageError(str(e)) from None
    return 0


def _say(service: Service, model: str, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps({"model": model, "socket": service.path, "bdf": service.bdf}), flush=True)
    else:
        print(f"{model} at {service.path}" + f" ({service.bdf})" * args.verbose, flush=True)
