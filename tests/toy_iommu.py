# SPDX-License-Identifier: GPL-2.0-only
"""
An IOMMU whose driver takes everything that iommufd can ask of one, for tests.

A guest (or whoever tests) has hardware that does things at a button: an entry of
IOMMU_HWPT_INVALIDATE. On a nested page table it is a page request of the device that the
page table was made with, on a vIOMMU an event.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EEXIST, EINVAL, EIO, ENOMEM, EOPNOTSUPP
from typing import Any

from vfio_user import VfioUser
from viommu_user import Vmm

from uvfio.linux.base.pci import pci_host
from uvfio.linux.iommu import io_pgfault
from uvfio.linux.iommu.iommufd import (
    IommufdHwQueue,
    IommufdMmapMemory,
    IommufdViommu,
    IommuUserData,
    IommuUserDataArray,
    iommu_copy_struct_from_full_user_array,
    iommu_copy_struct_from_user,
    iommu_copy_struct_to_user,
    iommufd_hw_queue_depend,
    iommufd_hw_queue_undepend,
    iommufd_viommu_alloc_mmap,
    iommufd_viommu_destroy_mmap,
    iommufd_viommu_report_event,
)
from uvfio.linux.iommu.private import IOMMU_DOMAIN_NESTED, IOMMU_DOMAIN_UNMANAGED, IommuDomain, IommuOps
from uvfio.linux.iommu.vtd import PGSIZE_BITMAP, IntelIommuOps, intel_iommu
from uvfio.machine import Machine, Plugged
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi import iommufd as uapi
from uvfio.uapi.cstruct import cstruct
from uvfio.uapi.vfio import VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_DETACH_IOMMUFD_PT

TOY = 0xF00D  # the type of all data, events and queues
PAGE_SIZE = 4096
MAX_PASIDS = 1 << 20

toy_nested = cstruct("toy_nested", size=4, fields="u32 cookie")
toy_page_request = cstruct(
    "toy_page_request",
    size=32,
    fields="""
    u32 pasid
    u32 grpid
    u32 perm
    u32 last
    u64 addr
    u64 times
