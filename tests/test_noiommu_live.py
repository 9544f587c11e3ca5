# SPDX-License-Identifier: GPL-2.0-only
"""A program that uses a device without an IOMMU."""

import sys

import pytest
from clients_build import CLIENTS, uvfio_run

pytestmark = pytest.mark.live

# Physical addresses are long: by itself it puts 28 bits of them on the bus.
EDU = ("edu,dma_mask=0xffffffffffffffff",)
SEEN = """\
['devices', 'noiommu-0', 'vfio'] ['noiommu-vfio0']
Y
vfio-noiommu
physical
[1, 1, 1]
"""


def test_dma_by_physical_address() -> None:
    run = uvfio_run([sys.executable, CLIENTS / "noiommu.py"], EDU, extra=("--iommu", "none,unsafe-noiommu-mode=on"))
    assert run.stderr == ""
    assert run.stdout == SEEN
