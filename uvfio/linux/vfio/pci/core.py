# SPDX-License-Identifier: GPL-2.0-only
"""
The device operations of vfio-pci. Mirrors ``drivers/vfio/pci/vfio_pci_core.c``.

SR-IOV and its tokens are in ``sriov.py``. Differences from Linux: no capabilities in the device info;
the device does not sleep in low power; an error of the bus is only reported when somebody
injects it; a bus is not reset when the last of its devices
is closed.
"""

from __future__ import annotations

from errno import EAGAIN, EINVAL, ENOTTY
from typing import Any
from uuid import UUID

from uvfio.linux.base.pci import (
    PCI_D0,
    PciDev,
    pci_clear_master,
    pci_disable_device,
    pci_enable_device,
    pci_irq_vectors,
    pci_is_root_bus,
    pci_restore_state,
    pci_save_state,
    pci_try_reset_function,
)
from uvfio.linux.kernel.fs import File, Vma
from uvfio.linux.kernel.process import Process, eventfd_ctx_fdget
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import main
from uvfio.linux.vfio.iommufd import VfioIommufdPhysicalOps
from uvfio.linux.vfio.pci import config, dmabuf, hot_reset, intrs, rdwr, sriov
from uvfio.linux.vfio.pci.private import PAGE_SIZE, PCI_STD_NUM_BARS, VfioPciCoreDevice, vfio_pci_region_at
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import current
from uvfio.uapi.pci_regs import PCI_MSIX_ENTRY_SIZE, PCI_MSIX_TABLE
from uvfio.uapi.vfio import (
    VFIO_DEVICE_FEATURE_DMA_BUF,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_DEVICE_IOEVENTFD,
    VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
    VFIO_DEVICE_PCI_HOT_RESET,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS,
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_IRQ_SET_DATA_TYPE_MASK,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_NUM_REGIONS,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    vfio_device_info,
    vfio_device_ioeventfd,
    vfio_device_low_power_entry_with_wakeup,
    vfio_irq_info,
    vfio_irq_set,
)

INFO_MIN_SIZE = vfio_device_info.offsetof("cap_offset")
IOEVENTFD_MIN_SIZE = vfio_device_ioeventfd.offsetof("reserved")
VF_TOKEN_ARG = "vf_token="
UUID_STRING_LEN = 36
U32_MAX = 0xFFFF_FFFF


