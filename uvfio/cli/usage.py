# SPDX-License-Identifier: GPL-2.0-only
"""What the verbs share: how bad input is reported, and ``-d`` and ``-m``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from uvfio.machine import DEFAULT_DRIVER, PLATFORMS, Plugged

T = TypeVar("T")

_BDF = re.compile(r"(0000:[0-9a-f]{2}:)?[01][0-9a-f]\.[0-7]")


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


def parse_device(text: str) -> Plugged:
    """
    ``MODEL[@BDF][,key=value...]``; ``driver=`` names who drives it, ``id=`` names a bridge
    and ``bus=`` the one that it is behind; the rest is the model's own.

    >>> parse_device("edu@0000:00:05.0,driver=none").driver
    'none'
    """
    head, *settings = text.split(",")
    model, at, bdf = head.partition("@")
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise UsageError(f"-d {text}: an option must be key=value, not {setting!r}")
        options[key] = value
    return _plugged(f"-d {text}", model, bdf if at else None, options)


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
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
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
    if iommu is not None and iommu not in PLATFORMS:
        raise UsageError(f"the iommu must be one of {', '.join(sorted(PLATFORMS))}, not {iommu!r}: {path}")
    return MachineFile([_from_entry(path, n, entry) for n, entry in enumerate(content["devices"], 1)], iommu)


def _from_entry(path: str, n: int, entry: Any) -> Plugged:
    where = f"{path}: device {n}"
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        raise UsageError(f"{where}: must have a model")
    options = dict(entry)
    model, bdf = options.pop("model"), options.pop("at", None)
    return _plugged(where, model, bdf, options)


def _plugged(where: str, model: str, bdf: Any, options: dict[str, Any]) -> Plugged:
    if bdf is not None and (not isinstance(bdf, str) or not _BDF.fullmatch(bdf)):
        raise UsageError(f"{where}: the address must look like 0000:00:01.0, or 01.0, not {bdf!r}")
    driver = options.pop("driver", DEFAULT_DRIVER)
    bus, name = (options.pop(key, None) for key in ("bus", "id"))
    return Plugged(model, bdf, str(driver), options, bus, name)
