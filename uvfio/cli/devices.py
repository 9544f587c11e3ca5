# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio devices``: which models there are, and what their registers are."""

from __future__ import annotations

import argparse
import json
from typing import Any

from uvfio.cli.usage import UsageError
from uvfio.devices.kit import PciDevice
from uvfio.devices.mdev import MdevModel
from uvfio.devices.registry import MODELS, PARENTS, describe, describe_parent, lookup, summary

EXAMPLE = "example: uvfio devices show edu"


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser("devices", help="list the device models, or show one", epilog=EXAMPLE)
    sub.add_argument("what", nargs="?", choices=("list", "show"), default="list")
    sub.add_argument("model", nargs="?", help="with show: the model")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument("-v", "--verbose", action="store_true", help="with list: the whole description")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if args.what == "show":
        if args.model in PARENTS:
            print(json.dumps(_of_parent(PARENTS[args.model])) if args.json else describe_parent(PARENTS[args.model]))
            return 0
        try:
            model = lookup(args.model or "")
        except ValueError as e:
            raise UsageError(str(e)) from None
        print(json.dumps(as_data(model), indent=2) if args.json else describe(model), end="\n" if args.json else "")
        return 0
    parents = [PARENTS[name] for name in sorted(PARENTS)]
    models = [MODELS[name] for name in sorted(MODELS)]
    if args.json:
        print(json.dumps([*map(as_data, models), *map(_of_parent, parents)], indent=2))
        return 0
    width = max(map(len, (*MODELS, *PARENTS)))
    for model in models:
        print(f"{model.name:{width}}  {model.vendor:04x}:{model.device:04x}  {summary(model)}")
        if args.verbose:
            print("".join(f"  {line}\n" for line in describe(model).splitlines()[2:]))
    for parent in parents:
        print(f"{parent.name:{width}}  mdev       {summary(parent)}")
    return 0


def _of_parent(model: type[MdevModel]) -> dict[str, Any]:
    types = {mtype.sysfs_name: mtype.pretty_name for mtype in model().make_types()}
    return {"model": model.name, "summary": summary(model), "types": types}


def as_data(model: type[PciDevice]) -> dict[str, Any]:
    """What ``--json`` prints of a model."""
    return {
        "model": model.name,
        "summary": summary(model),
        "vendor": f"{model.vendor:04x}",
        "device": f"{model.device:04x}",
        "revision": model.revision,
        "class": f"{model.class_code:06x}",
        "bars": [
            {"index": index, "kind": bar.kind, "size": bar.size, "ram": bar.ram}
            for index, bar in sorted(model.BARS.items())
        ],
        "options": [*model.options, *(["mmap"] if model.pollable else [])],
        "registers": [
            {
                "bar": index,
                "offset": offset,
                "size": register.size,
                "access": register.access,
                "reset": register.reset,
                "name": register.name.lower(),
                "doc": register.doc,
                "bits": dict(register.bits),
            }
            for (index, offset), register in sorted(model.registers.items())
        ],
    }
