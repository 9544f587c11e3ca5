# SPDX-License-Identifier: GPL-2.0-only
"""
What the generator believes to exist, learnt from the answers, and choices from it.

It may be wrong: then a call is made on something stale, which is wanted now and then anyway.
"""

from __future__ import annotations

from typing import Any

from corpus.choices import Choices

from vfio_corpus.bench import PORT, ROOT

DEVICES = ("edu", "testdev", "e1000e")
OPEN_DEVICES = ("device", "bound")  # files that a device's calls can be made on


class State(Choices):
    """
    Files by name, objects of iommufds, and the session's random numbers. Kinds of files:
    ``container``, ``group``, ``device`` (opened through its group), ``cdev``, ``bound`` (a
    cdev that is), ``iommufd``, ``eventfd``, ``doorbell`` (an eventfd of IOEVENTFD), ``dmabuf`` and ``fault``.
    """

    def __init__(self, seed: int, theme: str) -> None:
        super().__init__(seed)
        self.theme = theme
        self.addresses = PORT if theme == "bus" else ROOT
        self.device_of: dict[str, str] = {}  # group, device, cdev and view -> device
        self.owner_of: dict[str, str] = {}  # group -> container or iommufd; bound -> iommufd
        self.types: dict[str, int] = {}  # container -> type
        self.objects: dict[tuple[str, int], str] = {}  # iommufd and id -> kind
        self.areas: dict[tuple[str, int], list[tuple[int, int]]] = {}  # container (0) or IOAS -> IOVA and length
        self.attached: dict[str, int] = {}  # bound -> page table
        self.irqs: dict[str, dict[int, int]] = {}  # device -> index -> enabled vectors
        self.views: list[str] = []
        self.driven = set(DEVICES)  # those that are on vfio-pci
        self.stale: set[str] = set()  # devices that were reset: their registers may have changed
        self.last: Any = 0  # the last answer
        self.registered: list[tuple[str, list[Any]]] = []  # ioeventfds: file and fields

    def device(self) -> str:
        preferred = {"irq": ("edu", "e1000e"), "config": ("e1000e", "e1000e", "edu", "testdev")}
        return str(self.rng.choice(preferred.get(self.theme, DEVICES)))

    def file(self, *kinds: str, wrong: float = 4) -> str:
        """A file of one of *kinds*; sometimes another, or none at all."""
        right = self.of_files(*kinds)
        if right and not self.chance(wrong):
            return right[-1] if self.chance(40) else self.rng.choice(right)
        return str(self.rng.choice(["h99", *self.files]))

    def opened(self, device: str) -> list[str]:
        """Files that calls on *device* can be made on."""
        return [name for name in self.of_files(*OPEN_DEVICES) if self.device_of.get(name) == device]

    def target(self, wrong: float = 4) -> tuple[str, str]:
        """A file that a device's calls can be made on, and which device it is."""
        name = self.file(*OPEN_DEVICES, wrong=wrong)
        return name, self.device_of.get(name, "edu")

    def owned(self, iommufd: str, *kinds: str, wrong: float = 5) -> int:
        """The id of an object of one of *kinds*; sometimes of another, or none."""
        right = [number for (owner, number), kind in self.objects.items() if owner == iommufd and kind in kinds]
        if right and not self.chance(wrong):
            return right[-1] if self.chance(50) else self.rng.choice(right)
        every = [number for owner, number in self.objects if owner == iommufd]
        return int(self.rng.choice([0, 99, 0xFFFF_FFFF, *every]))

    def present(self) -> set[str]:
        """What there is to make calls on."""
        some = {*self.files.values()}
        some |= {"target"} if some.intersection(OPEN_DEVICES) else set()
        some |= {"typed"} if self.types else set()
        some |= {"ioas"} if "ioas" in self.objects.values() else set()
        some |= {"views"} if self.views else set()
        some |= {"idle"} if self.idle() else set()
        return some | ({"registered"} if self.registered else set())

    def idle(self) -> list[str]:
        """Devices on vfio-pci that nobody has open: their driver can be unbound without waiting."""
        used = {self.device_of[name] for name in self.device_of if self.files.get(name) != "group"}
        return sorted(self.driven - used)

    def forget(self, name: str) -> None:
        """The file *name* is closed, or unmapped."""
        self.files.pop(name, None)
        self.device_of.pop(name, None)
        self.owner_of.pop(name, None)
        self.types.pop(name, None)
        self.attached.pop(name, None)
        self.objects = {key: kind for key, kind in self.objects.items() if key[0] != name}
        self.areas = {key: areas for key, areas in self.areas.items() if key[0] != name}
        self.registered = [each for each in self.registered if each[0] != name]
