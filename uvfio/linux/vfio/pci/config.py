# SPDX-License-Identifier: GPL-2.0-only
"""
Configuration space as the user sees it. Mirrors ``drivers/vfio/pci/vfio_pci_config.c``.

Every bit is either the device's or kept in ``vconfig`` (``virt``), and can be written or
not (``writable``). BARs and the MSI and MSI-X enable bits are never the user's to change
in the device. What belongs to no capability is the device's and writable.

A virtual function has no ids and no BARs of its own there, nor can its memory be switched
off: the user finds all of it as if it had. Differences from Linux: no VPD, PCI-X, slot or vendor capabilities
(what ``vfio_cap_len`` does not know is hidden); the read request size that the user sets
stays virtual.
"""

from __future__ import annotations

from errno import EFAULT

from uvfio.linux.base.pci import (
    PCI_D3HOT,
    pci_intx,
    pci_intx_mask_supported,
    pci_power_state,
    pci_restore_state,
    pci_save_state,
    pci_set_power_state,
    pci_try_reset_function,
)
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio.pci import dmabuf, intrs
from uvfio.linux.vfio.pci.private import PCI_STD_NUM_BARS, VfioPciCoreDevice
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import (
    PCI_BASE_ADDRESS_0,
    PCI_CACHE_LINE_SIZE,
    PCI_CAP_ID_AF,
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_CAP_MSIX_SIZEOF,
    PCI_CAP_PM_SIZEOF,
    PCI_CAPABILITY_LIST,
    PCI_CFG_SPACE_EXP_SIZE,
    PCI_CFG_SPACE_SIZE,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MEMORY,
    PCI_EXP_DEVCAP,
    PCI_EXP_DEVCAP_FLR,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL_BCR_FLR,
    PCI_EXP_FLAGS,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_EXT_CAP_SRIOV_SIZEOF,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_MSI_ADDRESS_LO,
    PCI_MSI_DATA_32,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_64BIT,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSI_FLAGS_MASKBIT,
    PCI_MSI_FLAGS_QSIZE,
    PCI_PM_CTRL,
    PCI_PM_CTRL_STATE_MASK,
    PCI_PM_PMC,
    PCI_ROM_ADDRESS,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_VENDOR_ID,
)
from uvfio.uapi.vfio import VFIO_PCI_MSI_IRQ_INDEX

PCI_STD_HEADER_SIZEOF = 0x40
PCI_LATENCY_TIMER = 0x0D
PCI_BIST = 0x0F
PCI_PM_CAP_PME_MASK = 0xF800
PCI_COMMAND_DECODE = PCI_COMMAND_IO | PCI_COMMAND_MEMORY
PCI_PM_CTRL_PME = 0x8100  # enable and status
PCI_EXP_DEVCTL_VIRTUAL = 0xF0E0  # payload, read request size, function level reset
PCI_EXP_DEVCTL_PHANTOM = 0x0200
PCI_EXP_CAP_SIZES = {1: 0x14, 2: 0x3C}  # by version

PCI_EXT_CAP_ID_ERR = 1
PCI_EXT_CAP_ID_DSN = 3
PCI_ERR_UNCOR_BITS = 0x03FF_F031
PCI_ERR_COR_BITS = 0x0000_F1C1
# Offset in the AER capability -> bits the user may write.
PCI_ERR_WRITABLE = {
    0x04: PCI_ERR_UNCOR_BITS,  # status
    0x08: PCI_ERR_UNCOR_BITS,  # mask
    0x0C: PCI_ERR_UNCOR_BITS,  # severity
    0x10: PCI_ERR_COR_BITS,  # status
    0x14: PCI_ERR_COR_BITS,  # mask
    0x18: 0x140,  # ECRC generation and check
}
EXT_CAP_LENGTHS = {
    PCI_EXT_CAP_ID_ERR: 0x2C,
    PCI_EXT_CAP_ID_DSN: 12,
    PCI_EXT_CAP_ID_SRIOV: PCI_EXT_CAP_SRIOV_SIZEOF,
}


