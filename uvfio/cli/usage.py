# SPDX-License-Identifier: GPL-2.0-only
"""What the verbs share: how bad input is reported, and machine files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from uvfio.machine import Plugged, parse_iommu
from uvfio.topology import plugged

T = TypeVar("T")


class UsageError(Exception):
    """The user asked for something that cannot be; the message says what must be."""


def one_of_many(kind: str, name: str, known: Mapping[str, T], lister: str) -> T:
    """The *kind* of thing called *name*. UsageError: too many to name here, but *lister* does."""
    if name in known:
        return known[name]
    alike = get_close_matches(name, known, n=1)
    hint = f"; did you mean {alike[0]}?" if alike else ""
    raise UsageError(f"the {kind} must be one that '{lister}' lists, not {name!r}{hint}")


@dataclass(frozen=True)
class MachineFile:
    """What a machine file says; *iommu* only if it does."""

    devices: list[Plugged]
    iommu: str | None = None


def load_machine_file(path: str) -> MachineFile:
    """
    A machine file: which IOMMU (may be left out), and the devices, in order::

        iommu: smmuv3
        devices:
          - model: edu
            at: 0000:00:01.0
            driver: vfio-pci
    """
    try:
        # Everything is text: in YAML 01.0 would be a number, 0000:00:01.0 a time, and off false.
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not text"
        raise UsageError(f"the machine file must be readable: {path}: {reason}") from None
    except yaml.YAMLError as e:
        raise UsageError(f"the machine file must be YAML: {path}: {' '.join(str(e).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("devices"), list):
        raise UsageError(f"the machine file must have devices, a list: {path}")
    if not set(content) <= {"devices", "iommu"}:
        raise UsageError(f"the machine file must have devices and at most iommu beside them: {path}")
    iommu = content.get("iommu")
    if iommu is not None:
        try:
            parse_iommu(str(iommu))
        except ValueError as e:
            raise UsageError(f"{e}: {path}") from None
    devices = [_from_entry(path, n, entry) for n, entry in enumerate(content["devices"], 1)]
    return MachineFile(devices, None if iommu is None else str(iommu))


def _from_entry(path: str, n: int, entry: Any) -> Plugged:
    where = f"{path}: device {n}"
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        raise UsageError(f"{where}: must have a model")
    options = dict(entry)
    model, address = options.pop("model"), options.pop("at", None)
    try:
        return plugged(where, model, address, options)
    except ValueError as e:
        raise UsageError(str(e)) from None
