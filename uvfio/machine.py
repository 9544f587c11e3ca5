# SPDX-License-Identifier: GPL-2.0-only
"""
One modelled computer: topology in, rooms wired together, all statics.

``Machine()`` is an empty computer whose kernel has not started; :meth:`Machine.boot`
initialises the rooms in Linux's order, and :meth:`Machine.plug` puts a device into a
slot and binds it as asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from errno import ENODEV
from types import MappingProxyType
from typing import Any, TypeVar

from uvfio.devices.host_bridge import HostBridge
from uvfio.devices.mdev import mdev_parents
from uvfio.devices.registry import PARENTS, make_parent
from uvfio.linux.base import pci_probe
from uvfio.linux.base.pci_dev import PciDev
from uvfio.linux.base.pcie_port import pcie_portdrv_init
from uvfio.linux.iommu.amd import AmdOptions, amd_iommu_init
from uvfio.linux.iommu.smmuv3 import SmmuOptions, arm_smmu_init
from uvfio.linux.iommu.vtd import iommu_init
from uvfio.linux.iommu.vtd_hw import VtdOptions
from uvfio.linux.iommufd.main import iommufd_init
from uvfio.linux.kernel.kernfs import KernfsRoot, kernfs_destroy_root, kernfs_find, kernfs_write
from uvfio.linux.kvm.main import kvm_init
from uvfio.linux.mdev.core import mdev_init
from uvfio.linux.s390 import zpci
from uvfio.linux.vfio.main import vfio_init
from uvfio.linux.vfio.private import vfio
from uvfio.runtime.errors import Errno
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.runtime import Runtime
from uvfio.runtime.task import current
from uvfio.topology import DEFAULT_DRIVER as DEFAULT_DRIVER
from uvfio.topology import Plugged as Plugged
from uvfio.topology import place

T = TypeVar("T")


@dataclass(frozen=True)
class Platform:
    """
    What stands between PCI devices and memory, and how a device is taken away there.
    *init* gets an *options*, a dataclass of booleans and numbers that may all be left out.
    """

    init: Callable[[Any], None]
    unplug: Callable[[str], None]
    options: type[Any] | None = None
    host_bridge: bool = True  # itself a PCI function


@dataclass(frozen=True)
class NoIommuOptions:
    """May devices that nothing keeps in check be used all the same?"""

    unsafe_noiommu_mode: bool = False


def _no_iommu(options: NoIommuOptions | None) -> None:
    vfio().noiommu = options is not None and options.unsafe_noiommu_mode


PLATFORMS = MappingProxyType(
    {
        "vtd": Platform(iommu_init, pci_probe.pci_unplug, VtdOptions),
        "amd": Platform(amd_iommu_init, pci_probe.pci_unplug, AmdOptions),
        "smmuv3": Platform(arm_smmu_init, pci_probe.pci_unplug, SmmuOptions),
        "none": Platform(_no_iommu, pci_probe.pci_unplug, NoIommuOptions),
        "s390": Platform(lambda _: zpci.zpci_init(), zpci.zpci_unplug, host_bridge=False),
    }
)


def parse_iommu(text: str) -> tuple[Platform, Any]:
    """
    ``NAME[,key=value...]``: the platform and its options. ValueError says what must be.

    >>> parse_iommu("vtd,nesting=on,aw-bits=48")[1].nesting
    True
    """
    name, *settings = text.split(",")
    if name not in PLATFORMS:
        raise ValueError(f"the iommu must be one of {', '.join(sorted(PLATFORMS))}, not {name!r}")
    platform = PLATFORMS[name]
    known = {} if platform.options is None else {each.name.replace("_", "-"): each for each in fields(platform.options)}
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            raise ValueError(f"an option of {name} must be one of {', '.join(known) or 'none'}, not {key!r}")
        values[known[key].name] = _option(key, value, "bool" in str(known[key].type))
    return platform, platform.options(**values) if platform.options is not None else None


def _option(key: str, value: str, switch: bool) -> bool | int:
    if switch:
        if value not in ("on", "off"):
            raise ValueError(f"{key} must be on or off, not {value!r}")
        return value == "on"
    if not value.isdecimal():
        raise ValueError(f"{key} must be a number, not {value!r}")
    return int(value)


class Machine:
    """
    A computer. *runtime* decides who runs when; without one, tasks run to block,
    first come first served. *iommu* is a key of ``PLATFORMS``, perhaps with options:
    ``vtd,nesting=on``; ValueError if there is none. With *iommufd_test* its kernel has
    CONFIG_IOMMUFD_TEST. Kernel code runs only through :meth:`run`.
    """

    def __init__(self, runtime: Runtime | None = None, iommu: str = "vtd", iommufd_test: bool = False) -> None:
        self.statics: dict[Any, Any] = {}
        self.bridges: dict[str, str] = {}  # by id, the addresses of those that have one
        self.iommufd_test = iommufd_test
        self.platform, self.platform_options = parse_iommu(iommu)
        self.runtime = runtime or LiveRuntime()
        self.runtime.machine = self

    def run(self, function: Callable[[], T], name: str = "kthread") -> T:
        """Run *function* as a task until it returns; its answer, or its exception."""
        return self.runtime.run_function(function, name)

    def boot(self, devices: Sequence[Plugged] = ()) -> None:
        """Start the kernel, with *devices* in place. ValueError when one cannot be."""
        self.run(lambda: _init_rooms(self.platform, self.platform_options, self.iommufd_test), "swapper")
        if devices:
            self.run(lambda: plug(*devices), "swapper")

    def plug(self, plugged: Plugged) -> str:
        """
        Put a device into its slot and bind it; answers its address.

        Raises ValueError for an unknown model, a bad or occupied address, or a
        driver that does not take the device.
        """
        return self.run(lambda: plug(plugged), f"plug/{plugged.model}")[0]

    def unplug(self, bdf: str) -> None:
        """
        Take a device away, as ``echo 1 > remove`` does: waits for its users. ValueError for a
        virtual function, which is nothing that one can pull out.
        """
        self.run(lambda: unplug(bdf), f"unplug/{bdf}")

    def forget(self) -> None:
        """
        Nothing will run here any more. Takes apart most of what knows each other in circles:
        the garbage collector would find it too, but takes much longer.
        """
        root = self.statics.get(KernfsRoot)
        if root is not None:
            kernfs_destroy_root(root)
        self.statics.clear()


def plug(*devices: Plugged) -> list[str]:
    """
    Put *devices* in together, as at boot, and bind them; :meth:`Machine.plug` in a task.
    A parent of mediated devices has no slot: its address is its name.
    """
    functions = _plug_pci([plugged for plugged in devices if plugged.model not in PARENTS])
    return [_plug_parent(plugged) if plugged.model in PARENTS else functions.pop(0) for plugged in devices]


def _plug_parent(plugged: Plugged) -> str:
    if plugged.bdf is not None or plugged.bus is not None or plugged.driver != DEFAULT_DRIVER:
        raise ValueError(f"{plugged.model} must have no address and no driver: it is no PCI function")
    if plugged.model in mdev_parents().found:
        raise ValueError(f"there must be one {plugged.model} only")
    make_parent(plugged.model, **plugged.options).init()
    return plugged.model


def _plug_pci(devices: Sequence[Plugged]) -> list[str]:
    machine: Machine = current().machine
    placed, machine.bridges = place(devices, pci_probe.pci_host().hardware, machine.bridges)
    try:
        pci_probe.pci_add_devices([(model, bdf) for _plugged, model, bdf in placed])
    except Errno as e:
        raise ValueError(f"the devices must fit, but {e}") from None
    for plugged, _model, bdf in placed:
        # A bridge is its own driver's, unless one is asked for.
        if plugged.driver != "none" and not (plugged.driver == DEFAULT_DRIVER and pci_probe.is_bridge(bdf)):
            _bind(pci_probe.pci_host().found[bdf], plugged.driver)
    where = {id(plugged): bdf for plugged, _model, bdf in placed}
    return [where[id(plugged)] for plugged in devices]


def unplug(bdf: str) -> None:
    """:meth:`Machine.unplug`, for use inside a task."""
    machine: Machine = current().machine
    parent = mdev_parents().found.get(bdf)
    if parent is not None:
        parent.exit()
        return
    pdev = pci_probe.pci_host().found.get(bdf)
    if pdev is not None and pdev.physfn is not None:
        raise ValueError(f"what is unplugged must not be a virtual function, as {bdf} of {pdev.physfn.bdf}")
    machine.platform.unplug(bdf)


def _init_rooms(platform: Platform, options: Any, iommufd_test: bool) -> None:
    pci_probe.pci_init()
    pcie_portdrv_init()
    platform.init(options)
    iommufd_init(iommufd_test)
    vfio_init()
    kvm_init()
    mdev_init()
    if platform.host_bridge:
        pci_probe.pci_add_device(HostBridge(), "0000:00:00.0")


def _bind(pdev: PciDev, driver: str) -> None:
    """What a script does: driver_override, then drivers_probe."""
    pdev.driver_override = driver
    probe = kernfs_find("/sys/bus/pci/drivers_probe")
    try:
        if probe is None:
            raise Errno(ENODEV)
        kernfs_write(probe, pdev.name.encode())
    except Errno as e:
        raise ValueError(f"the driver {driver!r} must take {pdev.name}, but it answered {e}") from None
    if pdev.driver is None:
        raise ValueError(f"the driver must be vfio-pci or none, not {driver!r}")
