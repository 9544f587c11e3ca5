# SPDX-License-Identifier: GPL-2.0-only
"""
Virtual IOMMUs. Mirrors ``drivers/iommu/iommufd/viommu.c``.

Difference from Linux: no IOMMU driver here has any, as Intel's has none in Linux, so
every attempt to make one is refused.
"""

from errno import EOPNOTSUPP

from uvfio.linux.iommufd import objects
from uvfio.linux.iommufd.private import IOMMUFD_OBJ_DEVICE, IommufdUcmd
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd import IOMMU_VIOMMU_TYPE_DEFAULT


def iommufd_viommu_alloc_ioctl(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags or cmd.type == IOMMU_VIOMMU_TYPE_DEFAULT:
        raise Errno(EOPNOTSUPP)
    idev = objects.iommufd_get_object(ucmd.ictx, cmd.dev_id, IOMMUFD_OBJ_DEVICE)
    objects.iommufd_put_object(ucmd.ictx, idev)
    raise Errno(EOPNOTSUPP, "this IOMMU has no virtual IOMMUs")
