# SPDX-License-Identifier: GPL-2.0-only
"""Groups, domains, ownership, sysfs and the translation of the IOMMU core."""

from __future__ import annotations

from errno import EACCES, EADDRINUSE, EBUSY, EINVAL, EPERM, ERANGE

import pytest
from iommu_machine import PG, A, B, Driver, Toy, VfioLike, dev, in_machine

from uvfio.linux.base import pci
from uvfio.linux.iommu import iommu, vtd
from uvfio.linux.iommu.private import IOMMU_READ, IOMMU_WRITE
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_link_target, kernfs_read, kernfs_write
from uvfio.linux.kernel.user import UserProcess
from uvfio.runtime.errors import Errno, Splat
from uvfio.runtime.task import current

RW = IOMMU_READ | IOMMU_WRITE


class Pages:
    """Pinned memory of nobody."""

    def __init__(self, length: int) -> None:
        self.data = bytearray(length)
        self.length = length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        self.data[offset : offset + len(data)] = data

    def phys(self, offset: int) -> int:
        return (1 << 30) + offset

    def contiguous(self, offset: int) -> int:
        return self.length - offset

    def unpin(self) -> None:
        return


def read(path: str) -> str:
    node = kernfs_find(path)
    assert node is not None, path
    return kernfs_read(node).decode()


def write(path: str, text: str) -> int:
    node = kernfs_find(path)
    assert node is not None, path
    try:
        kernfs_write(node, text.encode())
    except Errno as e:
        return e.number
    return 0


@in_machine
def test_each_slot_has_a_group_and_numbers_are_reused() -> None:
    assert [dev(bdf).iommu_group.id for bdf in (A, B)] == [0, 1]
    pci.pci_unplug(A)
    assert kernfs_find("/sys/kernel/iommu_groups/0") is None
    pci.pci_add_device(Toy(), A)
    assert dev(A).iommu_group.id == 0


@in_machine
def test_a_number_is_free_only_with_the_last_reference() -> None:
    group = iommu.iommu_group_get(dev(A))
    pci.pci_unplug(A)
    pci.pci_add_device(Toy(), A)
    assert dev(A).iommu_group.id == 2
    iommu.iommu_group_put(group)
    pci.pci_unplug(A)
    pci.pci_add_device(Toy(), A)
    assert dev(A).iommu_group.id == 0


@in_machine
def test_functions_of_a_slot_share_a_group() -> None:
    pci.pci_add_device(Toy(), "0000:00:01.1")
    assert dev("0000:00:01.1").iommu_group is dev(A).iommu_group


@in_machine
def test_sysfs_of_a_group() -> None:
    group = "/sys/kernel/iommu_groups/0"
    assert read(f"{group}/reserved_regions") == "0x00000000fee00000 0x00000000feefffff msi\n"
    assert read(f"{group}/type") == "DMA\n"
    assert kernfs_find(f"{group}/name") is None
    links = {
        f"{group}/devices/{A}": "../../../../devices/pci0000:00/0000:00:01.0",
        f"/sys/devices/pci0000:00/{A}/iommu_group": "../../../kernel/iommu_groups/0",
        f"/sys/devices/pci0000:00/{A}/iommu": "../../virtual/iommu/dmar0",
        "/sys/class/iommu/dmar0": "../../devices/virtual/iommu/dmar0",
        "/sys/devices/virtual/iommu/dmar0/subsystem": "../../../../class/iommu",
        f"/sys/devices/virtual/iommu/dmar0/devices/{A}": "../../../../pci0000:00/0000:00:01.0",
    }
    for path, target in links.items():
        node = kernfs_find(path)
        assert node is not None, path
        assert kernfs_link_target(node) == target
    assert read("/sys/devices/virtual/iommu/dmar0/intel-iommu/cap") == "d2008c22260286\n"


