# SPDX-License-Identifier: GPL-2.0-only
"""
SR-IOV: ``clients/sriov.py`` asks about it, and all kernels must answer the same.

``data/sriov.linux-7.3.4.txt`` is what Linux printed, with QEMU's NVMe controller;
``UVFIO_RECORD=1`` writes it anew. Ours is asked in this process and under ``uvfio run``.
"""

from __future__ import annotations

import os
import runpy
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from errno import EINVAL, ENOENT, ENOMEM
from pathlib import Path
from typing import Any

import pytest
from clients_build import CLIENTS, ROOT, uvfio_run
from probe_machine import find
from shared import need, need_program
from test_case_studies import STUDIES, transcript

from uvfio.linux.base.pci import PciDev, pci_enable_sriov, pci_host
from uvfio.linux.kernel.kernfs import kernfs_link_target, kernfs_read, kernfs_write
from uvfio.linux.kernel.user import UserProcess
from uvfio.machine import Machine, Plugged
from uvfio.runtime.errors import Errno

CLIENT = CLIENTS / "sriov.py"
RECORDED = ROOT / "tests" / "data" / "sriov.linux-7.3.4.txt"
DEVICES = ("edu", "pci-testdev", "e1000e", "nvme,vfs=4")
PF = "/sys/bus/pci/devices/0000:00:04.0"


def qemu_nvme(number: int) -> list[str]:
    """A controller like ours. Its physical function must be in a subsystem; the resources are for virtual ones."""
    resources = "sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4,max_ioqpairs=20,msix_qsize=21"
    subsystem = f"nvme-subsys,id=subsys{number}"
    return ["-device", subsystem, "-device", f"nvme,serial={number},subsys=subsys{number},{resources}"]


def booted(*more: Plugged) -> Machine:
    machine = Machine()
    devices = [Plugged(name) for name in ("edu", "pci-testdev", "e1000e")]
    machine.boot([*devices, Plugged("nvme", options={"vfs": "4"}), *more])
    return machine


