# SPDX-License-Identifier: GPL-2.0-only
"""s390's PCI functions and their IOMMU: translation, firmware answers, unplug, errors, KVM."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, EIO, ENODEV
from typing import Any

import pytest
from vfio_user import EDU, VfioUser, refusal

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.linux.base.pci import pci_host, pci_set_master
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu import s390, zpci_insn
from uvfio.linux.iommu.zpci_insn import START_DMA, ZpciDev
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_read, kernfs_write
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.rcu import kfree_rcu, rcu_read
from uvfio.linux.s390 import kvm_pci, zpci
from uvfio.machine import Machine, Plugged, plug, unplug
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Errno, Splat
from uvfio.runtime.policy import Fifo
from uvfio.runtime.struct import is_freed, kstruct, kzalloc
from uvfio.runtime.task import current
from uvfio.scenarios.catalogue import SCENARIOS

PG = 4096


def on_s390(test: Callable[[], None]) -> Callable[[], None]:
    """Decorator: the test runs in a task of an s390 with one function."""

    def run() -> None:
        machine = Machine(iommu="s390")
        machine.boot([Plugged("edu")])
        machine.run(test)

    run.__name__ = test.__name__
    return run


def zdev() -> ZpciDev:
    return zpci.zpci_get(EDU)


def hardware() -> zpci_insn.ZpciFunction:
    return zpci_insn.zpci_function(zdev())


def attached() -> tuple[VfioUser, int, int]:
    """(user, container, group) with a page of 'A' mapped at START_DMA."""
    user = VfioUser()
    container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/0")
    user.set_container(group, container)
    user.set_iommu(container)
    page = user.mm.mmap(PG)
    user.mm.write(page, b"A" * PG)
    user.map_dma(container, page, START_DMA, PG)
    pci_set_master(pci_host().found[EDU])
    return user, container, group


def reads() -> bytes | str:
    """What the function gets from the page."""
    try:
        return pci_host().found[EDU].dma_read(START_DMA, 4)
    except DmaFault:
        return "fault"


@on_s390
def test_a_user_of_vfio_gets_dma_and_loses_it() -> None:
    user, container, group = attached()
    assert reads() == b"AAAA"
    assert user.unmap_dma(container, START_DMA, PG) == PG
    assert reads() == "fault"
    user.unset_container(group)
    assert zdev().s390_domain.type == "DMA"


@on_s390
def test_what_a_function_cannot_address_is_reserved() -> None:
    node = kernfs_find("/sys/kernel/iommu_groups/0/reserved_regions")
    assert node is not None
    assert kernfs_read(node) == (
        b"0x0000000000000000 0x00000000ffffffff reserved\n0x0000040000000000 0x001fffffffffffff reserved\n"
    )
    user, container, _group = attached()
    assert refusal(user.map_dma, container, user.mm.mmap(PG), START_DMA - PG, PG) == EINVAL


@on_s390
def test_the_class_lists_the_iommu() -> None:
    assert kernfs_find(f"/sys/devices/virtual/iommu/s390-iommu/devices/{EDU}") is not None


@on_s390
def test_a_table_cannot_be_registered_twice() -> None:
    attached()
    busy = (zpci_insn.ZPCI_CC_ERR, zpci_insn.ZPCI_PCI_ST_ALREADY_IN_RQ_STATE)
    assert zpci_insn.zpci_register_ioat(zdev(), "another") == busy
    with pytest.raises(Errno) as e:
        s390.reg_ioat_propagate_error(busy)
    assert e.value.number == EIO


@on_s390
def test_a_stale_handle_is_invalid() -> None:
    zdev().fh ^= 1
    assert zpci_insn.zpci_unregister_ioat(zdev())[0] == zpci_insn.ZPCI_CC_INVAL_HANDLE


@on_s390
def test_identity_has_neither_table_nor_counters() -> None:
    node = kernfs_find("/sys/kernel/iommu_groups/0/type")
    assert node is not None
    assert zpci.pci_perf_show(zdev()) == "Mapped pages: 0\nUnmapped pages: 0\n"
    kernfs_write(node, b"identity")
    assert hardware().iota == zpci_insn.IOTA_RTTO_FLAG
    assert zpci.pci_perf_show(zdev()) == ""
    kernfs_write(node, b"DMA")
    assert hardware().iota is zdev().s390_domain


@on_s390
def test_counters_count_pages() -> None:
    user, container, _group = attached()
    user.map_dma(container, user.mm.mmap(4 * PG), START_DMA + PG, 4 * PG)
    user.unmap_dma(container, START_DMA, PG)
    assert zpci.pci_perf_show(zdev()) == "Mapped pages: 5\nUnmapped pages: 1\n"


@on_s390
def test_after_a_surprise_removal_everything_still_answers() -> None:
    user, container, group = attached()
    hardware().surprise_removal()
    assert reads() == "fault"
    user.map_dma(container, user.mm.mmap(PG), START_DMA + PG, PG)  # only the table changes
    user.unset_container(group)
    assert refusal(zpci.reset_slot, zdev()) == EIO
    zpci.zpci_event_hard_deconfigured(zdev())
    assert EDU not in pci_host().found
    assert refusal(user.set_container, group, container) == ENODEV


@on_s390
def test_a_reset_ends_the_error_state_and_registers_again() -> None:
    hardware().enter_error_state()
    user, _container, group = attached()
    assert reads() == "fault"
    zpci.reset_slot(zdev())
    assert reads() == b"AAAA"
    user.unset_container(group)


@on_s390
def test_no_reset_while_the_function_changes_state() -> None:
    with zdev().state_lock:
        assert refusal(zpci.reset_slot, zdev()) == EIO


@on_s390
def test_kvm_takes_a_function_over_with_its_table() -> None:
    attached()
    table, handle = hardware().iota, hardware().handle
    kvm_pci.kvm_s390_pci_register_kvm(zdev(), "kvm")
    assert hardware().handle != handle
    assert hardware().iota is table
    assert refusal(kvm_pci.kvm_s390_pci_register_kvm, zdev(), "another") == EINVAL
    kvm_pci.kvm_s390_pci_unregister_kvm(zdev())
    assert reads() == b"AAAA"


@on_s390
def test_kvm_cannot_have_a_function_that_is_gone() -> None:
    hardware().surprise_removal()
    assert refusal(kvm_pci.kvm_s390_pci_register_kvm, zdev(), "kvm") == EIO
    assert zdev().kzdev is None


@on_s390
def test_an_unplugged_function_is_freed_and_its_group_number_used_again() -> None:
    user, _container, group = attached()
    gone, domain = zdev(), zdev().s390_domain
    unplug(EDU)
    assert is_freed(gone)
    assert is_freed(domain)
    user.close(group)
    plug(Plugged("edu"))
    assert user.open("/dev/vfio/0") >= 0


@on_s390
def test_a_function_is_deconfigured_once() -> None:
    function = zdev()
    zpci.disable_slot(function)
    assert refusal(zpci.disable_slot, function) == EIO
    zpci.zpci_device_reserved(function)
    assert is_freed(function)


@on_s390
def test_the_release_of_a_device_leaves_its_function_blocked() -> None:
    table = hardware().iota
    assert table is not None
    function = zdev()
    zpci.disable_slot(function)
    assert function.s390_domain.type == "blocked"
    assert is_freed(table)


@on_s390
def test_a_domain_must_not_be_freed_under_its_devices() -> None:
    domain = zdev().s390_domain
    with pytest.raises(Splat, match="freed while devices are attached"):
        s390.s390_domain_free(domain)


@on_s390
def test_a_table_must_not_be_freed_under_the_hardware() -> None:
    with pytest.raises(Splat, match="DMA through a table that is being freed"):
        zpci_insn.zpci_table_freed(hardware().iota)


@kstruct()
class Thing:
    """Something to free."""


@on_s390
def test_rcu_frees_when_the_last_earlier_reader_has_left() -> None:
    thing, other = kzalloc(Thing), kzalloc(Thing)
    with rcu_read():
        with rcu_read():
            kfree_rcu(thing)
        assert not is_freed(thing)
    assert is_freed(thing)
    kfree_rcu(other)
    assert is_freed(other)


def test_a_function_has_its_whims_at_every_instruction() -> None:
    seen = set()
    for whim in range(3):

        class Moody(Fifo):
            def pick(self, n: int, whim: int = whim) -> int:
                assert n == 3
                return whim

        runtime = ControlledRuntime(Moody())
        machine: Any = type("M", (), {"statics": {}})
        runtime.machine = machine
        function = zpci_insn.ZpciFunction("f")
        function.whims = ("gone", "error")
        runtime.quiet = False
        task = runtime.spawn(lambda function=function: function.execute("rpcit", 1), "A")
        runtime.run()
        seen.add(task.result)
    assert seen == {None, (zpci_insn.ZPCI_CC_INVAL_HANDLE, 0), (1, zpci_insn.ZPCI_PCI_ST_FUNC_NOT_AVAIL)}


@pytest.mark.parametrize(
    ("name", "lock", "kind"),
    [
        ("s390.set_container_vs_identity", "iommu_group.mutex", "wrong-table"),
        ("s390.two_attaches", "s390_domain.list_lock", "stale-translation"),
        ("s390.counters_vs_detach", "zpci_dev.dom_lock", "use-after-free"),
        ("s390.pulled_vs_unset_container", "vfio_group.group_lock", "warning"),
    ],
)
def test_without_its_lock_it_is_found(name: str, lock: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Mutex, Spinlock):
        take_out(monkeypatch, cls, lock)
    finding = explore(SCENARIOS[name].program, Dpor()).finding
    assert finding is not None
    assert finding.kind == kind
    assert finding.schedule


def take_out(monkeypatch: pytest.MonkeyPatch, cls: Any, name: str) -> None:
    """From here on, the lock *name* lets everybody in; lockdep still believes in it."""
    lock, unlock = cls.lock, cls.unlock
    monkeypatch.setattr(cls, "lock", lambda m: current().held.append(m) if m.name == name else lock(m))
    monkeypatch.setattr(cls, "unlock", lambda m: current().held.remove(m) if m.name == name else unlock(m))