class VfioPciOps(VfioIommufdPhysicalOps):
    """``vfio_pci_ops``."""

    name = "vfio-pci"

    def release(self, device: VfioDevice) -> None:
        kfree(device.drvdata)

    def match(self, device: VfioDevice, name: str) -> bool:
        return vfio_pci_core_match(device, name)

    def match_token_uuid(self, device: VfioDevice, uuid: bytes | None) -> None:
        sriov.vfio_pci_validate_vf_token(device.drvdata, uuid)

    def open_device(self, device: VfioDevice) -> None:
        vfio_pci_core_enable(device.drvdata)
        sriov.vfio_pci_vf_token_use(device.drvdata, 1)

    def close_device(self, device: VfioDevice) -> None:
        vfio_pci_core_close_device(device.drvdata)

    def read(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        return rdwr.vfio_pci_rw(device.drvdata, buf, count, pos, False) if count else 0

    def write(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        return rdwr.vfio_pci_rw(device.drvdata, buf, count, pos, True) if count else 0

    def mmap(self, device: VfioDevice, vma: Vma, file: File) -> None:
        vfio_pci_core_mmap(device.drvdata, vma)

    def ioctl(self, device: VfioDevice, cmd: int, arg: int) -> int:
        core: VfioPciCoreDevice = device.drvdata
        if cmd == VFIO_DEVICE_GET_INFO:
            return vfio_pci_ioctl_get_info(core, arg)
        if cmd == VFIO_DEVICE_GET_IRQ_INFO:
            return vfio_pci_ioctl_get_irq_info(core, arg)
        if cmd == VFIO_DEVICE_SET_IRQS:
            return vfio_pci_ioctl_set_irqs(core, arg)
        if cmd == VFIO_DEVICE_RESET:
            return vfio_pci_ioctl_reset(core)
        if cmd == VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
            return hot_reset.vfio_pci_ioctl_get_pci_hot_reset_info(core, arg)
        if cmd == VFIO_DEVICE_PCI_HOT_RESET:
            return hot_reset.vfio_pci_ioctl_pci_hot_reset(core, arg)
        if cmd == VFIO_DEVICE_IOEVENTFD:
            return vfio_pci_ioctl_ioeventfd(core, arg)
        raise Errno(ENOTTY)

    def get_region_info_caps(self, device: VfioDevice, info: Any) -> list[tuple[int, int, bytes]]:
        return vfio_pci_get_region_info_caps(device.drvdata, info)

    def request(self, device: VfioDevice, count: int) -> None:
        core: VfioPciCoreDevice = device.drvdata
        with core.igate:
            if core.req_trigger is not None:
                core.req_trigger.signal()

    def device_feature(self, device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
        return vfio_pci_core_ioctl_feature(device.drvdata, flags, arg, argsz)


VFIO_PCI_OPS = VfioPciOps()


def vfio_pci_core_register_device(pdev: PciDev) -> None:
    """From a driver's probe: offer *pdev* to user space."""
    if pdev.hdr_type != 0:
        raise Errno(EINVAL, "a bridge cannot be assigned")
    sriov.vfio_pci_check_numvfs(pdev)
    core = kzalloc(VfioPciCoreDevice, pdev)
    device = core.vdev = main.vfio_alloc_device(pdev, VFIO_PCI_OPS, core)
    # What is reset together is opened and closed under one lock.
    alone = pdev.physfn is not None or pci_is_root_bus(pdev.pci_bus)
    main.vfio_assign_device_set(device, device if alone else pdev.pci_bus)
    pdev.driver_data = core
    sriov.vfio_pci_vf_init(core)
    try:
        main.vfio_register_group_dev(device)
    except Errno:
        sriov.vfio_pci_vf_uninit(core)
        main.vfio_put_device(device)
        raise


def vfio_pci_core_unregister_device(pdev: PciDev) -> None:
    """From a driver's remove; returns when nobody has the device open."""
    core: VfioPciCoreDevice = pdev.driver_data
    device = core.vdev
    sriov.vfio_pci_core_sriov_configure(core, 0)
    main.vfio_unregister_group_dev(device)
    sriov.vfio_pci_vf_uninit(core)
    main.vfio_put_device(device)


def vfio_pci_core_aer_err_detected(pdev: PciDev) -> None:
    """The bus has met an error that it cannot correct: tell the user."""
    core: VfioPciCoreDevice = pdev.driver_data
    with core.igate:
        if core.err_trigger is not None:
            core.err_trigger.signal()


def vfio_pci_core_match(device: VfioDevice, name: str) -> bool:
    """*name* is a BDF, with " vf_token=UUID" behind it perhaps. Errno EINVAL for other options."""
    bdf = device.dev.name
    if not name.startswith(bdf) or name[len(bdf) : len(bdf) + 1] not in ("", " "):
        return False
    token = None
    options = name[len(bdf) :].lstrip(" ")
    while options:
        text = options[len(VF_TOKEN_ARG) :][:UUID_STRING_LEN]
        if token is not None or not options.startswith(VF_TOKEN_ARG) or len(text) < UUID_STRING_LEN:
            raise Errno(EINVAL)
        try:
            token = UUID(text).bytes
        except ValueError:
            raise Errno(EINVAL) from None
        options = options[len(VF_TOKEN_ARG) + UUID_STRING_LEN :].lstrip(" ")
    device.ops.match_token_uuid(device, token)
    return True


def vfio_pci_core_enable(core: VfioPciCoreDevice) -> None:
    """The device is opened for the first time."""
    pdev = core.pdev
    pci_clear_master(pdev)
    pci_enable_device(pdev)
    try:
        core.reset_works = vfio_pci_try_reset(pdev)
    except Errno:
        # The lock is held, most likely because the driver is being unbound.
        pci_disable_device(pdev)
        raise
    pci_save_state(pdev)
    # A reset saves and restores its own: this is what the device goes back to at the end.
    core.pci_saved_state = pdev.state_saved
    config.vfio_pci_intx_probe(core)
    config.vfio_config_init(core)
    if pdev.msix_cap:
        table = pdev.config.read(pdev.msix_cap + PCI_MSIX_TABLE, 4)
        core.msix_bar, core.msix_offset = table & 7, table & ~7
        core.msix_size = pci_irq_vectors(pdev, "msix") * PCI_MSIX_ENTRY_SIZE


def vfio_pci_try_reset(pdev: PciDev) -> bool:
    """Reset the function if it can be. Errno EAGAIN when its lock is taken."""
    try:
        pci_try_reset_function(pdev)
    except Errno as e:
        if e.number == EAGAIN:
            raise
        return False
    return True


def vfio_pci_core_close_device(core: VfioPciCoreDevice) -> None:
    sriov.vfio_pci_vf_token_use(core, -1)
    dmabuf.vfio_pci_dma_buf_cleanup(core)
    vfio_pci_core_disable(core)
    with core.igate:
        for trigger in (core.err_trigger, core.req_trigger):
            if trigger is not None:
                trigger.put()
        core.err_trigger = core.req_trigger = None


def vfio_pci_core_disable(core: VfioPciCoreDevice) -> None:
    """Leave the device quiet, as if nobody had used it."""
    pdev = core.pdev
    config.vfio_pci_set_power_state(core, PCI_D0)
    pci_clear_master(pdev)
    vfio_pci_runtime_pm_exit(core)
    with core.igate:
        if core.irq_type != VFIO_PCI_NUM_IRQS:
            flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER
            intrs.vfio_pci_set_irqs_ioctl(core, flags, core.irq_type, 0, 0, b"")
    rdwr.vfio_pci_ioeventfds_free(core)
    core.virq_disabled = False
    pdev.state_saved = core.pci_saved_state
    pci_restore_state(pdev)
    if core.reset_works:
        try:
            vfio_pci_try_reset(pdev)
        except Errno:
            pass  # the next to open it tries again
    pci_disable_device(pdev)


def vfio_pci_ioctl_get_info(core: VfioPciCoreDevice, arg: int) -> int:
    info = vfio_device_info.unpack(copy_from_user(arg, INFO_MIN_SIZE))
    if info.argsz < INFO_MIN_SIZE:
        raise Errno(EINVAL)
    info.flags = VFIO_DEVICE_FLAGS_PCI | (VFIO_DEVICE_FLAGS_RESET if core.reset_works else 0)
    info.num_regions = VFIO_PCI_NUM_REGIONS
    info.num_irqs = VFIO_PCI_NUM_IRQS
    copy_to_user(arg, info.pack()[: info.argsz])
    return 0


def vfio_pci_get_region_info_caps(core: VfioPciCoreDevice, info: Any) -> list[tuple[int, int, bytes]]:
    index = info.index
    info.flags = info.size = 0
    if index >= VFIO_PCI_NUM_REGIONS:
        raise Errno(EINVAL)
    info.offset = core.region_offsets[index]
    if index == VFIO_PCI_CONFIG_REGION_INDEX:
        info.size = core.pdev.config.size
        info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
    elif index < PCI_STD_NUM_BARS:
        info.size = core.pdev.bars[index].size
        if info.size:
            info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
        if vfio_pci_bar_mmap_supported(core, index):
            info.flags |= VFIO_REGION_INFO_FLAG_MMAP
            if index == core.msix_bar:
                return [(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, b"")]
    elif index != VFIO_PCI_ROM_REGION_INDEX:
        raise Errno(EINVAL, "the device has no VGA registers")
    return []


def vfio_pci_bar_mmap_supported(core: VfioPciCoreDevice, index: int) -> bool:
    """
    As Linux, but for registers and a guest on KVM: it would find no memory there, and its
    VMM gets to know of accesses only where nothing is mapped.
    """
    bar = core.pdev.bars[index]
    if bar.size < PAGE_SIZE or bar.kind == "io":
        return False
    process: Process | None = current().process
    return bar.ram or process is None or not process.runs_guest()


def vfio_pci_ioctl_get_irq_info(core: VfioPciCoreDevice, arg: int) -> int:
    info = vfio_irq_info.unpack(copy_from_user(arg, vfio_irq_info.size_of))
    if info.argsz < vfio_irq_info.size_of or info.index >= VFIO_PCI_NUM_IRQS:
        raise Errno(EINVAL)
    info.flags = VFIO_IRQ_INFO_EVENTFD
    info.count = intrs.vfio_pci_get_irq_count(core, info.index)
    if info.index == VFIO_PCI_INTX_IRQ_INDEX:
        info.flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED
    elif info.index != VFIO_PCI_MSIX_IRQ_INDEX or not core.pdev.msix_cap:
        info.flags |= VFIO_IRQ_INFO_NORESIZE
    copy_to_user(arg, info.pack())
    return 0


def vfio_pci_ioctl_set_irqs(core: VfioPciCoreDevice, arg: int) -> int:
    irqs = vfio_irq_set.unpack(copy_from_user(arg, vfio_irq_set.size_of))
    known = irqs.index < VFIO_PCI_NUM_IRQS
    size = vfio_set_irqs_validate(irqs, intrs.vfio_pci_get_irq_count(core, irqs.index) if known else 0)
    data = copy_from_user(arg + vfio_irq_set.size_of, size) if size else b""
    with core.igate:
        intrs.vfio_pci_set_irqs_ioctl(core, irqs.flags, irqs.index, irqs.start, irqs.count, data)
    return 0


def vfio_set_irqs_validate(irqs: Any, num_irqs: int) -> int:
    """``vfio_set_irqs_validate_and_prepare()``: how many bytes of data follow the struct."""
    if irqs.argsz < vfio_irq_set.size_of or irqs.index >= VFIO_PCI_NUM_IRQS:
        raise Errno(EINVAL)
    if irqs.count >= U32_MAX - irqs.start:
        raise Errno(EINVAL)
    if irqs.flags & ~(VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK):
        raise Errno(EINVAL)
    if irqs.start >= num_irqs or irqs.start + irqs.count > num_irqs:
        raise Errno(EINVAL)
    sizes = {VFIO_IRQ_SET_DATA_NONE: 0, VFIO_IRQ_SET_DATA_BOOL: 1, VFIO_IRQ_SET_DATA_EVENTFD: 4}
    each = sizes.get(irqs.flags & VFIO_IRQ_SET_DATA_TYPE_MASK)
    if each is None or irqs.argsz - vfio_irq_set.size_of < irqs.count * each:
        raise Errno(EINVAL)
    return int(irqs.count * each)


def vfio_pci_ioctl_reset(core: VfioPciCoreDevice) -> int:
    if not core.reset_works:
        raise Errno(EINVAL)
    with core.memory_lock.write():
        config.vfio_pci_set_power_state(core, PCI_D0)
        dmabuf.vfio_pci_dma_buf_move(core, True)
        try:
            pci_try_reset_function(core.pdev)
        finally:
            dmabuf.vfio_pci_dma_buf_move(core, not config.vfio_pci_memory_enabled(core))
    return 0


def vfio_pci_ioctl_ioeventfd(core: VfioPciCoreDevice, arg: int) -> int:
    ioeventfd = vfio_device_ioeventfd.unpack(copy_from_user(arg, IOEVENTFD_MIN_SIZE))
    if ioeventfd.argsz < IOEVENTFD_MIN_SIZE or ioeventfd.flags & ~VFIO_DEVICE_IOEVENTFD_SIZE_MASK:
        raise Errno(EINVAL)
    count = ioeventfd.flags & VFIO_DEVICE_IOEVENTFD_SIZE_MASK
    if count.bit_count() != 1 or ioeventfd.fd < -1:
        raise Errno(EINVAL)
    rdwr.vfio_pci_ioeventfd(core, ioeventfd.offset, ioeventfd.data, count, ioeventfd.fd)
    return 0


def vfio_pci_core_ioctl_feature(core: VfioPciCoreDevice, flags: int, arg: int, argsz: int) -> int:
    feature = flags & VFIO_DEVICE_FEATURE_MASK
    if feature == VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
        return vfio_pci_core_pm_entry(core, flags, argsz)
    if feature == VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
        return vfio_pci_core_pm_entry_with_wakeup(core, flags, arg, argsz)
    if feature == VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
        if main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, 0):
            vfio_pci_runtime_pm_exit(core)
        return 0
    if feature == VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
        return sriov.vfio_pci_core_feature_token(core, flags, arg, argsz)
    if feature == VFIO_DEVICE_FEATURE_DMA_BUF:
        return dmabuf.vfio_pci_core_feature_dma_buf(core, flags, arg, argsz)
    raise Errno(ENOTTY)


def vfio_pci_core_pm_entry(core: VfioPciCoreDevice, flags: int, argsz: int) -> int:
    if main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, 0):
        vfio_pci_runtime_pm_entry(core, None)
    return 0


def vfio_pci_core_pm_entry_with_wakeup(core: VfioPciCoreDevice, flags: int, arg: int, argsz: int) -> int:
    payload = vfio_device_low_power_entry_with_wakeup
    if not main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, payload.size_of):
        return 0
    entry = payload.unpack(copy_from_user(arg, payload.size_of))
    if entry.wakeup_eventfd < 0:
        raise Errno(EINVAL)
    ctx = eventfd_ctx_fdget(entry.wakeup_eventfd)
    try:
        vfio_pci_runtime_pm_entry(core, ctx)
    except Errno:
        ctx.put()
        raise
    return 0


def vfio_pci_runtime_pm_entry(core: VfioPciCoreDevice, wakeup: Any) -> None:
    """From here on mappings of BARs are gone, until the exit."""
    with core.memory_lock.write():
        if core.pm_runtime_engaged:
            raise Errno(EINVAL)
        core.pm_runtime_engaged = True
        core.pm_wake_eventfd_ctx = wakeup


def vfio_pci_runtime_pm_exit(core: VfioPciCoreDevice) -> None:
    with core.memory_lock.write():
        core.pm_runtime_engaged = False
        if core.pm_wake_eventfd_ctx is not None:
            core.pm_wake_eventfd_ctx.put()
            core.pm_wake_eventfd_ctx = None


def vfio_pci_core_mmap(core: VfioPciCoreDevice, vma: Vma) -> None:
    """Errno EINVAL unless *vma* is a shared mapping within a BAR that can be mapped."""
    index, offset = vfio_pci_region_at(core, vma.offset)
    if index >= VFIO_PCI_ROM_REGION_INDEX or not vma.shared:
        raise Errno(EINVAL)
    if not vfio_pci_bar_mmap_supported(core, index):
        raise Errno(EINVAL)
    if offset + vma.length > core.pdev.bars[index].size:
        raise Errno(EINVAL)
