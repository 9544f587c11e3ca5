# SPDX-License-Identifier: GPL-2.0-only
"""What a machine has at this moment, as data: for ``uvfio ctl list`` and ``uvfio top``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from uvfio.linux.base.pci import PciDev, pci_host
from uvfio.linux.iommufd.main import IommufdFileOperations
from uvfio.linux.iommufd.private import IommufdCtx, IommufdIoas
from uvfio.linux.kernel.fs import File
from uvfio.linux.vfio.container import VfioContainerFops
from uvfio.linux.vfio.private import VfioContainer
from uvfio.live.client import LiveThread
from uvfio.live.trace import requests_of

MANY = 100_000  # mappings


def devices() -> list[dict[str, Any]]:
    """One object for each PCI function: bdf, model, driver, group, vfio, open."""
    return [_device(dev) for _bdf, dev in sorted(pci_host().found.items())]


def _device(dev: PciDev) -> dict[str, Any]:
    device = getattr(dev.driver_data, "vdev", None)
    return {
        "bdf": dev.bdf,
        "model": dev.model.name,
        "driver": dev.driver.name if dev.driver is not None else None,
        "group": dev.iommu_group.id if dev.iommu_group is not None else None,
        "vfio": device.device.name if device is not None else None,
        "open": device.open_count if device is not None else 0,
    }


def address_spaces(files: Iterable[File]) -> list[dict[str, Any]]:
    """One object for each iommufd and container that is open: name, objects by type, mappings, bytes."""
    found = []
    for file in files:
        if isinstance(file.f_op, IommufdFileOperations):
            found.append(_iommufd(file.private_data))
        elif isinstance(file.f_op, VfioContainerFops):
            found.append(_container(file.private_data))
    return found


def _iommufd(ictx: IommufdCtx) -> dict[str, Any]:
    objects = [obj for _id, obj in ictx.objects.items()]
    areas = [area for obj in objects if isinstance(obj, IommufdIoas) for area in obj.iopt.area_itree]
    return {
        "name": "iommufd",
        "objects": dict(Counter(obj.type for obj in objects)),
        "mappings": len(areas),
        "bytes": _bytes(areas),
    }


def _container(container: VfioContainer) -> dict[str, Any]:
    data = container.iommu_data
    dmas = list(data.dma_list) if data is not None else []
    return {
        "name": "container",
        "objects": {"group": len(container.group_list)},
        "mappings": len(dmas),
        "bytes": _bytes(dmas),
    }


def _bytes(ranges: Sequence[Any]) -> int | None:
    """How much is mapped; None when adding it up would hold the clients up."""
    return sum(each.last - each.start + 1 for each in ranges) if len(ranges) <= MANY else None


class Trace(Protocol):
    """Hears of every call that we answered (``uvfio run --trace``)."""

    def call(self, thread: LiveThread, name: str, args: tuple[int, ...], file: File | None, result: int | None) -> None:
        """
        *result* is negative for an errno, None when the host goes on with the call.
        Called before the client goes on.
        """


class CallCounter:
    """Counts calls by name, for those who ask how many a second there are."""

    def __init__(self, tracer: Trace | None) -> None:
        self.tracer = tracer  # who else wants to hear of them
        self.counts: Counter[str] = Counter()

    def call(self, thread: LiveThread, name: str, args: tuple[int, ...], file: File | None, result: int | None) -> None:
        if self.tracer is not None:
            self.tracer.call(thread, name, args, file, result)
        if name == "ioctl" and file is not None:
            request = args[1] & 0xFFFFFFFF
            name, _struct = requests_of(file).get(request, (f"ioctl {request:#x}", None))
        self.counts[name] += 1