class _Permissions:
    """Fills ``virt`` and ``writable`` of a device; registers not named are read-only."""

    def __init__(self, core: VfioPciCoreDevice) -> None:
        self.core = core

    def claim(self, off: int, length: int) -> None:
        """A capability begins: nothing of it may be written unless set so."""
        self.core.writable[off : off + length] = bytes(length)

    def set(self, off: int, size: int, virt: int, writable: int) -> None:
        self.core.virt[off : off + size] = virt.to_bytes(size, "little")
        self.core.writable[off : off + size] = writable.to_bytes(size, "little")


def vfio_config_init(core: VfioPciCoreDevice) -> None:
    """The device opens: start from what it shows now."""
    config = core.pdev.config
    core.vconfig = bytearray(config.read_bytes(0, config.size))
    core.virt = bytearray(config.size)
    core.writable = bytearray(b"\xff" * config.size)
    core.caps = {}
    core.read_only = []
    permissions = _Permissions(core)
    vfio_fill_basic(permissions)
    if core.pdev.physfn is not None:
        vfio_fill_virtual(core, permissions)
    vfio_cap_init(core, permissions)
    if config.size == PCI_CFG_SPACE_EXP_SIZE:
        vfio_ecap_init(core, permissions)
    vfio_bar_fixup(core)


def vfio_fill_basic(permissions: _Permissions) -> None:
    everything = 0xFFFF_FFFF
    permissions.claim(0, PCI_STD_HEADER_SIZEOF)
    permissions.set(PCI_VENDOR_ID, 4, everything, 0)
    permissions.set(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE, 0xFFFF)
    permissions.set(PCI_STATUS, 2, PCI_STATUS_CAP_LIST, 0)
    for off in (PCI_CACHE_LINE_SIZE, PCI_LATENCY_TIMER, PCI_BIST):
        permissions.set(off, 1, 0, 0xFF)
    for bar in range(PCI_STD_NUM_BARS):
        permissions.set(PCI_BASE_ADDRESS_0 + 4 * bar, 4, everything, everything)
    permissions.set(PCI_ROM_ADDRESS, 4, everything, everything)
    permissions.set(PCI_CAPABILITY_LIST, 1, 0xFF, 0)
    permissions.set(PCI_INTERRUPT_LINE, 1, 0xFF, 0xFF)
    permissions.set(PCI_INTERRUPT_PIN, 1, 0xFF, 0)


def vfio_fill_virtual(core: VfioPciCoreDevice, permissions: _Permissions) -> None:
    """What hardware leaves out of a virtual function."""
    ids = core.pdev.vendor | core.pdev.device << 16
    core.vconfig[PCI_VENDOR_ID : PCI_VENDOR_ID + 4] = ids.to_bytes(4, "little")
    core.vconfig[PCI_COMMAND] |= PCI_COMMAND_MEMORY
    core.vconfig[PCI_INTERRUPT_PIN] = 0
    permissions.set(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE | PCI_COMMAND_MEMORY, 0xFFFF)


def vfio_cap_init(core: VfioPciCoreDevice, permissions: _Permissions) -> None:
    """Walk the capabilities; the user's list skips what is not known."""
    if not core.vconfig[PCI_STATUS] & PCI_STATUS_CAP_LIST:
        return
    link, at = PCI_CAPABILITY_LIST, core.vconfig[PCI_CAPABILITY_LIST] & ~3
    for _hop in range(48):
        if at < PCI_STD_HEADER_SIZEOF:
            break
        cap, following = core.vconfig[at], core.vconfig[at + 1] & ~3
        length = vfio_cap_len(core, cap, at)
        if length:
            core.vconfig[link] = at
            core.caps.setdefault(cap, at)
            permissions.claim(at, length)
            permissions.set(at + 1, 1, 0xFF, 0)
            vfio_fill_cap(core, permissions, cap, at)
            if cap == PCI_CAP_ID_MSIX:
                core.read_only.append(range(at, at + length))
            link = at + 1
        at = following
    core.vconfig[link] = 0


