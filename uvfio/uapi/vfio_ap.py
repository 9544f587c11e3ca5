# SPDX-License-Identifier: GPL-2.0-only
"""What ``<linux/vfio.h>`` says of vfio-ap devices."""

VFIO_DEVICE_FLAGS_AP = 1 << 5
VFIO_AP_REQ_IRQ_INDEX = 0
VFIO_AP_CFG_CHG_IRQ_INDEX = 1
VFIO_AP_NUM_IRQS = 2
