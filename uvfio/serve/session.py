# SPDX-License-Identifier: GPL-2.0-only
"""
One client of one device: vfio-user messages become calls of VFIO and iommufd.

The client is a process of the modelled kernel that has opened the device's node, bound
it to an iommufd and attached it to an IOAS; what it maps for DMA is mapped there. So
configuration space, interrupts and regions are what VFIO makes of them. All differences
from libvfio-user: no migration, no twin socket, no ioeventfds for regions, no regions
to map (every access is a message); DMA_UNMAP does not report dirty pages.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from errno import EINVAL, ENOTSUP
from typing import Any

from uvfio.runtime.errors import Errno
from uvfio.serve.channel import MAX_DATA_XFER_SIZE, MAX_MSG_FDS, Channel, Message, ProtocolError
from uvfio.serve.client import ClientProcess, FileMemory, MessageMemory
from uvfio.uapi import vfio, vfio_user
from uvfio.uapi.iommufd import (
    IOMMU_IOAS_ALLOC,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_IOAS_UNMAP,
    iommu_ioas_alloc,
    iommu_ioas_map,
    iommu_ioas_unmap,
)

PAGE_SIZE = 4096
MAX_DMA_MAPS = 65535
CAPABILITIES = {
    "capabilities": {
        "max_msg_fds": MAX_MSG_FDS,
        "max_data_xfer_size": MAX_DATA_XFER_SIZE,
        "max_dma_maps": MAX_DMA_MAPS,
        "pgsizes": PAGE_SIZE,
    }
}
HAS_EVENTFDS = vfio.VFIO_IRQ_SET_DATA_EVENTFD


class Session:
    """From the first message to the last. Lives in tasks of the machine; *node* is the device's."""

    def __init__(self, channel: Channel, process: ClientProcess, node: str) -> None:
        self.channel = channel
        self.process = process
        self.agreed = False  # on a version
        self.offsets: dict[int, int] = {}  # of regions, in the device file
        self.dma: dict[tuple[int, int], int] = {}  # address and size: where the process has it
        self.iommufd = process.open("/dev/iommu")
        self.device = process.open(node)
        bind = vfio.vfio_device_bind_iommufd(argsz=16, iommufd=self.iommufd)
        process.call(self.device, vfio.VFIO_DEVICE_BIND_IOMMUFD, bind.pack())
        made = process.call(self.iommufd, IOMMU_IOAS_ALLOC, iommu_ioas_alloc(size=12).pack())
        self.ioas: int = iommu_ioas_alloc.unpack(made).out_ioas_id
        attach = vfio.vfio_device_attach_iommufd_pt(argsz=12, pt_id=self.ioas)
        process.call(self.device, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach.pack())

    def close(self) -> None:
        """The client has gone: the device is as if it had never been there."""
        self.process.exit()

    def do(self, message: Message) -> None:
        """Do what *message* asks, and reply. ProtocolError when there is no way on."""
        try:
            handler = HANDLERS.get(message.cmd)
            if handler is None:
                raise Errno(ENOTSUP)
            if not self.agreed and message.cmd != vfio_user.VFIO_USER_VERSION:
                raise ProtocolError("the first message must be VERSION")
            answer = handler(self, message)
        except Errno as e:
            if message.wants_reply:
                self.channel.refuse(message, e.number)
        except struct.error:
            if message.wants_reply:
                self.channel.refuse(message, EINVAL)
        else:
            if message.wants_reply:
                self.channel.reply(message, answer)
        finally:
            message.close()

    def version(self, message: Message) -> bytes:
        asked = vfio_user.vfio_user_version.unpack(message.data)
        if len(message.data) < asked.size_of or asked.major != vfio_user.VFIO_USER_MAJOR:
            raise Errno(EINVAL)
        self.agreed = True
        minor = min(asked.minor, vfio_user.VFIO_USER_MINOR)
        ours = vfio_user.vfio_user_version(major=vfio_user.VFIO_USER_MAJOR, minor=minor)
        return bytes(ours.pack()) + json.dumps(CAPABILITIES).encode() + b"\0"

    def dma_map(self, message: Message) -> bytes:
        arg = _argument(vfio_user.vfio_user_dma_map, message)
        prot = {0: 0, 1: IOMMU_IOAS_MAP_READABLE, 2: IOMMU_IOAS_MAP_WRITEABLE}
        flags = prot.get(arg.flags & 1, 0) | prot.get(arg.flags & 2, 0)
        if arg.flags & ~3 or len(message.fds) > 1 or len(self.dma) >= MAX_DMA_MAPS:
            raise Errno(EINVAL)
        memory = (
            FileMemory(message.fds[0], arg.offset, arg.size, bool(arg.flags & vfio_user.VFIO_USER_F_DMA_REGION_WRITE))
            if message.fds
            else MessageMemory(self.channel, arg.addr, arg.size)
        )
        at = self.process.mm.map_memory(memory, bool(arg.flags & vfio_user.VFIO_USER_F_DMA_REGION_WRITE))
        call = iommu_ioas_map(
            size=40,
            flags=flags | IOMMU_IOAS_MAP_FIXED_IOVA,
            ioas_id=self.ioas,
            user_va=at,
            length=arg.size,
            iova=arg.addr,
        )
        try:
            self.process.call(self.iommufd, IOMMU_IOAS_MAP, call.pack())
        except Errno:
            self.process.mm.munmap(at)
            raise
        self.dma[arg.addr, arg.size] = at
        return b""

    def dma_unmap(self, message: Message) -> bytes:
        arg = _argument(vfio_user.vfio_user_dma_unmap, message)
        if arg.flags == vfio_user.VFIO_DMA_UNMAP_FLAG_ALL and not arg.addr and not arg.size:
            going = list(self.dma)
        elif not arg.flags and (arg.addr, arg.size) in self.dma:
            going = [(arg.addr, arg.size)]
        else:
            raise Errno(EINVAL)
        for addr, size in going:
            call = iommu_ioas_unmap(size=24, ioas_id=self.ioas, iova=addr, length=size)
            self.process.call(self.iommufd, IOMMU_IOAS_UNMAP, call.pack())
            self.process.mm.munmap(self.dma.pop((addr, size)))
        return bytes(arg.pack())

    def get_info(self, message: Message) -> bytes:
        arg = _argument(vfio_user.vfio_user_device_info, message)
        info = vfio.vfio_device_info(argsz=vfio.vfio_device_info.offsetof("cap_offset"))
        found = vfio.vfio_device_info.unpack(self._ask_device(vfio.VFIO_DEVICE_GET_INFO, info.pack()))
        arg.argsz, arg.flags = arg.size_of, found.flags
        arg.num_regions, arg.num_irqs = found.num_regions, found.num_irqs
        return bytes(arg.pack())

    def get_region_info(self, message: Message) -> bytes:
        found = self._region(_argument(vfio.vfio_region_info, message).index)
        # Its memory is here and not there; and what only says how to map it goes, too.
        found.flags &= ~(vfio.VFIO_REGION_INFO_FLAG_MMAP | vfio.VFIO_REGION_INFO_FLAG_CAPS)
        found.argsz, found.cap_offset, found.offset = found.size_of, 0, 0
        return bytes(found.pack())

    def get_irq_info(self, message: Message) -> bytes:
        arg = _argument(vfio.vfio_irq_info, message)
        arg.argsz = arg.size_of
        return self._ask_device(vfio.VFIO_DEVICE_GET_IRQ_INFO, arg.pack())

    def set_irqs(self, message: Message) -> bytes:
        arg = _argument(vfio.vfio_irq_set, message)
        data = message.data[arg.size_of :]
        if arg.flags & HAS_EVENTFDS and not message.fds:
            # Without descriptors the vectors lose theirs.
            data = struct.pack(f"<{arg.count}i", *[-1] * arg.count)
        if not message.fds:
            arg.argsz = arg.size_of + len(data)
            return self._ask_device(vfio.VFIO_DEVICE_SET_IRQS, arg.pack() + data)[:0]
        if not arg.flags & HAS_EVENTFDS or arg.count != len(message.fds):
            raise Errno(EINVAL)

        def with_numbers(numbers: list[int]) -> None:
            arg.argsz = arg.size_of + 4 * len(numbers)
            self._ask_device(vfio.VFIO_DEVICE_SET_IRQS, arg.pack() + struct.pack(f"<{len(numbers)}i", *numbers))

        self.process.with_eventfds(message.fds, with_numbers)
        return b""

    def region_read(self, message: Message) -> bytes:
        arg = _argument(vfio_user.vfio_user_region_access, message)
        if arg.count > MAX_DATA_XFER_SIZE:
            raise Errno(EINVAL)
        data = self.process.pread(self.device, arg.count, self._offset(arg))
        arg.count = len(data)
        return bytes(arg.pack()) + data

    def region_write(self, message: Message) -> bytes:
        arg = _argument(vfio_user.vfio_user_region_access, message)
        data = message.data[arg.size_of :]
        if len(data) != arg.count:
            raise Errno(EINVAL)
        arg.count = self.process.pwrite(self.device, data, self._offset(arg))
        return bytes(arg.pack())

    def reset(self, _message: Message) -> bytes:
        self.process.ioctl(self.device, vfio.VFIO_DEVICE_RESET)
        return b""

    def _offset(self, access: Any) -> int:
        if access.region not in self.offsets:
            self._region(access.region)
        return self.offsets[access.region] + int(access.offset)

    def _region(self, index: int) -> Any:
        asked = vfio.vfio_region_info(argsz=vfio.vfio_region_info.size_of, index=index)
        found = vfio.vfio_region_info.unpack(self._ask_device(vfio.VFIO_DEVICE_GET_REGION_INFO, asked.pack()))
        self.offsets[index] = found.offset
        return found

    def _ask_device(self, request: int, data: bytes) -> bytes:
        return self.process.call(self.device, request, data)


def _argument(struct_type: Any, message: Message) -> Any:
    """The struct that *message* starts with. Errno EINVAL when it is too short."""
    if len(message.data) < struct_type.size_of:
        raise Errno(EINVAL)
    return struct_type.unpack(message.data)


Handler = Callable[[Session, Message], bytes]
HANDLERS: Mapping[int, Handler] = {
    vfio_user.VFIO_USER_VERSION: Session.version,
    vfio_user.VFIO_USER_DMA_MAP: Session.dma_map,
    vfio_user.VFIO_USER_DMA_UNMAP: Session.dma_unmap,
    vfio_user.VFIO_USER_DEVICE_GET_INFO: Session.get_info,
    vfio_user.VFIO_USER_DEVICE_GET_REGION_INFO: Session.get_region_info,
    vfio_user.VFIO_USER_DEVICE_GET_IRQ_INFO: Session.get_irq_info,
    vfio_user.VFIO_USER_DEVICE_SET_IRQS: Session.set_irqs,
    vfio_user.VFIO_USER_REGION_READ: Session.region_read,
    vfio_user.VFIO_USER_REGION_WRITE: Session.region_write,
    vfio_user.VFIO_USER_DEVICE_RESET: Session.reset,
}