def vfio_cap_len(core: VfioPciCoreDevice, cap: int, at: int) -> int:
    """How long the capability is; 0: not known."""
    if cap == PCI_CAP_ID_MSI:
        flags = core.vconfig[at + PCI_MSI_FLAGS] | core.vconfig[at + PCI_MSI_FLAGS + 1] << 8
        return 10 + 4 * bool(flags & PCI_MSI_FLAGS_64BIT) + 10 * bool(flags & PCI_MSI_FLAGS_MASKBIT)
    if cap == PCI_CAP_ID_EXP:
        return PCI_EXP_CAP_SIZES.get(core.vconfig[at + PCI_EXP_FLAGS] & 0xF, 0)
    return {PCI_CAP_ID_PM: PCI_CAP_PM_SIZEOF, PCI_CAP_ID_MSIX: PCI_CAP_MSIX_SIZEOF, PCI_CAP_ID_AF: 6}.get(cap, 0)


def vfio_fill_cap(core: VfioPciCoreDevice, permissions: _Permissions, cap: int, at: int) -> None:
    if cap == PCI_CAP_ID_PM:
        # Power management events go to the host, so the user's function has none.
        core.vconfig[at + PCI_PM_PMC + 1] &= ~(PCI_PM_CAP_PME_MASK >> 8) & 0xFF
        permissions.set(at + PCI_PM_PMC, 2, PCI_PM_CAP_PME_MASK, 0)
        virtual = PCI_PM_CTRL_PME
        permissions.set(at + PCI_PM_CTRL, 4, virtual, 0xFFFF_FFFF & ~(virtual | PCI_PM_CTRL_STATE_MASK))
    elif cap == PCI_CAP_ID_MSI:
        flags = core.vconfig[at + PCI_MSI_FLAGS] | core.vconfig[at + PCI_MSI_FLAGS + 1] << 8
        data = PCI_MSI_DATA_64 if flags & PCI_MSI_FLAGS_64BIT else PCI_MSI_DATA_32
        permissions.set(at + PCI_MSI_FLAGS, 1, 0xFF, 0xFF)
        for register in range(PCI_MSI_ADDRESS_LO, data, 4):
            permissions.set(at + register, 4, 0xFFFF_FFFF, 0xFFFF_FFFF)
        permissions.set(at + data, 2, 0xFFFF, 0xFFFF)
        if flags & PCI_MSI_FLAGS_MASKBIT:
            permissions.set(at + data + 4, 4, 0xFFFF_FFFF, 0xFFFF_FFFF)
    elif cap == PCI_CAP_ID_EXP:
        permissions.set(at + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_VIRTUAL, 0xFFFF & ~PCI_EXP_DEVCTL_PHANTOM)


def vfio_ecap_init(core: VfioPciCoreDevice, permissions: _Permissions) -> None:
    """The same for extended capabilities, of which the first cannot be skipped but emptied."""
    previous, at = 0, PCI_CFG_SPACE_SIZE
    while at:
        header = int.from_bytes(core.vconfig[at : at + 4], "little")
        cap, following = header & 0xFFFF, header >> 20 & ~3
        length = EXT_CAP_LENGTHS.get(cap, 0) if header else 0
        if length:
            permissions.claim(at, length)
            permissions.set(at, 4, 0xFFFF_FFFF, 0)
            if previous:
                vfio_ecap_link(core, previous, at)
            if cap == PCI_EXT_CAP_ID_ERR:
                for off, bits in PCI_ERR_WRITABLE.items():
                    permissions.set(at + off, 4, 0, bits)
            else:
                core.read_only.append(range(at, at + length))
            previous = at
        elif at == PCI_CFG_SPACE_SIZE and header:
            permissions.claim(at, 4)
            permissions.set(at, 4, 0xFFFF_FFFF, 0)
            core.vconfig[at : at + 4] = bytes(4)
            previous = at
        at = following
    if previous:
        vfio_ecap_link(core, previous, 0)


def vfio_ecap_link(core: VfioPciCoreDevice, at: int, following: int) -> None:
    header = int.from_bytes(core.vconfig[at : at + 4], "little") & 0xF_FFFF | following << 20
    core.vconfig[at : at + 4] = header.to_bytes(4, "little")


