# SPDX-License-Identifier: GPL-2.0-only
"""Containers and type1: mappings that devices see, accounting, groups that share."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EBUSY, EEXIST, EFAULT, EINVAL, ENOMEM, ENOSPC

import pytest
from vfio_user import PG, VfioUser, booted, refusal

from uvfio.linux.base.pci import DmaFault, PciDev, pci_host, pci_set_master
from uvfio.linux.iommu.private import IOMMU_DOMAIN_UNMANAGED
from uvfio.uapi.vfio import (
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_VADDR,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_GET_INFO,
    VFIO_TYPE1_IOMMU,
)

IOVA = 0x10_0000


def edu() -> PciDev:
    pdev = pci_host().found["0000:00:01.0"]
    pci_set_master(pdev)
    return pdev


def in_container(test: Callable[[VfioUser, int, int], None], *models: str) -> None:
    """Run *test(user, container, group)* with group 1 in a type1 v2 container."""

    def run() -> None:
        user = VfioUser()
        container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
        user.set_container(group, container)
        user.set_iommu(container)
        test(user, container, group)
        user.exit()
        assert user.mm.locked_vm == 0

    booted(*models).run(run)


def test_a_device_reaches_what_is_mapped_and_nothing_else() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(2 * PG)
        user.mm.write(memory, b"hello")
        user.map_dma(container, memory, IOVA, 2 * PG)
        assert user.mm.locked_vm == 2
        assert edu().dma_read(IOVA, 5) == b"hello"
        edu().dma_write(IOVA + PG - 2, b"across")
        assert user.mm.read(memory + PG - 2, 6) == b"across"
        with pytest.raises(DmaFault):
            edu().dma_read(IOVA + 2 * PG - 2, 4)
        assert user.unmap_dma(container, IOVA, 2 * PG) == 2 * PG
        with pytest.raises(DmaFault):
            edu().dma_read(IOVA, 5)
        assert user.mm.locked_vm == 0

    in_container(test)


def test_a_read_only_mapping_cannot_be_written() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        user.map_dma(container, user.mm.mmap(PG), IOVA, PG, VFIO_DMA_MAP_FLAG_READ)
        edu().dma_read(IOVA, 8)
        with pytest.raises(DmaFault):
            edu().dma_write(IOVA, b"no")

    in_container(test)


def test_the_locked_memory_limit_refuses_and_forgets() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        user.mm.limit = 3
        memory = user.mm.mmap(4 * PG)
        assert refusal(user.map_dma, container, memory, IOVA, 4 * PG) == ENOMEM
        assert user.mm.locked_vm == 0
        user.map_dma(container, memory, IOVA, 3 * PG)
        assert refusal(user.map_dma, container, memory, 2 * IOVA, PG) == ENOMEM

    in_container(test)


def test_a_mapping_over_a_hole_leaves_nothing() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(PG)
        assert refusal(user.map_dma, container, memory, IOVA, 2 * PG) == EFAULT
        user.map_dma(container, memory, IOVA, PG)
        assert user.mm.locked_vm == 1

    in_container(test)


def test_unmap_all_takes_everything() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(PG)
        for iova in (0, IOVA, 0x7F_FFFF_F000):
            user.map_dma(container, memory, iova, PG)
        assert user.unmap_dma(container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL) == 3 * PG
        assert user.unmap_dma(container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL) == 0

    in_container(test)


def test_v1_takes_whole_mappings_and_only_those_that_start_inside() -> None:
    def run() -> None:
        user = VfioUser()
        container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
        user.set_container(group, container)
        user.set_iommu(container, VFIO_TYPE1_IOMMU)
        memory = user.mm.mmap(4 * PG)
        user.map_dma(container, memory, IOVA, 2 * PG)
        user.map_dma(container, memory, IOVA + 2 * PG, 2 * PG)
        assert user.unmap_dma(container, IOVA + PG, 2 * PG) == 2 * PG
        assert refusal(user.map_dma, container, memory, IOVA, PG) == EEXIST
        user.map_dma(container, memory, IOVA + 2 * PG, PG)

    booted().run(run)


def test_an_invalidated_mapping_still_serves_its_device() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(PG)
        user.mm.write(memory, b"kept")
        user.map_dma(container, memory, IOVA, PG)
        assert user.unmap_dma(container, IOVA, PG, VFIO_DMA_UNMAP_FLAG_VADDR) == PG
        assert edu().dma_read(IOVA, 4) == b"kept"
        user.map_dma(container, memory, IOVA, PG, VFIO_DMA_MAP_FLAG_VADDR)
        assert refusal(user.map_dma, container, memory, IOVA, PG, VFIO_DMA_MAP_FLAG_VADDR) == EINVAL

    in_container(test)


def test_the_number_of_mappings_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvfio.linux.vfio.type1_dma.DMA_ENTRY_LIMIT", 3)

    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(PG)
        for n in range(3):
            user.map_dma(container, memory, n * PG, PG)
        assert refusal(user.map_dma, container, memory, 3 * PG, PG) == ENOSPC

    in_container(test)


def test_a_second_group_sees_what_was_mapped_before_it_came() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(PG)
        user.map_dma(container, memory, IOVA, PG)
        second = user.open("/dev/vfio/2")
        user.set_container(second, container)
        other = pci_host().found["0000:00:02.0"]
        pci_set_master(other)
        other.dma_write(IOVA, b"shared")
        assert user.mm.read(memory, 6) == b"shared"
        user.unset_container(group)
        other.dma_read(IOVA, 6)
        user.unset_container(second)
        with pytest.raises(DmaFault):
            other.dma_read(IOVA, 6)
        assert user.mm.locked_vm == 0

    in_container(test, "edu", "edu")


def test_the_last_group_gives_the_device_back_to_its_default_domain() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        assert edu().iommu_group.domain.type == IOMMU_DOMAIN_UNMANAGED
        device = user.get_device(group)
        assert refusal(user.unset_container, group) == EBUSY
        user.close(device)
        user.unset_container(group)
        assert edu().iommu_group.domain is edu().iommu_group.default_domain
        assert not edu().iommu_group.owner_cnt

    in_container(test)


def test_dirty_bits_of_neighbours_in_one_word() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        memory = user.mm.mmap(8 * PG)
        user.map_dma(container, memory, IOVA, 2 * PG)
        user.map_dma(container, memory, IOVA + 5 * PG, 3 * PG)
        flags = struct.pack("<II", 8, VFIO_IOMMU_DIRTY_PAGES_FLAG_START)
        user.call(container, VFIO_IOMMU_DIRTY_PAGES, flags)
        bitmap = user.mm.mmap(PG)
        asked = struct.pack("<IIQQQQQ", 48, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, IOVA, 8 * PG, PG, 8, bitmap)
        user.call(container, VFIO_IOMMU_DIRTY_PAGES, asked)
        assert user.mm.read(bitmap, 8) == bytes([0b11100011, 0, 0, 0, 0, 0, 0, 0])

    in_container(test)


def test_info_says_what_may_be_mapped() -> None:
    def test(user: VfioUser, container: int, group: int) -> None:
        short = user.call(container, VFIO_IOMMU_GET_INFO, struct.pack("<IIQII", 24, 0, 0, 0, 0))
        assert struct.unpack("<IIQII", short) == (120, 3, 0x40201000, 0, 0)
        full = user.call(container, VFIO_IOMMU_GET_INFO, struct.pack("<IIQII", 120, 0, 0, 0, 0).ljust(120, b"\0"))
        assert struct.unpack_from("<I", full, 16) == (24,)
        assert struct.unpack_from("<HHI", full, 72) == (1, 1, 0)
        assert struct.unpack_from("<I4x4Q", full, 80) == (2, 0, 0xFEDFFFFF, 0xFEF00000, 0x7FFFFFFFFF)

    in_container(test)
