# SPDX-License-Identifier: GPL-2.0-only
"""Dirty tracking through iommufd, on every IOMMU that has it."""

from __future__ import annotations

from errno import EOPNOTSUPP

import pytest
from vfio_user import PG, refusal
from viommu_user import MEMORY, Vmm, on
from x86_guest import function

from uvfio.uapi import iommufd as uapi


def track(vmm: Vmm, hwpt: int, enable: bool) -> None:
    vmm.ask(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommu_hwpt_set_dirty_tracking(hwpt_id=hwpt, flags=int(enable)))


def dirty(vmm: Vmm, hwpt: int, no_clear: bool = False) -> list[int]:
    """Which of the sixteen pages have been written to."""
    at = vmm.buffer(bytes(8))
    cmd = uapi.iommu_hwpt_get_dirty_bitmap(
        hwpt_id=hwpt, flags=int(no_clear), iova=MEMORY, length=16 * PG, page_size=PG, data=at
    )
    vmm.ask(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, cmd)
    bits = int.from_bytes(vmm.mm.read(at, 8), "little")
    return [page for page in range(64) if bits >> page & 1]


@pytest.mark.parametrize("iommu", ["vtd,dirty-tracking=on", "amd", "smmuv3"])
def test_pages_that_a_device_writes_to(iommu: str) -> None:
    def test(vmm: Vmm) -> None:
        vmm.map_memory()
        assert refusal(track, vmm, vmm.hwpt(vmm.dev, vmm.ioas), True) == EOPNOTSUPP
        hwpt = vmm.hwpt(vmm.dev, vmm.ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        vmm.attach(vmm.devices[0], hwpt)
        pdev = function()
        pdev.dma_write(MEMORY + 9 * PG, b"before")
        track(vmm, hwpt, True)
        assert dirty(vmm, hwpt) == []
        pdev.dma_read(MEMORY, 1)
        pdev.dma_write(MEMORY + 2 * PG - 1, b"two")
        pdev.dma_write(MEMORY + 15 * PG, b"last")
        assert dirty(vmm, hwpt, no_clear=True) == [1, 2, 15]
        assert dirty(vmm, hwpt) == [1, 2, 15]
        assert dirty(vmm, hwpt) == []
        track(vmm, hwpt, False)
        pdev.dma_write(MEMORY, b"x")
        assert dirty(vmm, hwpt) == ([0] if iommu == "smmuv3" else []), "an SMMU always tracks"

    on(iommu)(test)()
