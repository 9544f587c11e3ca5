# SPDX-License-Identifier: GPL-2.0-only
"""The PCI core's door: what other rooms use of ``pci_*.py``, by name."""

from uvfio.linux.base.pci_bus import PciBus as PciBus
from uvfio.linux.base.pci_bus import pci_is_root_bus as pci_is_root_bus
from uvfio.linux.base.pci_bus import pci_walk_bus as pci_walk_bus
from uvfio.linux.base.pci_dev import PCI_D0 as PCI_D0
from uvfio.linux.base.pci_dev import PCI_D3HOT as PCI_D3HOT
from uvfio.linux.base.pci_dev import DmaFault as DmaFault
from uvfio.linux.base.pci_dev import PciDev as PciDev
from uvfio.linux.base.pci_dev import PciModel as PciModel
from uvfio.linux.base.pci_dev import parse_bdf as parse_bdf
from uvfio.linux.base.pci_dev import pci_clear_master as pci_clear_master
from uvfio.linux.base.pci_dev import pci_find_capability as pci_find_capability
from uvfio.linux.base.pci_dev import pci_find_ext_capability as pci_find_ext_capability
from uvfio.linux.base.pci_dev import pci_pcie_type as pci_pcie_type
from uvfio.linux.base.pci_dev import pci_power_state as pci_power_state
from uvfio.linux.base.pci_dev import pci_set_master as pci_set_master
from uvfio.linux.base.pci_dev import pci_set_power_state as pci_set_power_state
from uvfio.linux.base.pci_driver import PCI_ANY_ID as PCI_ANY_ID
from uvfio.linux.base.pci_driver import PciBusType as PciBusType
from uvfio.linux.base.pci_driver import PciDeviceId as PciDeviceId
from uvfio.linux.base.pci_driver import PciDriver as PciDriver
from uvfio.linux.base.pci_driver import pci_bus_type as pci_bus_type
from uvfio.linux.base.pci_driver import pci_match_device as pci_match_device
from uvfio.linux.base.pci_driver import pci_register_driver as pci_register_driver
from uvfio.linux.base.pci_driver import pci_unregister_driver as pci_unregister_driver
from uvfio.linux.base.pci_iov import pci_disable_sriov as pci_disable_sriov
from uvfio.linux.base.pci_iov import pci_enable_sriov as pci_enable_sriov
from uvfio.linux.base.pci_iov import pci_num_vf as pci_num_vf
from uvfio.linux.base.pci_irq import disable_irq as disable_irq
from uvfio.linux.base.pci_irq import enable_irq as enable_irq
from uvfio.linux.base.pci_irq import pci_alloc_irq_vectors as pci_alloc_irq_vectors
from uvfio.linux.base.pci_irq import pci_check_and_mask_intx as pci_check_and_mask_intx
from uvfio.linux.base.pci_irq import pci_check_and_unmask_intx as pci_check_and_unmask_intx
from uvfio.linux.base.pci_irq import pci_free_irq as pci_free_irq
from uvfio.linux.base.pci_irq import pci_free_irq_vectors as pci_free_irq_vectors
from uvfio.linux.base.pci_irq import pci_intx as pci_intx
from uvfio.linux.base.pci_irq import pci_intx_mask_supported as pci_intx_mask_supported
from uvfio.linux.base.pci_irq import pci_irq_vectors as pci_irq_vectors
from uvfio.linux.base.pci_irq import pci_request_irq as pci_request_irq
from uvfio.linux.base.pci_probe import PciHost as PciHost
from uvfio.linux.base.pci_probe import pci_add_device as pci_add_device
from uvfio.linux.base.pci_probe import pci_add_devices as pci_add_devices
from uvfio.linux.base.pci_probe import pci_host as pci_host
from uvfio.linux.base.pci_probe import pci_init as pci_init
from uvfio.linux.base.pci_probe import pci_rescan_bus as pci_rescan_bus
from uvfio.linux.base.pci_probe import pci_stop_and_remove_bus_device as pci_stop_and_remove_bus_device
from uvfio.linux.base.pci_probe import (
    pci_stop_and_remove_bus_device_locked as pci_stop_and_remove_bus_device_locked,
)
from uvfio.linux.base.pci_probe import pci_unplug as pci_unplug
from uvfio.linux.base.pci_reset import pci_disable_device as pci_disable_device
from uvfio.linux.base.pci_reset import pci_enable_device as pci_enable_device
from uvfio.linux.base.pci_reset import pci_probe_reset_bus as pci_probe_reset_bus
from uvfio.linux.base.pci_reset import pci_reset_bus as pci_reset_bus
from uvfio.linux.base.pci_reset import pci_reset_function as pci_reset_function
from uvfio.linux.base.pci_reset import pci_restore_state as pci_restore_state
from uvfio.linux.base.pci_reset import pci_save_state as pci_save_state
from uvfio.linux.base.pci_reset import pci_try_reset_function as pci_try_reset_function