@in_machine
def test_writing_the_type() -> None:
    path = "/sys/kernel/iommu_groups/0/type"
    answers = [("foo", EINVAL, "DMA"), ("identity", 0, "identity"), ("auto", 0, "DMA"), ("DMA-FQ\n", 0, "DMA-FQ")]
    for word, error, shown in [*answers, ("DMA", 0, "DMA"), ("blocked", EINVAL, "DMA")]:
        assert (write(path, word), read(path)) == (error, f"{shown}\n")
    iommu.iommu_device_claim_dma_owner(dev(A), "me")
    owned = [("foo", EINVAL), ("auto", EPERM), ("identity", EPERM), ("DMA-FQ\n", 0)]
    assert [(word, write(path, word)) for word, _ in owned] == owned


@in_machine
def test_writing_the_type_needs_capabilities() -> None:
    process = UserProcess()
    process.capabilities = set()
    current().process = process
    assert write("/sys/kernel/iommu_groups/0/type", "DMA") == EACCES


@in_machine
def test_one_owner_of_a_group() -> None:
    group = dev(A).iommu_group
    iommu.iommu_group_claim_dma_owner(group, "first")
    for claim, what in ((iommu.iommu_group_claim_dma_owner, group), (iommu.iommu_device_claim_dma_owner, dev(A))):
        with pytest.raises(Errno) as e:
            claim(what, "second")
        assert e.value.number == EPERM
    assert group.domain is group.blocking_domain
    iommu.iommu_group_release_dma_owner(group)
    assert group.domain is group.default_domain
    with pytest.raises(Splat, match="nobody owns it"):
        iommu.iommu_group_release_dma_owner(group)


@in_machine
def test_devices_of_a_group_share_their_owner() -> None:
    pci.pci_add_device(Toy(), "0000:00:01.1")
    one, two = dev(A), dev("0000:00:01.1")
    iommu.iommu_device_claim_dma_owner(one, "me")
    iommu.iommu_device_claim_dma_owner(two, "me")
    iommu.iommu_device_release_dma_owner(one)
    assert iommu.iommu_group_dma_owner_claimed(one.iommu_group)
    iommu.iommu_device_release_dma_owner(two)
    assert not iommu.iommu_group_dma_owner_claimed(one.iommu_group)


@in_machine
def test_a_kernel_driver_and_a_user_exclude_each_other() -> None:
    pci.pci_register_driver(Driver())
    with pytest.raises(Errno) as e:
        iommu.iommu_group_claim_dma_owner(dev(A).iommu_group, "me")
    assert e.value.number == EPERM
    assert write("/sys/bus/pci/drivers/toy/unbind", A) == 0
    iommu.iommu_group_claim_dma_owner(dev(A).iommu_group, "me")
    assert write("/sys/bus/pci/drivers/toy/bind", A) == EBUSY
    iommu.iommu_group_release_dma_owner(dev(A).iommu_group)
    assert write("/sys/bus/pci/drivers/toy/bind", A) == 0


@in_machine
def test_a_driver_that_manages_dma_does_not_use_the_default_domain() -> None:
    pci.pci_register_driver(VfioLike())
    assert dev(A).driver is not None
    iommu.iommu_group_claim_dma_owner(dev(A).iommu_group, "me")


@in_machine
def test_attach_excludes_another_users_domain() -> None:
    group = dev(A).iommu_group
    first = iommu.iommu_paging_domain_alloc_flags(dev(A))
    second = iommu.iommu_paging_domain_alloc_flags(dev(A))
    iommu.iommu_attach_group(first, group)
    with pytest.raises(Errno) as e:
        iommu.iommu_attach_group(second, group)
    assert e.value.number == EBUSY
    with pytest.raises(Errno) as e:
        iommu.iommu_group_claim_dma_owner(group, "late")
    assert e.value.number == EBUSY
    iommu.iommu_detach_group(first, group)
    assert group.domain is group.default_domain


@in_machine
def test_a_device_that_leaves_while_owned_is_a_finding() -> None:
    iommu.iommu_group_claim_dma_owner(dev(A).iommu_group, "me")
    with pytest.raises(Splat, match="while it was owned"):
        pci.pci_unplug(A)