class ModelSystem:
    """``System`` of the client: a process in the machine."""

    def __init__(self, failed: type[Exception]) -> None:
        self.process = UserProcess()
        self.failed = failed

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Errno as error:
            raise self.failed(error.number) from None

    def _node(self, path: str) -> Any:
        node = find(path)
        if node is None:
            raise self.failed(ENOENT)
        return node

    def write_file(self, path: str, text: str) -> None:
        self._call(kernfs_write, self._node(path), text.encode())

    def read_file(self, path: str) -> str:
        return self._call(kernfs_read, self._node(path)).decode().rstrip("\n")

    def names(self, path: str) -> list[str]:
        node = self._node(path)
        return list((node.target if node.kind == "link" else node).children)

    def link(self, path: str) -> str:
        return kernfs_link_target(self._node(path))

    def exists(self, path: str) -> bool:
        return find(path) is not None

    def open(self, path: str) -> int:
        return self._call(self.process.open, path)

    def close(self, fd: int) -> None:
        self.process.close(fd)

    def pread(self, fd: int, n: int, offset: int) -> bytes:
        return self._call(self.process.pread, fd, n, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._call(self.process.pwrite, fd, data, offset)

    def ioctl(self, fd: int, request: int, data: bytes | int) -> tuple[int, bytes]:
        if isinstance(data, int):
            return self._call(self.process.ioctl, fd, request, data), b""
        address = self.place(data)
        return self._call(self.process.ioctl, fd, request, address), self.process.mm.read(address, len(data))

    def place(self, data: bytes) -> int:
        address = self.process.mm.mmap(4096)
        self.process.mm.write(address, data)
        return address


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the program defines."""
    monkeypatch.syspath_prepend(str(CLIENTS))
    return runpy.run_path(str(CLIENT))


def test_answers_as_linux_does(client: dict[str, Any]) -> None:
    said = booted().run(lambda: client["ask"](ModelSystem(client["Failed"])))
    assert said == RECORDED.read_text().partition("# waits\n")[0].splitlines()


@pytest.mark.live
def test_answers_a_program_as_linux_does() -> None:
    run = uvfio_run([sys.executable, CLIENT], DEVICES)
    assert (run.stderr, run.returncode) == ("", 0)
    assert run.stdout.splitlines() == RECORDED.read_text().splitlines()


@pytest.mark.oracle
def test_linux_answers_so_and_hangs(tmp_path: Path) -> None:
    """The case study goes last: what hangs there is not killed either, and Linux cannot power off."""
    oracle = need("oracle/run") / "oracle" / "run"
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("xz", "xz-utils")):
        need_program(program, package)
    for script in (CLIENT, CLIENTS / "asking.py", STUDIES / "sriov_hangs.py", CLIENTS / "power_cut.py"):
        shutil.copy(script, tmp_path)
    # Messages of the kernel and of the firmware would land between the lines.
    (tmp_path / "cmd").write_text(
        "echo 1 > /proc/sys/kernel/printk; python3.11 sriov.py > answers; rc=$?\n"
        "python3.11 sriov_hangs.py > hung &\n"
        "for _ in $(seq 60); do sleep 1; [ $(wc -l < hung) = 2 ] && break; done\n"
        "python3.11 power_cut.py $$ &\n"
        "echo ANSWERS; cat answers; echo HUNG; cat hung; exit $rc\n"
    )
    machine = [*qemu_nvme(0), *qemu_nvme(1), "-device", "pvpanic-pci,addr=1e", "-action", "panic=shutdown"]
    patience = {**os.environ, "TIMEOUT": "120"}  # it takes about ten seconds on an idle machine
    run = subprocess.run([oracle, tmp_path, *machine], capture_output=True, text=True, timeout=300, env=patience)
    assert run.returncode == 0, run.stderr
    answers, _, hung = run.stdout.partition("ANSWERS\n")[2].partition("HUNG\n")
    if os.environ.get("UVFIO_RECORD"):
        RECORDED.write_text(answers)
    assert answers == RECORDED.read_text()
    assert hung == transcript("sriov_hangs")


@pytest.mark.live
def test_the_case_study_hangs_under_uvfio_as_well() -> None:
    run = uvfio_run([sys.executable, STUDIES / "sriov_hangs.py"], (*DEVICES, "nvme,vfs=4"))
    assert (run.stdout, run.stderr, run.returncode) == (transcript("sriov_hangs"), "", 1)


@pytest.mark.live
def test_a_shell_enables_and_disables() -> None:
    script = f"""
        cd {PF}
        echo Y > /sys/module/vfio_pci/parameters/enable_sriov
        cat sriov_totalvfs; echo 2 > sriov_numvfs; cat sriov_numvfs
        ls -d virtfn* ../*/physfn; readlink virtfn1; ls /dev/vfio
        echo 3 > sriov_numvfs || echo refused; echo 0 > sriov_numvfs; ls -d virtfn* ; ls /sys/bus/pci/devices
    """
    run = uvfio_run(["sh", "-c", script], DEVICES)
    assert run.stdout.split() == [
        *("4", "2", "../0000:00:04.1/physfn", "../0000:00:04.2/physfn", "virtfn0", "virtfn1", "../0000:00:04.2"),
        *("1", "2", "3", "4", "5", "6", "devices", "vfio", "refused"),
        *(f"0000:00:0{slot}.0" for slot in range(5)),
    ]
    assert "No such file" in run.stderr  # the last ls of virtfn*


def enable(number: int) -> PciDev:
    """The physical function, with so many virtual ones."""
    for path, text in (("/sys/module/vfio_pci/parameters/enable_sriov", b"Y"), (f"{PF}/sriov_numvfs", b"%d" % number)):
        node = find(path)
        assert node is not None
        kernfs_write(node, text)
    return pci_host().found["0000:00:04.0"]


def test_a_reset_of_the_physical_function_keeps_the_virtual_ones() -> None:
    """The capability is restored, as ``pci_restore_iov_state()`` does. (With QEMU 7.2 they are lost.)"""

    def body() -> None:
        pdev = enable(2)
        reset = find(f"{PF}/reset")
        assert reset is not None
        kernfs_write(reset, b"1")
        assert pdev.model.sriov.enabled == 2

    booted().run(body)


def test_a_place_that_is_taken_leaves_nothing_enabled() -> None:
    def body() -> None:
        pdev = enable(0)
        host = pci_host()
        host.found["0000:00:04.3"] = pdev
        with pdev.mutex:
            for number, wanted in ((3, ENOMEM), (5, EINVAL)):
                with pytest.raises(Errno) as error:
                    pci_enable_sriov(pdev, number)
                assert error.value.number == wanted
        del host.found["0000:00:04.3"]
        assert not any(name.startswith("0000:00:04.") for name in host.found if name != pdev.bdf)
        assert (pdev.sriov.num_VFs, pdev.model.sriov.enabled) == (0, 0)
        enable(4)  # and it can be tried again

    booted().run(body)


def test_virtual_functions_are_not_found_by_a_scan() -> None:
    def body() -> None:
        pdev = enable(1)
        virtfn = pci_host().found["0000:00:04.1"]
        assert virtfn.config.read(0, 4) == 0xFFFFFFFF
        assert (virtfn.vendor, virtfn.device) == (pdev.vendor, pdev.device)
        assert not virtfn.multifunction
        assert [virtfn.config.read(0x10 + 4 * bar, 4) for bar in range(6)] == [0] * 6
        rescan = find("/sys/bus/pci/rescan")
        assert rescan is not None
        kernfs_write(rescan, b"1")
        assert sorted(host for host in pci_host().found if host.startswith("0000:00:04")) == [pdev.bdf, virtfn.bdf]

    booted().run(body)


def test_a_virtual_function_reaches_what_its_own_user_has_mapped(client: dict[str, Any]) -> None:
    ioas_alloc, ioas_map, attach, iova = 0x3B81, 0x3B85, 0x3B77, 0x10_0000

    def body() -> None:
        pdev = enable(1)
        virtfn = pci_host().found["0000:00:04.1"]
        asker = client["Asker"](ModelSystem(client["Failed"]))
        system, token = asker.system, client["TOKEN"]
        asker.iommufd = system.open("/dev/iommu")
        pf, vf = (asker.bind(client[name], token) for name in ("PF", "VF1"))
        ids = [system.ioctl(asker.iommufd, ioas_alloc, struct.pack("<3I", 12, 0, 0))[1] for _ in range(2)]
        of_pf, of_vf = (struct.unpack("<3I", answer)[2] for answer in ids)
        memory = system.place(b"nothing yet")
        mapping = struct.pack("<4I3Q", 40, 7, of_vf, 0, memory, 4096, iova)
        system.ioctl(asker.iommufd, ioas_map, mapping)
        for fd, ioas in ((pf, of_pf), (vf, of_vf)):
            system.ioctl(fd, attach, struct.pack("<3I", 12, 0, ioas))
            system.pwrite(fd, b"\6\0", client["CONFIG"] + 4)
        assert not pdev.model.dma_write(iova, b"from the PF")
        assert virtfn.model.dma_write(iova, b"from the VF")
        assert system.process.mm.read(memory, 11) == b"from the VF"

    booted().run(body)


def test_behind_a_root_port_each_has_a_group_and_none_can_reset_the_bus() -> None:
    machine = Machine()
    machine.boot([Plugged("pcie-root-port", id="rp"), Plugged("nvme", bus="rp", options={"vfs": "2"})])

    def body() -> None:
        for path, text in (
            ("/sys/module/vfio_pci/parameters/enable_sriov", b"Y"),
            ("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", b"2"),
        ):
            node = find(path)
            assert node is not None
            kernfs_write(node, text)
        functions = [pci_host().found[f"0000:01:00.{number}"] for number in range(3)]
        assert len({function.iommu_group for function in functions}) == 3
        assert [function.reset_methods for function in functions[1:]] == [["flr"], ["flr"]]
        ends = [function.bars[0].addr + function.bars[0].size for function in functions]
        assert ends[1] == functions[2].bars[0].addr

    machine.run(body)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            [Plugged("nvme", "04.0", options={"vfs": "4"}), Plugged("edu", "04.2")],
            "04.1 to 0000:00:04.4 must be",
        ),
        (
            [Plugged("nvme", "04.0", options={"vfs": "1"}), Plugged("edu", "04.1")],
            "04.1 to 0000:00:04.1 must be",
        ),
        ([Plugged("nvme", options={"vfs": "8"})], "vfs must be a number up to 7, not '8'"),
        ([Plugged("nvme", options={"vfs": "two"})], "vfs must be a number up to 7, not 'two'"),
    ],
)
def test_what_cannot_be_plugged_in(devices: list[Plugged], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine().boot(devices)
