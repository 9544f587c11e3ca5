# SPDX-License-Identifier: GPL-2.0-only
"""
The selftest's mock devices, their bus and their IOMMU.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Differences from Linux:

* a mock device does no DMA, so nothing ever walks a mock page table on its behalf;
* the default domain of a group is one more blocked domain, not the static one;
* in sysfs the IOMMU is a virtual device, not a platform device, and mock devices have no
  ``software_node``.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP
from typing import Any

from uvfio.linux.base.bus import bus_register
from uvfio.linux.base.core import device_add, device_unregister, put_device
from uvfio.linux.base.private import BusType, Device
from uvfio.linux.iommu import io_pgfault, iommu, sysfs
from uvfio.linux.iommu.iommufd import IommufdViommu, iommufd_viommu_get_vdev_id
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_DOMAIN_BLOCKED,
    DevIommu,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    IommuOps,
)
from uvfio.linux.iommufd import selftest_domain, selftest_viommu
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.xarray import Ida
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import IOMMU_HW_INFO_TYPE_DEFAULT
from uvfio.uapi.iommufd_test import (
    IOMMU_HW_INFO_SELFTEST_REGVAL,
    IOMMU_HW_INFO_TYPE_SELFTEST,
    IOMMU_TEST_DEV_CACHE_DEFAULT,
    IOMMU_TEST_PASID_RESERVED,
    IOMMU_VIOMMU_TYPE_SELFTEST,
    MOCK_DEV_CACHE_NUM,
    MOCK_FLAGS_DEVICE_NO_DIRTY,
    MOCK_FLAGS_DEVICE_PASID,
    MOCK_PASID_WIDTH,
    iommu_test_hw_info,
)


@kstruct("viommu", "vdev_id", "pasid_1024_fake_error", "iopf_refcount")
class MockDev(Device):
    """``struct mock_dev``."""

    def __init__(self, id: int, flags: int) -> None:
        super().__init__(f"iommufd_mock{id}")
        self.id = id
        self.flags = flags
        self.release = mock_dev_release
        self.has_fwnode = True  # that says how many PASIDs it has
        self.cache = [IOMMU_TEST_DEV_CACHE_DEFAULT] * MOCK_DEV_CACHE_NUM
        self.viommu_rwsem = RwSemaphore("mock_dev.viommu_rwsem")
        self.viommu: IommufdViommu | None = None  # viommu_rwsem; what it is attached through
        self.vdev_id = 0  # viommu_rwsem
        self.pasid_1024_fake_error = False  # iommu_group.mutex
        self.iopf_refcount = 0  # iommu_group.mutex; domains with a fault handler


class MockBus:
    """Statics of ``selftest.c``."""

    def __init__(self) -> None:
        self.bus_type = BusType("iommufd_mock")
        self.dev_ida = Ida("mock_dev_ida")
        self.iommu = IommuDevice("iommufd_selftest_iommu.0", MockIommuOps())
        self.iommu.max_pasids = 1 << MOCK_PASID_WIDTH
        self.iopf_queue = io_pgfault.IopfQueue("mock-iopfq")


mock_bus = per_machine(MockBus)


def iommufd_test_init() -> None:
    """Bring up the mock bus, with an IOMMU in front of it."""
    mock = mock_bus()
    bus_register(mock.bus_type)
    sysfs.iommu_device_sysfs_add(mock.iommu, [])
    iommu.iommu_device_register_bus(mock.iommu, mock.bus_type)


def mock_dev_create(dev_flags: int) -> MockDev:
    """A new device in a group of its own. Errno EINVAL unknown flags."""
    if dev_flags & ~(MOCK_FLAGS_DEVICE_NO_DIRTY | MOCK_FLAGS_DEVICE_PASID):
        raise Errno(EINVAL)
    mock = mock_bus()
    mdev = kzalloc(MockDev, mock.dev_ida.alloc(), dev_flags)
    mdev.bus = mock.bus_type
    try:
        device_add(mdev)
    except Errno:
        put_device(mdev)
        raise
    return mdev


def mock_dev_destroy(mdev: MockDev) -> None:
    device_unregister(mdev)


def mock_dev_release(mdev: MockDev) -> None:
    mock_bus().dev_ida.free(mdev.id)
    kfree(mdev)


def iommufd_selftest_is_mock_dev(dev: Any) -> bool:
    return isinstance(dev, MockDev)


class MockIommuOps(IommuOps):
    """``mock_ops``, and the ``attach_dev`` and ``set_dev_pasid`` that all mock domains have in common."""

    isolated_msi = True
    user_pasid_table = True

    def capable(self, dev: Any, cap: str) -> bool:
        if cap == IOMMU_CAP_DIRTY_TRACKING:
            return not dev.flags & MOCK_FLAGS_DEVICE_NO_DIRTY
        return cap == IOMMU_CAP_CACHE_COHERENCY

    def probe_device(self, dev: Any) -> IommuDevice:
        if not isinstance(dev, MockDev):
            raise Errno(ENODEV)
        return mock_bus().iommu

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        found = kzalloc(DevIommu, dev)
        found.max_pasids = 1 << (MOCK_PASID_WIDTH if dev.flags & MOCK_FLAGS_DEVICE_PASID else 0)
        return found

    def device_group(self, dev: Any) -> IommuGroup:
        return iommu.iommu_group_alloc()

    def hw_info(self, dev: Any, type: int) -> tuple[int, bytes]:
        if type not in (IOMMU_HW_INFO_TYPE_DEFAULT, IOMMU_HW_INFO_TYPE_SELFTEST):
            raise Errno(EOPNOTSUPP)
        return IOMMU_HW_INFO_TYPE_SELFTEST, iommu_test_hw_info(test_reg=IOMMU_HW_INFO_SELFTEST_REGVAL).pack()

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        return IommuDomain(self, IOMMU_DOMAIN_BLOCKED)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        return selftest_domain.mock_domain_alloc_paging_flags(self, dev, flags, user_data)

    def domain_alloc_nested(self, dev: Any, parent: IommuDomain, flags: int, user_data: Any) -> IommuDomain:
        return selftest_domain.mock_domain_alloc_nested(self, parent, flags, user_data)

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        """
        Errno EINVAL *domain* tracks dirty pages and *dev* cannot; ENOENT it is a guest's,
        who does not know *dev*.
        """
        if domain.dirty_tracking and dev.flags & MOCK_FLAGS_DEVICE_NO_DIRTY:
            raise Errno(EINVAL)
        viommu = domain.mock_viommu if isinstance(domain, selftest_domain.MockIommuDomainNested) else None
        vdev_id = 0
        if viommu is not None:
            vdev_id = iommufd_viommu_get_vdev_id(viommu, dev)
        if viommu is not dev.viommu:
            with dev.viommu_rwsem.write():
                dev.viommu = viommu
                dev.vdev_id = vdev_id
        _mock_dev_iopf(dev, domain, dev.iommu.domain)
        dev.iommu.domain = domain

    def set_dev_pasid(self, domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
        """Errno ENOMEM for the one pasid for which every other call is to fail."""
        if pasid == IOMMU_TEST_PASID_RESERVED:
            dev.pasid_1024_fake_error = not dev.pasid_1024_fake_error
            if not dev.pasid_1024_fake_error:
                raise Errno(ENOMEM)
        _mock_dev_iopf(dev, domain, old)

    def remove_dev_pasid(self, dev: Any, pasid: int, old: IommuDomain) -> None:
        if pasid == IOMMU_TEST_PASID_RESERVED:
            dev.pasid_1024_fake_error = False
        _mock_dev_iopf(dev, None, old)

    def page_response(self, dev: Any, fault: Any, response: Any) -> None:
        """The mock device does not mind what becomes of its fault."""

    def get_viommu_struct(self, dev: Any, type: int) -> Any:
        if type != IOMMU_VIOMMU_TYPE_SELFTEST:
            raise Errno(EOPNOTSUPP)
        return selftest_viommu.MockViommu

    def viommu_init(self, viommu: Any, parent: IommuDomain | None, user_data: Any) -> None:
        selftest_viommu.mock_viommu_init(viommu, parent, user_data)


def mock_dev_viommu_id(mdev: MockDev) -> tuple[IommufdViommu, int]:
    """What *mdev* is attached through, and what its guest calls it. Errno ENOENT; ``viommu_rwsem`` is held."""
    if mdev.viommu is None or not mdev.vdev_id:
        raise Errno(ENOENT)
    return mdev.viommu, mdev.vdev_id


def _mock_dev_iopf(mdev: MockDev, new: IommuDomain | None, old: IommuDomain | None) -> None:
    """``mock_dev_enable_iopf()`` for *new*, then ``mock_dev_disable_iopf()`` for *old*."""
    queue = mock_bus().iopf_queue
    if new is not None and new.iopf_handler is not None:
        if not mdev.iopf_refcount:
            io_pgfault.iopf_queue_add_device(queue, mdev)
        mdev.iopf_refcount += 1
    if old is not None and old.iopf_handler is not None:
        mdev.iopf_refcount -= 1
        if not mdev.iopf_refcount:
            io_pgfault.iopf_queue_remove_device(queue, mdev)
