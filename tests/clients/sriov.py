# SPDX-License-Identifier: GPL-2.0-only
"""
Asks a kernel about SR-IOV and prints what it answers: writes to ``sriov_numvfs``, what sysfs
shows of a physical and of a virtual function, and VF tokens through groups and device nodes.

The physical function is 0000:00:04.0 and has four virtual ones; 0000:00:01.0 has none. Runs as
root in the reference kernel and, unchanged, under ``uvfio run``; a test plays :func:`ask` to a
machine of its own.
"""

from __future__ import annotations

import os
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from asking import Failed, RealSystem, System

DEVICES, DRIVER = "/sys/bus/pci/devices", "/sys/bus/pci/drivers/vfio-pci"
ENABLE_SRIOV = "/sys/module/vfio_pci/parameters/enable_sriov"
NAME, NAME1, NAME2, OTHER = "0000:00:04.0", "0000:00:04.1", "0000:00:04.2", "0000:00:01.0"
PF, VF1, VF2 = (f"{DEVICES}/{name}" for name in (NAME, NAME1, NAME2))
NUMVFS = f"{PF}/sriov_numvfs"
TOKEN, WRONG = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3", "11111111-5a5f-4f5a-a211-f591514ba1f3"
SET_IOMMU, GROUP_SET_CONTAINER, GROUP_GET_DEVICE_FD = 0x3B66, 0x3B68, 0x3B6A
GET_INFO, GET_IRQ_INFO, RESET, HOT_RESET_INFO, FEATURE, BIND = 0x3B6B, 0x3B6D, 0x3B6F, 0x3B70, 0x3B75, 0x3B76
GET, SET, PROBE = 0x1_0000, 0x2_0000, 0x4_0000
CONFIG = 7 << 40
# What has nothing to do with SR-IOV, or is where the one device has its MSI-X table.
IGNORED = ("firmware_node", "link", "msi_irqs", "power", "waiting_for_supplier", "resource4")