def vfio_bar_fixup(core: VfioPciCoreDevice) -> None:
    """Make the virtual BARs read as BARs: sizes and kinds, whatever was written."""
    upper = False
    for index in range(PCI_STD_NUM_BARS):
        off = PCI_BASE_ADDRESS_0 + 4 * index
        bar = core.pdev.bars[index - 1 if upper else index]
        value = int.from_bytes(core.vconfig[off : off + 4], "little")
        if upper:
            value &= -bar.size >> 32
        elif bar.size:
            value = value & -bar.size & 0xFFFF_FFFF | bar.flags
        else:
            value = 0
        core.vconfig[off : off + 4] = (value & 0xFFFF_FFFF).to_bytes(4, "little")
        upper = not upper and bool(bar.size) and bar.kind == "mem64"
    core.vconfig[PCI_ROM_ADDRESS : PCI_ROM_ADDRESS + 4] = bytes(4)


def vfio_pci_memory_enabled(core: VfioPciCoreDevice) -> bool:
    """May the device be accessed at its memory BARs? As the user has said, whatever the device has now."""
    if not core.vconfig or pci_power_state(core.pdev) >= PCI_D3HOT:
        return False  # it has never been opened, or sleeps
    # A virtual function has no bit for it.
    return core.pdev.physfn is not None or bool(core.vconfig[PCI_COMMAND] & PCI_COMMAND_MEMORY)


def vfio_pci_config_rw(core: VfioPciCoreDevice, buf: int, count: int, pos: int, write: bool) -> int:
    """Errno EFAULT beyond the end: the rules of a file do not hold for registers."""
    if pos + count > core.pdev.config.size:
        raise Errno(EFAULT)
    done = 0
    while done < count:
        off = pos + done
        size = next(n for n in (4, 2, 1) if n <= count - done and off % n == 0)
        if not write:
            copy_to_user(buf + done, vfio_config_read(core, off, size).to_bytes(size, "little"))
        elif not any(off in registers for registers in core.read_only):
            vfio_config_write(core, off, size, int.from_bytes(copy_from_user(buf + done, size), "little"))
        done += size
    return count


def vfio_config_read(core: VfioPciCoreDevice, off: int, size: int) -> int:
    virt = int.from_bytes(core.virt[off : off + size], "little")
    value = int.from_bytes(core.vconfig[off : off + size], "little") & virt
    if virt != (1 << 8 * size) - 1:
        value |= core.pdev.config.read(off, size) & ~virt
    return value


def vfio_config_write(core: VfioPciCoreDevice, off: int, size: int, value: int) -> None:
    virt = int.from_bytes(core.virt[off : off + size], "little")
    writable = int.from_bytes(core.writable[off : off + size], "little")
    kept = int.from_bytes(core.vconfig[off : off + size], "little")
    kept = kept & ~(writable & virt) | value & writable & virt
    core.vconfig[off : off + size] = kept.to_bytes(size, "little")
    touches = range(off, off + size)
    if PCI_COMMAND in touches or PCI_COMMAND + 1 in touches:
        vfio_command_write(core, off, size, value)
    elif writable & ~virt:
        vfio_write_device(core, off, size, value, writable & ~virt)
    power = core.caps.get(PCI_CAP_ID_PM)
    if power is not None and off == power + PCI_PM_CTRL:
        vfio_pm_config_write(core, value & PCI_PM_CTRL_STATE_MASK)
    express = core.caps.get(PCI_CAP_ID_EXP)
    if express is not None and express + PCI_EXP_DEVCTL + 1 in touches:
        vfio_exp_config_write(core, express)
    if off < PCI_ROM_ADDRESS + 4 and off + size > PCI_BASE_ADDRESS_0:
        vfio_bar_fixup(core)
    msi = core.caps.get(PCI_CAP_ID_MSI)
    if msi is not None and msi + PCI_MSI_FLAGS in touches:
        vfio_msi_config_write(core, msi + PCI_MSI_FLAGS)


def vfio_write_device(core: VfioPciCoreDevice, off: int, size: int, value: int, bits: int) -> None:
    """Write the *bits* that are the device's and the user's; moving BARs out of reach is seen by all."""
    config = core.pdev.config
    with core.memory_lock.write():
        was = config.read(off, size)
        config.write(off, size, was & ~bits | value & bits)
        dmabuf.vfio_pci_dma_buf_move(core, not vfio_pci_memory_enabled(core))