""",
)
toy_event = cstruct("toy_event", size=8, fields="u32 value\nu32 length")
toy_viommu = cstruct("toy_viommu", size=16, fields="u64 offset\nu32 value\nu32 length")


class ToyOps(IntelIommuOps):
    """The driver. *responses* are what it would have told the hardware."""

    user_pasid_table = True

    def __init__(self) -> None:
        super().__init__()
        self.queue = io_pgfault.IopfQueue("toy")
        self.responses: list[tuple[int, int, int]] = []  # pasid, grpid, code
        self.pasids: dict[tuple[str, int], IommuDomain] = {}
        self.iopf_users = 0
        self.refuse_pasid = -1  # that set_dev_pasid() fails for
        self.max_pasids = MAX_PASIDS

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        if user_data is not None:
            iommu_copy_struct_from_user(toy_nested, user_data, TOY, 4)
        return IommuDomain(self, IOMMU_DOMAIN_UNMANAGED, PGSIZE_BITMAP, (1 << 39) - 1)

    def domain_alloc_nested(self, dev: Any, parent: IommuDomain, flags: int, user_data: Any) -> IommuDomain:
        arg = iommu_copy_struct_from_user(toy_nested, user_data, TOY, 4)
        return ToyNested(self, dev, arg.cookie)

    def domain_free(self, domain: IommuDomain) -> None:
        return

    def set_dev_pasid(self, domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
        if pasid == self.refuse_pasid:
            raise Errno(ENOMEM)
        self.iopf_for_domain_replace(dev, domain, old)
        self.pasids[dev.name, pasid] = domain

    def remove_dev_pasid(self, dev: Any, pasid: int, old: IommuDomain) -> None:
        self.iopf_for_domain_replace(dev, None, old)
        del self.pasids[dev.name, pasid]

    def iopf_for_domain_replace(self, dev: Any, new: IommuDomain | None, old: IommuDomain | None) -> None:
        if new is not None and new.iopf_handler is not None:
            if not self.iopf_users:
                io_pgfault.iopf_queue_add_device(self.queue, dev)
            self.iopf_users += 1
        if old is not None and old.iopf_handler is not None:
            self.iopf_users -= 1
            if not self.iopf_users:
                io_pgfault.iopf_queue_remove_device(self.queue, dev)

    def page_response(self, dev: Any, fault: Any, response: Any) -> None:
        self.responses.append((response.pasid, response.grpid, response.code))

    def get_viommu_struct(self, dev: Any, kind: int) -> type[Any]:
        if kind != TOY:
            raise Errno(EOPNOTSUPP)
        return ToyViommu

    def viommu_init(self, viommu: Any, parent: IommuDomain | None, user_data: IommuUserData | None) -> None:
        if user_data is None:
            return
        data = iommu_copy_struct_from_user(toy_viommu, user_data, TOY, toy_viommu.size_of)
        viommu.memory = IommufdMmapMemory(2 * PAGE_SIZE)
        viommu.memory.data[:4] = data.value.to_bytes(4, "little")
        data.length = 2 * PAGE_SIZE
        data.offset = viommu.mmap_offset = iommufd_viommu_alloc_mmap(viommu, viommu.memory, data.length)
        iommu_copy_struct_to_user(user_data, data, TOY, toy_viommu.size_of)


class NoPasidOps(ToyOps):
    """A driver without PASIDs."""

    set_dev_pasid = IommuOps.set_dev_pasid


class ToyNested(IommuDomain):
    """A nested domain that remembers its device."""

    def __init__(self, ops: ToyOps, dev: Any, cookie: int) -> None:
        super().__init__(ops, IOMMU_DOMAIN_NESTED)
        self.dev = dev
        self.cookie = cookie

    def cache_invalidate_user(self, array: IommuUserDataArray) -> None:
        for each in iommu_copy_struct_from_full_user_array(toy_page_request, array, TOY):
            page_request(self.dev, each)
            array.entry_done += 1


def page_request(dev: Any, request: Any) -> None:
    """The device asks for a page; Errno EINVAL when nobody resolves that."""
    flags = 1 if request.pasid else 0
    for at in range(request.times or 1):
        last = request.last if at == (request.times or 1) - 1 else 0
        fault = io_pgfault.IopfFault(
            flags | (2 if last else 0), request.pasid, request.grpid, request.perm, request.addr + at * PAGE_SIZE
        )
        io_pgfault.iommu_report_device_fault(dev, fault)


@kstruct()
class ToyHwQueue(IommufdHwQueue):
    """Two of them; the second needs the first."""

    index = -1
    base_pa = 0

    def destroy(self) -> None:
        self.viommu.hw_queues[self.index] = None
        if self.index:
            iommufd_hw_queue_undepend(self, self.viommu.hw_queues[self.index - 1])


@kstruct()
class ToyViommu(IommufdViommu):
    """Its guest gets events, queues, and a memory that it may map."""

    mmap_offset = 0
    memory: IommufdMmapMemory

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.hw_queues: list[ToyHwQueue | None] = [None, None]

    def destroy(self) -> None:
        if self.mmap_offset:
            iommufd_viommu_destroy_mmap(self, self.mmap_offset)

    def alloc_domain_nested(self, flags: int, user_data: IommuUserData) -> IommuDomain:
        arg = iommu_copy_struct_from_user(toy_nested, user_data, TOY, 4)
        return ToyNested(self.iommu_dev.ops, None, arg.cookie)  # type: ignore[arg-type]

    def cache_invalidate(self, array: IommuUserDataArray) -> None:
        for each in iommu_copy_struct_from_full_user_array(toy_event, array, TOY):
            if each.length:
                iommufd_viommu_report_event(self, TOY, each.value.to_bytes(each.length, "little"))
            else:  # what the model sees in the memory that is mapped
                self.memory.data[8:12] = bytes(self.memory.data[4:8])
            array.entry_done += 1

    def get_hw_queue_struct(self, kind: int) -> Callable[[], IommufdHwQueue]:
        if kind != TOY:
            raise Errno(EOPNOTSUPP)
        return ToyHwQueue

    def hw_queue_init_phys(self, hw_queue: Any, index: int, base_addr_pa: int) -> None:
        if index >= len(self.hw_queues):
            raise Errno(EINVAL)
        if self.hw_queues[index] is not None:
            raise Errno(EEXIST)
        if index:
            below = self.hw_queues[index - 1]
            if below is None:
                raise Errno(EIO)
            iommufd_hw_queue_depend(hw_queue, below)
        hw_queue.index = index
        hw_queue.base_pa = base_addr_pa
        self.hw_queues[index] = hw_queue


def machine_with_toy_iommu(
    devices: int = 1, model: str = "edu", driver: type[ToyOps] = ToyOps, **settings: Any
) -> tuple[Machine, ToyOps]:
    """A booted machine with devices behind the toy IOMMU."""
    machine = Machine()
    ops = driver()
    vars(ops).update(settings)

    def install() -> None:
        intel_iommu().iommu.ops = ops

    def set_max_pasids() -> None:
        for pdev in pci_host().found.values():
            pdev.iommu.max_pasids = ops.max_pasids

    machine.run(install)
    machine.boot([Plugged(model)] * devices)
    machine.run(set_max_pasids)
    return machine, ops


class ToyVmm(Vmm):
    """A VMM of that machine: every device is bound."""

    def __init__(self, ops: ToyOps, devices: int = 1) -> None:
        VfioUser.__init__(self)
        self.ops = ops
        self.iommufd = self.open("/dev/iommu")
        self.devices = [self.open(f"/dev/vfio/devices/vfio{n}") for n in range(devices)]
        self.ids = [self.bind(device, self.iommufd) for device in self.devices]
        self.dev = self.ids[0]
        self.ioas = self.ioas_alloc(self.iommufd)

    def toy_nested(self, pt_id: int, **more: int) -> int:
        return self.hwpt(self.dev, pt_id, data=toy_nested(cookie=7).pack(), data_type=TOY, **more)

    def fault_queue(self, flags: int = 0) -> tuple[int, int]:
        """(id, fd)."""
        answer = self.ask(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommu_fault_alloc(flags=flags))
        return answer.out_fault_id, answer.out_fault_fd

    def veventq(self, viommu_id: int, kind: int = TOY, depth: int = 2, **more: int) -> tuple[int, int]:
        """(id, fd)."""
        cmd = uapi.iommu_veventq_alloc(viommu_id=viommu_id, type=kind, veventq_depth=depth, **more)
        answer = self.ask(uapi.IOMMU_VEVENTQ_ALLOC, cmd)
        return answer.out_veventq_id, answer.out_veventq_fd

    def event(self, viommu_id: int, value: int, length: int = 4) -> None:
        self.invalidate(viommu_id, toy_event(value=value, length=length).pack(), 8, TOY)

    def page_request(self, nested_id: int, **request: int) -> None:
        request = {"grpid": 2, "perm": 3, "addr": 0xDEAD000, "last": 1, **request}
        self.invalidate(nested_id, toy_page_request(**request).pack(), 32, TOY)

    def hw_queue(self, viommu_id: int, index: int, iova: int, length: int, kind: int = TOY, flags: int = 0) -> int:
        cmd = uapi.iommu_hw_queue_alloc(
            flags=flags, viommu_id=viommu_id, type=kind, index=index, nesting_parent_iova=iova, length=length
        )
        return int(self.ask(uapi.IOMMU_HW_QUEUE_ALLOC, cmd).out_hw_queue_id)

    def unmap(self, iova: int, length: int) -> int:
        cmd = uapi.iommu_ioas_unmap(ioas_id=self.ioas, iova=iova, length=length)
        return int(self.ask(uapi.IOMMU_IOAS_UNMAP, cmd).length)

    def attach_pasid(self, pasid: int, pt_id: int, device: int = 0) -> int:
        data = struct.pack("<4I", 16, 1, pt_id, pasid)
        return int(struct.unpack("<4I", self.call(self.devices[device], VFIO_DEVICE_ATTACH_IOMMUFD_PT, data))[2])

    def detach_pasid(self, pasid: int, device: int = 0) -> None:
        self.call(self.devices[device], VFIO_DEVICE_DETACH_IOMMUFD_PT, struct.pack("<3I", 12, 1, pasid))


def on_toy(devices: int = 1, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the test runs in a task of the machine; it gets a ToyVmm."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def run() -> None:
            machine, ops = machine_with_toy_iommu(devices, **settings)
            machine.run(lambda: test(ToyVmm(ops, devices)))

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        return run

    return decorate