class Asker:
    """Says what one call after the other answers."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.lines: list[str] = []
        self.container = self.iommufd = -1

    def say(self, question: str, *answers: object) -> None:
        self.lines.append(" ".join([f"{question}:", *map(str, answers)]))

    def attempt(self, call: Callable[..., Any], *args: Any) -> Any:
        """What *call* answers, or the name of its error."""
        try:
            answer = call(*args)
        except Failed as error:
            return str(error)
        return "ok" if answer is None else answer

    def write(self, path: str, text: str) -> Any:
        return self.attempt(self.system.write_file, path, text)

    def read(self, path: str) -> Any:
        return self.attempt(self.system.read_file, path)

    def numvfs(self, number: int) -> None:
        self.system.write_file(NUMVFS, str(number))

    # Opening: the answer is an fd, or the name of an error.

    def group(self, device: str) -> int:
        """The group file of *device*, in the container."""
        fd = self.system.open("/dev/vfio/" + os.path.basename(self.system.link(f"{device}/iommu_group")))
        self.system.ioctl(fd, GROUP_SET_CONTAINER, struct.pack("<i", self.container))
        return fd

    def by_name(self, group: int, name: str) -> Any:
        return self.attempt(lambda: self.system.ioctl(group, GROUP_GET_DEVICE_FD, name.encode() + b"\0")[0])

    def bind(self, device: str, token: str | None = None, **fields: int) -> Any:
        fd = self.system.open("/dev/vfio/devices/" + self.system.names(f"{device}/vfio-dev")[0])
        pointer = self.system.place(uuid.UUID(token).bytes) if token else 0
        values = {"argsz": 24, "flags": int(token is not None), "iommufd": self.iommufd, "pointer": pointer} | fields
        data = struct.pack("<IIiIQ", values["argsz"], values["flags"], values["iommufd"], 0, values["pointer"])
        answer = self.attempt(self.system.ioctl, fd, BIND, data)
        if isinstance(answer, str):
            self.system.close(fd)
            return answer
        return fd

    def refused(self, question: str, answer: Any) -> None:
        """Say how it was refused; what was not is closed again."""
        if isinstance(answer, int):
            self.system.close(answer)
        self.say(question, "opened" if isinstance(answer, int) else answer)

    def feature(self, fd: int, flags: int, payload: bytes) -> Any:
        data = struct.pack("<II", 8 + len(payload), flags) + payload
        return self.attempt(lambda: self.system.ioctl(fd, FEATURE, data)[0])


def ask(system: System) -> list[str]:
    """All questions, one after the other, of a machine just booted."""
    asker = Asker(system)
    for question in (number_of_functions, sysfs, tokens_by_group, tokens_by_device_node, through_a_device, goes):
        asker.lines.append(f"# {question.__name__}")
        question(asker)
    return asker.lines


def number_of_functions(a: Asker) -> None:
    a.system.write_file(f"{PF}/driver_override", "vfio-pci")
    if a.system.exists(f"{PF}/driver"):
        a.system.write_file(f"{DRIVER}/unbind", NAME)
    for text in ("0", "1", "4", "5", "100", "x", "-1", "65535", "65536", "0x1", "1\n"):
        a.say(f"without a driver, {text!r}", a.write(NUMVFS, text))
    for text in ("x", "0", "2", "1"):
        a.say(f"drivers_autoprobe {text}", a.write(f"{PF}/sriov_drivers_autoprobe", text))
    a.say("bind", a.write(f"{DRIVER}/bind", NAME))
    for text in ("0", "1", "5", "x", "65536"):
        a.say(f"without enable_sriov, {text!r}", a.write(NUMVFS, text))
    a.say("enable_sriov", a.read(ENABLE_SRIOV), a.write(ENABLE_SRIOV, "x"), a.write(ENABLE_SRIOV, "Y"))
    for text in ("0", "5", "-1", "x", "2", "2", "1", "3", "5", "65536"):
        a.say(f"with enable_sriov, {text!r}", a.write(NUMVFS, text), a.read(NUMVFS))
    for text in ("1", "x", "-1"):
        a.say(f"vf_msix_count {text}", a.write(f"{VF1}/sriov_vf_msix_count", text))
    a.system.write_file(ENABLE_SRIOV, "N")
    a.say("enable_sriov taken back", a.write(NUMVFS, "0"), a.write(NUMVFS, "2"), a.read(NUMVFS))
    a.system.write_file(ENABLE_SRIOV, "Y")
    a.say("and given again", a.write(NUMVFS, "0"), a.write(NUMVFS, "2"), a.read(NUMVFS))


def sysfs(a: Asker) -> None:
    for path in (PF, VF1):
        # One line each would be long: PF and VF have most of it in common.
        a.say(os.path.basename(path), *[name for name in sorted(a.system.names(path)) if name not in IGNORED])
    for name in ("totalvfs", "numvfs", "offset", "stride", "drivers_autoprobe", "vf_total_msix"):
        a.say(name, a.read(f"{PF}/sriov_{name}"))
    for path, name in ((PF, "virtfn0"), (PF, "virtfn1"), (VF1, "physfn"), (VF1, "driver"), (VF2, "iommu")):
        a.say(name, a.system.link(f"{path}/{name}"))
    a.say("the same ids", *(a.read(f"{PF}/{x}") == a.read(f"{VF1}/{x}") for x in ("vendor", "device", "class")))
    a.say("of the VF", *(a.read(f"{VF1}/{x}") for x in ("driver_override", "reset_method", "irq", "enable")))
    resources = [line.split() for line in a.read(f"{PF}/resource").split("\n")]
    sizes = [int(end, 16) - int(start, 16) + 1 if int(end, 16) else 0 for start, end, _flags in resources]
    a.say("VF BAR 0", hex(sizes[7]), resources[7][2])
    for number, path in enumerate((VF1, VF2)):
        start = int(a.read(f"{path}/resource").split()[0], 16)
        a.say(f"BAR 0 of VF {number} begins at VF BAR 0 +", hex(start - int(resources[7][0], 16)))
    groups = [a.system.link(f"{DEVICES}/{name}/iommu_group") for name in (NAME, NAME1, NAME2)]
    a.say("groups", len(set(groups)), *(a.system.names(f"{x}/iommu_group/devices") for x in (PF, VF1, VF2)))


def tokens_by_group(a: Asker) -> None:
    a.container = a.system.open("/dev/vfio/vfio")
    pf, vf1, vf2 = (a.group(path) for path in (PF, VF1, VF2))
    a.system.ioctl(a.container, SET_IOMMU, 3)
    a.refused("VF before the PF, without", a.by_name(vf1, NAME1))
    a.refused("VF before the PF, with", a.by_name(vf1, f"{NAME1} vf_token={TOKEN}"))
    device = a.by_name(pf, f"{NAME} vf_token={TOKEN}")
    a.refused("VF without", a.by_name(vf1, NAME1))
    a.refused("VF with another", a.by_name(vf1, f"{NAME1} vf_token={WRONG}"))
    for text in ("vf_token=", f"vf_token={TOKEN[:-1]}", f"vf_token={TOKEN} vf_token={TOKEN}", f"token={TOKEN}", "x"):
        a.refused(f"VF with {text}", a.by_name(vf1, f"{NAME1} {text}"))
    first = a.by_name(vf1, f"{NAME1} vf_token={TOKEN}")
    a.refused("VF in capitals, with spaces", a.by_name(vf2, f"{NAME2}   vf_token={TOKEN.upper()}  "))
    a.refused("VF again, without", a.by_name(vf1, NAME1))
    a.refused("PF again, without", a.by_name(pf, NAME))
    a.refused("PF again, with another", a.by_name(pf, f"{NAME} vf_token={WRONG}"))
    a.refused("PF again", a.by_name(pf, f"{NAME} vf_token={TOKEN}"))
    for name, flags, size in (
        *(("PROBE", PROBE, 0), ("PROBE SET", PROBE | SET, 0), ("PROBE GET", PROBE | GET, 0), ("GET", GET, 16)),
        *(("SET 15", SET, 15), ("SET 0", SET, 0), ("SET 16", SET, 16), ("SET 20", SET, 20)),
    ):
        payload = (uuid.UUID(WRONG).bytes + bytes(4))[:size]
        a.say(
            f"feature {name} of the PF, of the VF", a.feature(device, flags, payload), a.feature(first, flags, payload)
        )
    a.refused("VF with the token of before", a.by_name(vf2, f"{NAME2} vf_token={TOKEN}"))
    a.refused("VF with the new one", a.by_name(vf2, f"{NAME2} vf_token={WRONG}"))
    a.system.close(device)
    a.refused("PF closed, VF open: PF without", a.by_name(pf, NAME))
    a.refused("PF with the token of before", a.by_name(pf, f"{NAME} vf_token={TOKEN}"))
    a.refused("PF with the new one", a.by_name(pf, f"{NAME} vf_token={WRONG}"))
    a.system.close(first)
    a.refused("all closed: PF without", a.by_name(pf, NAME))
    a.refused("VF with the token, kept", a.by_name(vf1, f"{NAME1} vf_token={WRONG}"))
    a.refused("PF with another", a.by_name(pf, f"{NAME} vf_token={TOKEN}"))
    a.refused("VF with that", a.by_name(vf1, f"{NAME1} vf_token={TOKEN}"))
    for fd in (vf2, vf1, pf, a.container):
        a.system.close(fd)


def tokens_by_device_node(a: Asker) -> None:
    a.iommufd = a.system.open("/dev/iommu")
    other = f"{DEVICES}/{OTHER}"
    if not a.system.exists(f"{other}/driver"):
        a.system.write_file(f"{other}/driver_override", "vfio-pci")
        a.system.write_file(f"{DRIVER}/bind", OTHER)
    a.refused("no SR-IOV, with a token", a.bind(other, TOKEN))
    a.refused("no SR-IOV, bad pointer", a.bind(other, flags=1, pointer=8))
    a.refused("no SR-IOV, with a token, bad iommufd", a.bind(other, TOKEN, iommufd=99))
    a.refused("no SR-IOV, token but no flag", a.bind(other, TOKEN, flags=0))
    a.refused("VF without", a.bind(VF1))
    a.refused("VF with another", a.bind(VF1, WRONG))
    a.refused("VF bad pointer", a.bind(VF1, flags=1, pointer=8))
    a.refused("VF without, bad iommufd", a.bind(VF1, iommufd=99))
    a.refused("VF without, iommufd -1", a.bind(VF1, iommufd=-1))
    a.refused("VF, bad iommufd", a.bind(VF1, TOKEN, iommufd=99))
    a.refused("VF, short struct", a.bind(VF1, flags=1, argsz=16))
    a.refused("VF, unknown flag", a.bind(VF1, TOKEN, flags=3))
    pf = a.bind(PF, TOKEN)
    first = a.bind(VF1, TOKEN)
    a.refused("VF again", a.bind(VF1, TOKEN))
    a.refused("VF again, with another", a.bind(VF1, WRONG))
    a.refused("other VF, with another", a.bind(VF2, WRONG))
    a.refused("PF again", a.bind(PF, TOKEN))
    a.refused("PF again, without", a.bind(PF))
    a.system.close(pf)
    a.refused("PF while the VF is open, without", a.bind(PF))
    a.refused("PF while the VF is open", a.bind(PF, TOKEN))
    a.system.close(first)
    a.refused("PF alone, without", a.bind(PF))


def through_a_device(a: Asker) -> None:
    """Virtual functions of a physical one that is open: it was reset before, not after, they were enabled."""
    a.numvfs(0)
    pf = a.bind(PF, TOKEN)
    a.say("enabled while the PF is open", a.write(NUMVFS, "2"))
    vf = a.bind(VF1, TOKEN)
    ids, command = (a.system.pread(vf, n, CONFIG + off).hex() for n, off in ((4, 0), (2, 4)))
    a.say("ids, command", ids == a.system.pread(pf, 4, CONFIG).hex(), command)
    a.say("memory off", a.system.pwrite(vf, b"\0\0", CONFIG + 4), a.system.pread(vf, 2, CONFIG + 4).hex())
    a.say("BAR 0 answers all the same", len(a.system.pread(vf, 4, 8)))
    a.system.pwrite(vf, b"\6\4", CONFIG + 4)
    a.say("memory, master, INTx disable", a.system.pread(vf, 2, CONFIG + 4).hex())
    a.system.pwrite(vf, b"\xff" * 8, CONFIG + 0x10)
    a.say("BAR 0 sized", a.system.pread(vf, 8, CONFIG + 0x10).hex(), "pin", a.system.pread(vf, 1, CONFIG + 0x3D).hex())
    a.say("ids written", a.system.pwrite(vf, b"\1\2\3\4", CONFIG), a.system.pread(vf, 4, CONFIG).hex() == ids)
    at = capability(a, pf)
    total, number = (a.system.pread(pf, 2, CONFIG + at + off).hex() for off in (0xE, 0x10))
    a.say("the PF's user sees of its capability", total, number)
    a.say("and may not write it", a.system.pwrite(pf, bytes(4), CONFIG + at + 8), a.read(NUMVFS))
    a.say("control as before", a.system.pread(pf, 2, CONFIG + at + 8).hex(), a.system.exists(VF2))
    info = a.system.ioctl(vf, GET_INFO, struct.pack("<6I", 24, 0, 0, 0, 0, 0))[1]
    a.say("info", *struct.unpack("<6I", info)[1:4])
    for index in (0, 1, 3, 4):
        irq = a.system.ioctl(vf, GET_IRQ_INFO, struct.pack("<4I", 16, 0, index, 0))[1]
        a.say(f"irq {index}", struct.unpack("<4I", irq)[3])
    a.say("reset", a.attempt(lambda: a.system.ioctl(vf, RESET, 0)[0]))
    a.say("hot reset info", a.attempt(a.system.ioctl, vf, HOT_RESET_INFO, struct.pack("<3I", 12, 0, 0)))
    a.say("reset by sysfs, VF and PF", a.write(f"{VF1}/reset", "1"), a.write(f"{PF}/reset", "1"))
    a.system.close(vf)
    a.system.close(pf)


def capability(a: Asker, pf: int) -> int:
    """Where the extended capability SR-IOV is, as the user of the physical function finds it."""
    at = 0x100
    while at:
        header = int.from_bytes(a.system.pread(pf, 4, CONFIG + at), "little")
        if header & 0xFFFF == 0x10:
            return at
        at = header >> 20
    return 0


def goes(a: Asker) -> None:
    a.system.write_file(f"{PF}/sriov_drivers_autoprobe", "0")
    a.numvfs(0)
    a.numvfs(2)
    a.say("no autoprobe: driver", a.system.exists(f"{VF1}/driver"), a.read(f"{VF1}/driver_override"))
    a.say("unbind a VF", a.write(f"{DRIVER}/unbind", NAME1), a.system.exists(f"{VF1}/driver"))
    a.say("bind it", a.write(f"{DRIVER}/bind", NAME1), a.write(f"{DRIVER}/bind", NAME1))
    a.say("remove a VF", a.write(f"{VF1}/remove", "1"))
    a.say("rescan", a.write("/sys/bus/pci/rescan", "1"), a.system.exists(VF1))
    a.say("unbind the PF", a.write(f"{DRIVER}/unbind", NAME), *state(a))
    a.say("bind it", a.write(f"{DRIVER}/bind", NAME), *state(a))
    a.numvfs(3)
    a.say("enabled again", *state(a))
    a.say("remove the PF", a.write(f"{PF}/remove", "1"), a.system.exists(PF), a.system.exists(VF1))
    a.say("rescan", a.write("/sys/bus/pci/rescan", "1"), *state(a), a.read(f"{PF}/sriov_drivers_autoprobe"))


def state(a: Asker) -> Iterator[object]:
    yield a.read(NUMVFS)
    yield from (a.system.exists(path) for path in (VF1, VF2, f"{PF}/virtfn0", f"{PF}/virtfn2"))


def waits(asker: Asker) -> None:
    """``sriov_numvfs`` waits for who has a virtual function open, and whoever reads it waits with it."""
    asker.system.write_file(f"{PF}/driver_override", "vfio-pci")
    asker.system.write_file(f"{DRIVER}/bind", NAME)
    pf = asker.bind(PF, TOKEN)
    asker.numvfs(2)
    vf = asker.bind(VF1, TOKEN)
    done: dict[str, Any] = {}

    def background(name: str, call: Callable[..., Any], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: done.update({name: call(*args)}))
        thread.start()
        return thread

    first = background("write", asker.write, NUMVFS, "0")
    while asker.system.exists(f"{VF1}/driver"):
        pass  # it waits for us when that is gone
    reader = background("read", asker.read, NUMVFS)
    asker.say("reset of the PF meanwhile", asker.attempt(lambda: asker.system.ioctl(pf, RESET, 0)[0]))
    asker.say("links meanwhile", *(asker.system.exists(x) for x in (f"{PF}/virtfn0", f"{PF}/virtfn1", f"{VF1}/physfn")))
    asker.say("total", asker.read(f"{PF}/sriov_totalvfs"), "done", sorted(done))
    asker.system.close(vf)
    first.join()
    reader.join()
    asker.say("closed", *sorted(done.items()), asker.system.exists(VF1), asker.system.exists(VF2))


if __name__ == "__main__":
    real = RealSystem()
    print("\n".join(ask(real)))
    waiting = Asker(real)
    waiting.iommufd = real.open("/dev/iommu")
    waits(waiting)
    print("# waits", *waiting.lines, sep="\n")