def vfio_command_write(core: VfioPciCoreDevice, off: int, size: int, value: int) -> None:
    """COMMAND: DisINTx is the kernel's, everything else goes to the device; what decodes is also noted."""
    virt = int.from_bytes(core.virt[off : off + size], "little")
    writable = int.from_bytes(core.writable[off : off + size], "little")
    if off == PCI_COMMAND:
        core.vconfig[off] = core.vconfig[off] & ~PCI_COMMAND_DECODE | value & PCI_COMMAND_DECODE
    vfio_write_device(core, off, size, value, writable & ~virt)
    disabled = bool(core.vconfig[PCI_COMMAND + 1] & PCI_COMMAND_INTX_DISABLE >> 8)
    if disabled and not core.virq_disabled:
        core.virq_disabled = True
        intrs.vfio_pci_intx_mask(core)
    elif not disabled and core.virq_disabled:
        core.virq_disabled = False
        intrs.vfio_pci_intx_unmask(core)


def vfio_pm_config_write(core: VfioPciCoreDevice, state: int) -> None:
    """``vfio_lock_and_set_power_state()``."""
    with core.memory_lock.write():
        if state == PCI_D3HOT:
            dmabuf.vfio_pci_dma_buf_move(core, True)
        vfio_pci_set_power_state(core, state)
        dmabuf.vfio_pci_dma_buf_move(core, not vfio_pci_memory_enabled(core))


def vfio_pci_set_power_state(core: VfioPciCoreDevice, state: int) -> None:
    """
    Another power state. A function may lose its configuration on the way back to D0, so it
    gets that which it had when it went: what was written meanwhile is lost.
    """
    pdev = core.pdev
    was = pci_power_state(pdev)
    if was < PCI_D3HOT == state:
        pci_save_state(pdev)
        core.pm_save, pdev.state_saved = pdev.state_saved, None
    pci_set_power_state(pdev, state)
    if was == PCI_D3HOT and not pci_power_state(pdev):
        core.pm_save, pdev.state_saved = None, core.pm_save
        pci_restore_state(pdev)


def vfio_exp_config_write(core: VfioPciCoreDevice, express: int) -> None:
    """The reset bit of the device control register acts once, and reads as zero."""
    at = express + PCI_EXP_DEVCTL + 1
    asked = core.vconfig[at] & PCI_EXP_DEVCTL_BCR_FLR >> 8
    core.vconfig[at] &= ~(PCI_EXP_DEVCTL_BCR_FLR >> 8) & 0xFF
    if not asked or not core.pdev.config.read(express + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR:
        return
    with core.memory_lock.write():
        dmabuf.vfio_pci_dma_buf_move(core, True)
        try:
            pci_try_reset_function(core.pdev)
        except Errno:
            pass  # a register write has nobody to tell
        dmabuf.vfio_pci_dma_buf_move(core, not vfio_pci_memory_enabled(core))


def vfio_msi_config_write(core: VfioPciCoreDevice, at: int) -> None:
    """Only SET_IRQS enables MSI; what the user may still do is to switch it off and on."""
    flags = core.vconfig[at] | core.vconfig[at + 1] << 8
    if core.irq_type != VFIO_PCI_MSI_IRQ_INDEX:
        flags &= ~PCI_MSI_FLAGS_ENABLE
    if (flags & PCI_MSI_FLAGS_QSIZE) >> 4 > core.msi_qmax:
        flags = flags & ~PCI_MSI_FLAGS_QSIZE | core.msi_qmax << 4
    core.vconfig[at : at + 2] = flags.to_bytes(2, "little")
    core.pdev.config.write(at, 2, flags)


def vfio_pci_intx_probe(core: VfioPciCoreDevice) -> None:
    """The device opens: can its line be masked, and is it unmasked?"""
    core.pci_2_3 = pci_intx_mask_supported(core.pdev)
    if core.pci_2_3 and core.pdev.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE:
        pci_intx(core.pdev, True)