@in_machine
def test_dma_goes_through_the_domain() -> None:
    group, toy = dev(A).iommu_group, dev(A)
    domain = iommu.iommu_paging_domain_alloc_flags(toy)
    pages = Pages(4 * PG)
    domain.map(0x10000, pages, PG, PG, RW)
    domain.map(0x11000, pages, 3 * PG, PG, IOMMU_READ)
    iommu.iommu_attach_group(domain, group)
    toy.dma_write(0x10FFC, b"abcd")
    assert bytes(pages.data[2 * PG - 4 : 2 * PG]) == b"abcd"
    pages.data[3 * PG : 3 * PG + 2] = b"ef"
    assert toy.dma_read(0x10FFC, 6) == b"abcdef"


@in_machine
def test_faults_are_reported() -> None:
    group, toy = dev(A).iommu_group, dev(A)
    domain = iommu.iommu_paging_domain_alloc_flags(toy)
    domain.map(0x10000, Pages(PG), 0, PG, IOMMU_READ)
    iommu.iommu_group_claim_dma_owner(group, "me")
    for attached in (False, True):
        if attached:
            iommu.iommu_attach_group(domain, group)
        with pytest.raises(pci.DmaFault):
            toy.dma_write(0x10010, b"x")
    with pytest.raises(pci.DmaFault):
        toy.dma_read(0x10FFF, 2)
    faults = vtd.intel_iommu().faults
    assert [str(fault).removeprefix("DMAR: [DMA ") for fault in faults] == [
        f"Write NO_PASID] Request device [{A[5:]}] fault addr 0x10000 "
        "[fault reason 0x02] Present bit in context entry is clear",
        f"Write NO_PASID] Request device [{A[5:]}] fault addr 0x10000 [fault reason 0x05] PTE Write access is not set",
        f"Read NO_PASID] Request device [{A[5:]}] fault addr 0x11000 [fault reason 0x06] PTE Read access is not set",
    ]
    iommu.iommu_detach_group(domain, group)


@in_machine
def test_what_a_domain_refuses() -> None:
    domain = iommu.iommu_paging_domain_alloc_flags(dev(A))
    pages = Pages(4 * PG)
    domain.map(0x10000, pages, 0, 2 * PG, RW)
    refused = [
        (0x10001, 0, PG, RW, EINVAL),
        (0x20000, 1, PG, RW, EINVAL),
        (0x20000, 0, PG, 0, EINVAL),
        (0x11000, 0, PG, RW, EADDRINUSE),
        (1 << 39, 0, PG, RW, ERANGE),
    ]
    for iova, offset, length, prot, error in refused:
        with pytest.raises(Errno) as e:
            domain.map(iova, pages, offset, length, prot)
        assert e.value.number == error


@in_machine
def test_unmap_cuts_ranges() -> None:
    domain = iommu.iommu_paging_domain_alloc_flags(dev(A))
    pages = Pages(8 * PG)
    domain.map(0x10000, pages, 0, 8 * PG, RW)
    assert domain.unmap(0x12000, 2 * PG) == 2 * PG
    assert domain.walk(0x10000, 8 * PG, IOMMU_READ) == ([(pages, 0, 2 * PG)], 0x12000)
    assert domain.walk(0x14000, 4 * PG, IOMMU_READ) == ([(pages, 4 * PG, 4 * PG)], None)
    assert domain.unmap(0, 1 << 64) == 6 * PG
    assert len(domain.mappings) == 0


@in_machine
def test_a_large_transfer_is_few_pieces() -> None:
    domain = iommu.iommu_paging_domain_alloc_flags(dev(A))
    domain.map(0, Pages(64 << 20), 0, 64 << 20, RW)
    pieces, fault = domain.walk(0, 64 << 20, IOMMU_WRITE)
    assert (len(pieces), fault) == (1, None)
