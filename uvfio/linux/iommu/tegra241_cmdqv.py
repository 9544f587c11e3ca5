# SPDX-License-Identifier: GPL-2.0-only
"""
Command queues of an SMMUv3 that a guest owns: NVIDIA's Tegra241 CMDQV.

Mirrors ``drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c``, with the hardware. A guest gets a
virtual interface (VINTF); its queues (LVCMDQs) are in its own memory, and the page of their
registers is mapped by whoever runs it, so that the kernel is not asked for a TLBI. All
differences from Linux:

* the kernel uses no VINTF of its own: it does not need one for its commands;
* of the registers there is only page 0 of a VINTF, the one that is mapped.

Differences from hardware: it looks at the queues before every access of a device, and under
``uvfio run`` once a millisecond besides, instead of when a register is written; CMD_SYNC
ends when it is reached.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, EIO, ENOSPC, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu import smmuv3, smmuv3_hw, smmuv3_viommu
from uvfio.linux.iommu.iommufd import (
    IommufdHwQueue,
    IommufdMmapMemory,
    IommufdVdevice,
    IommuUserData,
    iommu_copy_struct_from_user,
    iommu_copy_struct_to_user,
    iommufd_hw_queue_depend,
    iommufd_hw_queue_undepend,
    iommufd_viommu_alloc_mmap,
    iommufd_viommu_destroy_mmap,
    iommufd_viommu_report_event,
)
from uvfio.linux.iommu.private import IOMMU_READ
from uvfio.linux.iommu.smmuv3_viommu import ArmVsmmu
from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.xarray import Ida
from uvfio.runtime.errors import Errno
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import current
from uvfio.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV,
    IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV,
    IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV,
    IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
    iommu_hw_info_tegra241_cmdqv,
    iommu_vevent_tegra241_cmdqv,
    iommu_viommu_tegra241_cmdqv,
)

VERSION = 1
NUM_VINTFS = 4
NUM_LVCMDQS_PER_VINTF = 2
NUM_SIDS_PER_VINTF = 16
VINTF_PAGE0_SIZE = 0x10000
POLL_PERIOD = 0.001  # seconds

CMDQ_ENT_SZ = 16
VCMDQ_MIN_LENGTH = 2 * CMDQ_ENT_SZ

# The registers of an LVCMDQ in page 0, each of 32 bits.
LVCMDQ_STRIDE = 0x80
CONS, PROD, CONFIG, STATUS, GERROR, GERRORN = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14
CONFIG_EN, STATUS_EN_OK, GERROR_CMDQ_ERR = 1, 1, 1
CONS_ERR_SHIFT = 24
CERROR_ILL, CERROR_ABT = 1, 2

# What a queue of a guest takes; all else is an illegal command there.
VCMDQ_COMMANDS = frozenset(
    {
        smmuv3_hw.CMDQ_OP_TLBI_NH_ASID,
        smmuv3_hw.CMDQ_OP_TLBI_NH_VA,
        smmuv3_hw.CMDQ_OP_ATC_INV,
        smmuv3_hw.CMDQ_OP_CMD_SYNC,
    }
)


class Tegra241Cmdqv:
    """``struct tegra241_cmdqv``: the extension of one SMMU."""

    def __init__(self, smmu: smmuv3.ArmSmmuDevice) -> None:
        self.smmu = smmu
        self.vintf_ids = Ida("tegra241_cmdqv.vintf_ids")
        self.vintf_ids.alloc()  # the kernel's
        self.vintfs: dict[int, Tegra241Vintf] = {}
        self.max_length = CMDQ_ENT_SZ << (smmu.idr[1] >> smmuv3.IDR1_CMDQS_SHIFT & 0x1F)
        self.polled = False

    def __repr__(self) -> str:
        return f"<CMDQV of {self.smmu!r}>"

    def hw_info(self, type: int) -> tuple[int, bytes]:
        if type != IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV:
            raise Errno(EOPNOTSUPP)
        log2vcmdqs, log2vsids = NUM_LVCMDQS_PER_VINTF.bit_length() - 1, NUM_SIDS_PER_VINTF.bit_length() - 1
        info = iommu_hw_info_tegra241_cmdqv(version=VERSION, log2vcmdqs=log2vcmdqs, log2vsids=log2vsids)
        return type, info.pack()

    def get_vintf_struct(self, type: int) -> type[Any]:
        """``tegra241_cmdqv_get_vintf_size()``."""
        if type != IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV:
            raise Errno(EOPNOTSUPP)
        return Tegra241Vintf

    def run(self) -> None:
        """The hardware does what is in the queues."""
        for vintf in list(self.vintfs.values()):
            vintf.run()

    def start_polling(self) -> None:
        """A guest writes a register that we do not see: look at it by ourselves, if there is a guest."""
        runtime = current().runtime
        if self.polled or not isinstance(runtime, LiveRuntime) or runtime.idle is None:
            return
        self.polled = True
        runtime.spawn(self._poll, "tegra241-cmdqv")

    def _poll(self) -> None:
        # The time limit comes first, so that a queue is not looked at after every call.
        while any(vintf.lvcmdqs for vintf in self.vintfs.values()):
            current().runtime.point("wait", self, "r", ready=lambda: False, timeout=POLL_PERIOD)
            self.run()
        self.polled = False


@kstruct()
class Tegra241Vcmdq(IommufdHwQueue):
    """``struct tegra241_vcmdq``: number *lidx* of *vintf*, after *prev*."""

    vintf: Tegra241Vintf
    lidx = 0
    prev: Tegra241Vcmdq | None = None

    def destroy(self) -> None:
        """``tegra241_vintf_destroy_lvcmdq_user()``."""
        vintf = self.vintf
        with vintf.lvcmdq_mutex:
            del vintf.lvcmdqs[self.lidx]
            vintf.clear(self.lidx)
        if self.prev is not None:
            iommufd_hw_queue_undepend(self, self.prev)

    def run(self) -> None:
        """Do the commands between CONS and PROD, up to the first that is wrong."""
        vintf, lidx = self.vintf, self.lidx
        if not vintf.get(lidx, CONFIG) & CONFIG_EN:
            vintf.put(lidx, STATUS, 0)
            return
        vintf.put(lidx, STATUS, STATUS_EN_OK)
        entries = self.length // CMDQ_ENT_SZ
        mask = 2 * entries - 1  # index and wrap
        cons, prod = vintf.get(lidx, CONS) & mask, vintf.get(lidx, PROD) & mask
        if prod == cons or (vintf.get(lidx, GERROR) ^ vintf.get(lidx, GERRORN)) & GERROR_CMDQ_ERR:
            return
        error = 0
        while cons != prod and not error:
            error = self._command(cons & (entries - 1))
            if not error:
                cons = (cons + 1) & mask
        vintf.put(lidx, CONS, cons | error << CONS_ERR_SHIFT)
        if error:
            vintf.put(lidx, GERROR, vintf.get(lidx, GERROR) ^ GERROR_CMDQ_ERR)
            vintf.report_error(lidx)

    def _command(self, index: int) -> int:
        """The command at *index*; why it could not be done."""
        vintf = self.vintf
        pieces, fault = vintf.s2_parent.walk(self.base_addr + CMDQ_ENT_SZ * index, CMDQ_ENT_SZ, IOMMU_READ)
        entry = bytearray(CMDQ_ENT_SZ)
        try:
            if fault is not None:
                return CERROR_ABT
            for pages, offset, length in pieces:  # aligned, so there is only one
                pages.read_into(offset, memoryview(entry)[:length])
        except Errno:
            return CERROR_ABT
        cmd0, cmd1 = (int.from_bytes(entry[at : at + 8], "little") for at in (0, 8))
        if cmd0 & 0xFF not in VCMDQ_COMMANDS:
            return CERROR_ILL
        if cmd0 & 0xFF == smmuv3_hw.CMDQ_OP_CMD_SYNC:
            return 0
        try:
            vintf.smmu.command(vintf.translate_command(cmd0), cmd1)
        except Errno:
            return CERROR_ILL
        return 0


@kstruct("idx")
class Tegra241Vsid(IommufdVdevice):
    """``struct tegra241_vintf_sid``: a slot that replaces a stream id in commands."""

    idx = -1

    def destroy(self) -> None:
        """``tegra241_vintf_destroy_vsid()``: the slot is free."""
        vintf = self.viommu
        assert isinstance(vintf, Tegra241Vintf)
        if self.idx >= 0:
            del vintf.sid_slots[self.idx]
            vintf.sids.free(self.idx)


@kstruct()
class Tegra241Vintf(ArmVsmmu):
    """``struct tegra241_vintf``."""

    vdevice = Tegra241Vsid
    cmdqv: Tegra241Cmdqv
    idx = -1

    def __init__(self, ictx: Any, hwpt: Any, iommu_dev: Any) -> None:
        super().__init__(ictx, hwpt, iommu_dev)
        self.sids = Ida("tegra241_vintf.sids")
        self.sid_slots: dict[int, tuple[int, int]] = {}  # SID_MATCH, a guest's stream id, and SID_REPLACE
        self.lvcmdq_mutex = Mutex("tegra241_vintf.lvcmdq_mutex")
        self.lvcmdqs: dict[int, Tegra241Vcmdq] = {}  # lvcmdq_mutex
        self.page0 = IommufdMmapMemory(VINTF_PAGE0_SIZE)
        self.mmap_offset = 0

    def destroy(self) -> None:
        """``tegra241_cmdqv_destroy_vintf_user()``."""
        if self.mmap_offset:
            iommufd_viommu_destroy_mmap(self, self.mmap_offset)
        if self.idx >= 0:
            del self.cmdqv.vintfs[self.idx]
            self.cmdqv.vintf_ids.free(self.idx)

    def vdevice_init(self, vdev: IommufdVdevice, dev: Any) -> None:
        """
        ``tegra241_vintf_init_vsid()``. Errno EINVAL: no virtual stream id has so many
        bits, or the device has several; ENOSPC: all slots are taken.
        """
        assert isinstance(vdev, Tegra241Vsid)
        streams = smmuv3.dev_iommu_priv_get(dev).streams
        if vdev.virt_id > 0xFFFFFFFF or WARN_ON(len(streams) != 1, f"{dev.name} has several streams"):
            raise Errno(EINVAL)
        vdev.idx = _ida_alloc_max(self.sids, NUM_SIDS_PER_VINTF - 1)
        self.sid_slots[vdev.idx] = vdev.virt_id, streams[0]

    def get_hw_queue_struct(self, type: int) -> type[IommufdHwQueue]:
        if type != IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV:
            raise Errno(EOPNOTSUPP)
        return Tegra241Vcmdq

    def hw_queue_init_phys(self, hw_queue: Any, index: int, base_addr_pa: int) -> None:
        """``tegra241_vintf_alloc_lvcmdq_user()``. Errno EINVAL, EEXIST, EIO."""
        if index >= NUM_LVCMDQS_PER_VINTF:
            raise Errno(EINVAL)
        with self.lvcmdq_mutex:
            if index in self.lvcmdqs:
                raise Errno(EEXIST)
            # The hardware wants them mapped in ascending order.
            prev = self.lvcmdqs.get(index - 1)
            if index and prev is None:
                raise Errno(EIO)
            length = hw_queue.length
            if length & (length - 1) or not VCMDQ_MIN_LENGTH <= length <= self.cmdqv.max_length:
                raise Errno(EINVAL)
            if base_addr_pa & (length - 1):
                raise Errno(EINVAL)
            if prev is not None:
                iommufd_hw_queue_depend(hw_queue, prev)
            hw_queue.vintf, hw_queue.lidx, hw_queue.prev = self, index, prev
            self.clear(index)
            self.lvcmdqs[index] = hw_queue
        self.cmdqv.start_polling()

    def translate_command(self, cmd0: int) -> int:
        """What the hardware replaces in a command of a guest. Errno EIO: a stream it does not have."""
        if cmd0 & 0xFF not in smmuv3_viommu.STREAM_COMMANDS:
            return cmd0 & ~smmuv3_viommu.VMID_MASK | self.vmid << smmuv3_hw.CMDQ_0_VMID_SHIFT
        for match, sid in self.sid_slots.values():
            if match == cmd0 >> smmuv3_hw.CMDQ_0_SID_SHIFT:
                return cmd0 & ~smmuv3_viommu.SID_MASK | sid << smmuv3_hw.CMDQ_0_SID_SHIFT
        raise Errno(EIO)

    def run(self) -> None:
        for lidx in sorted(self.lvcmdqs):
            self.lvcmdqs[lidx].run()

    def report_error(self, lidx: int) -> None:
        """``tegra241_vintf_user_handle_error()``: a bit for each queue that has stopped."""
        maps = [1 << lidx & (1 << 64) - 1, 1 << lidx >> 64]
        vevent = iommu_vevent_tegra241_cmdqv(lvcmdq_err_map0=maps[0], lvcmdq_err_map1=maps[1])
        try:
            iommufd_viommu_report_event(self, IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV, vevent.pack())
        except Errno:
            return  # nobody listens

    def get(self, lidx: int, register: int) -> int:
        at = LVCMDQ_STRIDE * lidx + register
        return int.from_bytes(self.page0.data[at : at + 4], "little")

    def put(self, lidx: int, register: int, value: int) -> None:
        at = LVCMDQ_STRIDE * lidx + register
        self.page0.data[at : at + 4] = value.to_bytes(4, "little")

    def clear(self, lidx: int) -> None:
        at = LVCMDQ_STRIDE * lidx
        self.page0.data[at : at + LVCMDQ_STRIDE] = bytes(LVCMDQ_STRIDE)


def tegra241_cmdqv_init_vintf_user(vintf: Tegra241Vintf, user_data: IommuUserData | None) -> None:
    """*vintf* is an SMMU already; make it a VINTF, too. Errno EINVAL, EFAULT; ENOSPC: all are taken."""
    if user_data is None:
        raise Errno(EINVAL)
    type, size = IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV, iommu_viommu_tegra241_cmdqv.size_of
    data = iommu_copy_struct_from_user(iommu_viommu_tegra241_cmdqv, user_data, type, size)
    cmdqv = vintf.smmu.cmdqv
    assert cmdqv is not None
    vintf.cmdqv = cmdqv
    vintf.idx = _ida_alloc_max(cmdqv.vintf_ids, NUM_VINTFS - 1)
    cmdqv.vintfs[vintf.idx] = vintf
    vintf.mmap_offset = iommufd_viommu_alloc_mmap(vintf, vintf.page0, VINTF_PAGE0_SIZE)
    data.out_vintf_mmap_offset, data.out_vintf_mmap_length = vintf.mmap_offset, VINTF_PAGE0_SIZE
    iommu_copy_struct_to_user(user_data, data, type, size)


def _ida_alloc_max(ida: Ida, last: int) -> int:
    """The lowest free id up to *last*. Errno ENOSPC."""
    try:
        return ida.alloc(last)
    except Errno:
        raise Errno(ENOSPC) from None
