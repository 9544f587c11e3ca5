# SPDX-License-Identifier: GPL-2.0-only
"""
The device models there are, and what they say of themselves.

Besides those of the package, a model is a class in a file of the user's own:
``path/to/checksum.py``, or ``path/to/devices.py:Checksum`` if there are several.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from uvfio.devices.bridges import PciePciBridge, PcieRootPort, X3130Upstream, Xio3130Downstream
from uvfio.devices.e1000e import E1000e
from uvfio.devices.edu import Edu
from uvfio.devices.ioat import Ioat
from uvfio.devices.kit import PciDevice
from uvfio.devices.mdev import MdevModel
from uvfio.devices.mdpy import Mdpy
from uvfio.devices.mtty import Mtty
from uvfio.devices.nvme_sriov import NvmePrimary
from uvfio.devices.pci_testdev import PciTestdev
from uvfio.devices.vfio_ap import VfioAp

M = TypeVar("M", PciDevice, MdevModel)

DEVICES = (Edu, PciTestdev, E1000e, NvmePrimary, Ioat)
BRIDGES = (PcieRootPort, PciePciBridge, X3130Upstream, Xio3130Downstream)
MODELS: Mapping[str, type[PciDevice]] = MappingProxyType({model.name: model for model in (*DEVICES, *BRIDGES)})
# Not PCI functions: what they are divided into are the devices.
PARENTS: Mapping[str, type[MdevModel]] = MappingProxyType({model.name: model for model in (Mtty, Mdpy, VfioAp)})


def lookup(name: str) -> type[PciDevice]:
    """The model called *name*, or in that file. ValueError if there is none."""
    path, _colon, wanted = name.partition(":")
    if path.endswith(".py"):
        return _load(path, wanted)
    if name not in MODELS:
        known = ", ".join(sorted([*MODELS, *PARENTS]))
        raise ValueError(f"the model must be one of {known}, or FILE.py, not {name!r}")
    return MODELS[name]


def make(name: str, **options: Any) -> PciDevice:
    """A new device. ValueError for a model or an option that does not exist."""
    model, how = lookup(name), options.pop("mmap", "trap")
    if how not in ("trap", "poll") or (how == "poll" and not model.pollable):
        raise ValueError(f"mmap of {name} must be trap{' or poll' if model.pollable else ''}, not {how!r}")
    device = _make(model, name, options)
    device.mmap = how
    return device


def make_parent(name: str, **options: Any) -> MdevModel:
    """A new parent of mediated devices, one of ``PARENTS``. ValueError for an option that does not exist."""
    return _make(PARENTS[name], name, options)


def _make(model: type[M], name: str, options: dict[str, Any]) -> M:
    unknown = sorted(set(options) - set(model.options))
    if unknown:
        raise ValueError(f"the model {name} must not be given {', '.join(unknown)}")
    return model(**options)


def _load(path: str, wanted: str) -> type[PciDevice]:
    try:
        names = runpy.run_path(path, run_name=path)
    except OSError as e:
        raise ValueError(f"the device file must be readable: {path}: {e.strerror}") from None
    except Exception as e:
        raise ValueError(f"the device file {path} must run, but it raised {type(e).__name__}: {e}") from e
    models = {
        key: value
        for key, value in names.items()
        if isinstance(value, type) and issubclass(value, PciDevice) and value.__module__ == path
    }
    if wanted in models:
        return models[wanted]
    if wanted or len(models) != 1:
        found = ", ".join(sorted(models)) or "none"
        raise ValueError(f"the device file must name one class, {path}:CLASS; it has {found}")
    return next(iter(models.values()))


def summary(model: type[PciDevice] | type[MdevModel]) -> str:
    """The first line of its docstring."""
    return (model.__doc__ or "").strip().partition("\n")[0]


def describe(model: type[PciDevice]) -> str:
    """Everything about *model* that its class says: identity, BARs, interrupts, registers."""
    lines = [f"{model.name}: {summary(model)}", ""]
    lines.append(f"  id          {model.vendor:04x}:{model.device:04x} (rev {model.revision:02x})")
    lines.append(f"  class       {model.class_code:06x}")
    for index, bar in sorted(model.BARS.items()):
        kind = "RAM" if bar.ram else "I/O ports" if bar.kind == "io" else f"registers, {bar.kind}"
        table = f"; MSI-X table at {model.msix.table:#x}" if model.msix is not None and model.msix.bar == index else ""
        lines.append(f"  BAR {index}       {_size(bar.size)} ({kind}{table})")
    lines.append(f"  interrupts  {_interrupts(model)}")
    lines.append(f"  reset       {'yes' if model.has_reset else 'no'}")
    options = [*model.options, *(["mmap=trap|poll"] if model.pollable else [])]
    lines.append(f"  options     {', '.join(options) or 'none'}")
    if model.registers:
        lines += ["", f"  BAR  offset   size  access  {'reset':18}  register"]
    for (index, offset), register in sorted(model.registers.items()):
        reset = f"{register.reset:#0{2 + 2 * register.size}x}"
        lines.append(
            f"  {index:<3}  {offset:#07x}  {register.size:<4}  {register.access:<6}  {reset:18}"
            f"  {register.name.lower()}{': ' + register.doc if register.doc else ''}"
        )
        for name, bit in register.bits.items():
            lines.append(f"{'':51}bit {bit} {name}")
    if model.further:
        lines += ["", *(f"  {line}" for line in model.further)]
    return "\n".join(lines) + "\n"


def describe_parent(model: type[MdevModel]) -> str:
    """What a parent of mediated devices can be asked for, and where."""
    lines = [f"{model.name}: {summary(model)}", "", f"  parent      /sys/class/mdev_bus/{model.name}"]
    for mtype in model().make_types():
        lines.append(f"  type        {model.name}-{mtype.sysfs_name} ({mtype.pretty_name})")
    return "\n".join(lines)


def _interrupts(model: type[PciDevice]) -> str:
    kinds = ["INTx"] * model.intx
    if model.msi_vectors:
        kinds.append(f"MSI ({model.msi_vectors})")
    if model.msix is not None:
        kinds.append(f"MSI-X ({model.msix.vectors})")
    return ", ".join(kinds) or "none"


def _size(n: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if n >= 1 << shift:
            return f"{n >> shift} {unit}"
    return f"{n} bytes"
