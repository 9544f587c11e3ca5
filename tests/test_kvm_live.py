# SPDX-License-Identifier: GPL-2.0-only
"""kvm-vfio for real programs: on VMs of the host, and on ours where the host has none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from shared import need, need_program
from test_live_filter import run_filter

from uvfio.linux.kvm.private import statics
from uvfio.live import supervisor
from uvfio.live.filter import RET_ALLOW, RET_USER_NOTIF
from uvfio.live.kvm import host_has_kvm
from uvfio.live.sysno import SYS
from uvfio.machine import Machine, Plugged

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parent.parent

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, struct
CREATE_VM, CREATE_DEVICE, SET_ATTR, HAS_ATTR = 0xae01, 0xc00caee0, 0x4018aee1, 0x4018aee3
def fails(what, *args):
    try: what(*args)
    except OSError as e: return errno.errorcode[e.errno]
    return "OK"
def device(vm, kind=4, flags=0):
    return struct.unpack("3I", fcntl.ioctl(vm, CREATE_DEVICE, struct.pack("3I", kind, 0, flags)))[1]
def attr(dev, number, fd, request=SET_ATTR):
    value = ctypes.c_int32(fd)
    fcntl.ioctl(dev, request, struct.pack("IIQQ", 0, 1, number, ctypes.addressof(value)))
kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, CREATE_VM, 0)
"""


@pytest.fixture(params=["host", "ours"])
def which(request, monkeypatch):
    if request.param == "ours":
        monkeypatch.setattr(supervisor, "host_has_kvm", lambda: False)
    elif not host_has_kvm():
        pytest.skip("needs a /dev/kvm that can be opened")
    return request.param


def serve(code: str) -> Machine:
    """Run the client *code* to its end; fails unless it, and we, leave nothing behind."""
    before = set(os.listdir("/proc/self/fd"))
    machine = Machine()
    machine.boot([Plugged("edu")])
    served = supervisor.Supervisor(machine)
    try:
        assert served.run([sys.executable, "-S", "-c", PRELUDE + textwrap.dedent(code)]) == 0
    finally:
        served.close()
    assert not served.broken
    assert set(os.listdir("/proc/self/fd")) == before
    assert machine.run(lambda: statics().vm_list) == []
    return machine


def test_one_kvm_vfio_for_each_vm_whatever_its_fd(which):
    serve("""
        dev = device(vm)
        assert os.readlink(f"/proc/self/fd/{dev}") == "anon_inode:kvm-vfio"
        assert fails(device, vm) == fails(device, os.dup(vm)) == "EBUSY"
        assert device(vm, flags=1) == 0
        other = fcntl.ioctl(kvm, CREATE_VM, 0)
        device(other)
        os.close(dev)
        device(vm)
    """)


def test_files_and_their_lifetime(which):
    serve("""
        dev = device(vm)
        group = os.open("/dev/vfio/1", os.O_RDWR)
        assert fails(attr, dev, 1, kvm) == "EINVAL" and fails(attr, dev, 1, 99) == "EBADF"
        attr(dev, 1, group)
        assert fails(attr, dev, 1, os.dup(group)) == "EEXIST"
        low = os.dup2(dev, 50)
        os.close(dev)
        attr(low, 2, group)
        assert fails(attr, low, 2, group) == "ENOENT"
        attr(low, 1, -1, HAS_ATTR)
    """)


def test_a_vm_outlives_its_fds_as_long_as_a_device_has_it(which):
    serve("""
        import time
        dev = device(vm)
        cdev, iommufd = os.open("/dev/vfio/devices/vfio0", os.O_RDWR), os.open("/dev/iommu", os.O_RDWR)
        attr(dev, 1, cdev)
        fcntl.ioctl(cdev, 0x3b76, struct.pack("IIiI", 16, 0, iommufd, 0))
        os.close(dev)
        os.close(vm)
        os.close(cdev)
    """)


def test_another_process_may_not_use_it(which):
    serve("""
        dev = device(vm)
        pid = os.fork()
        if pid == 0:
            refused = [fails(attr, dev, 1, 0), fails(attr, dev, 1, 0, HAS_ATTR), fails(device, vm, 4, 1)]
            os._exit(refused != ["EIO"] * 3)
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_what_else_the_host_has_is_the_hosts():
    if not host_has_kvm():
        pytest.skip("needs a /dev/kvm that can be opened")
    serve("""
        assert fcntl.ioctl(kvm, 0xae00, 0) == 12
        assert fcntl.ioctl(kvm, 0xae04, 0) > 0, "KVM_GET_VCPU_MMAP_SIZE"
        assert fails(device, vm, 999) == "ENODEV"
        assert fails(fcntl.ioctl, vm, CREATE_DEVICE, 8) in ("EFAULT", "EINVAL")
    """)


def test_a_guest_runs_natively_beside_kvm_vfio():
    if not host_has_kvm():
        pytest.skip("needs a /dev/kvm that can be opened")
    serve("""
        attr(device(vm), 1, os.open("/dev/vfio/1", os.O_RDWR))
        ram = mmap.mmap(-1, 4096)
        ram[:5] = bytes.fromhex("b02ae610f4")  # mov al, 42; out 0x10, al; hlt
        at = ctypes.addressof(ctypes.c_char.from_buffer(ram))
        fcntl.ioctl(vm, 0x4020ae46, struct.pack("IIQQQ", 0, 0, 0, 4096, at))
        vcpu = fcntl.ioctl(vm, 0xae41, 0)
        state = mmap.mmap(vcpu, fcntl.ioctl(kvm, 0xae04, 0))
        sregs = bytearray(312)
        fcntl.ioctl(vcpu, 0x8138ae83, sregs)
        struct.pack_into("Q", sregs, 0, 0)  # cs.base
        struct.pack_into("H", sregs, 12, 0)  # cs.selector
        fcntl.ioctl(vcpu, 0x4138ae84, bytes(sregs))
        fcntl.ioctl(vcpu, 0x4090ae82, struct.pack("18Q", *[0] * 16, 0, 2))
        fcntl.ioctl(vcpu, 0xae80, 0)
        reason, port = struct.unpack_from("I", state, 8)[0], struct.unpack_from("H", state, 34)[0]
        assert (reason, port) == (2, 0x10), (reason, port)
        fcntl.ioctl(vcpu, 0xae80, 0)
        assert struct.unpack_from("I", state, 8)[0] == 5, "KVM_EXIT_HLT"
    """)


def test_a_guest_on_kvm_gets_no_registers_to_map():
    if not host_has_kvm():
        pytest.skip("needs a /dev/kvm that can be opened: the link of a VM's fd is what tells")
    serve("""
        group, container = os.open("/dev/vfio/1", os.O_RDWR), os.open("/dev/vfio/vfio", os.O_RDWR)
        fcntl.ioctl(group, 0x3b68, struct.pack("i", container))
        fcntl.ioctl(container, 0x3b66, 1)
        device_fd = fcntl.ioctl(group, 0x3b6a, bytearray(b"0000:00:01.0\\0"))
        def flags():
            return struct.unpack_from("I", fcntl.ioctl(device_fd, 0x3b6c, struct.pack("4I2Q", 32, 0, 0, 0, 0, 0)), 4)[0]
        assert flags() == 3, flags()
        os.close(vm)
        assert flags() == 7, flags()
    """)


def test_qemu_tells_its_vm_of_a_group(tmp_path):
    qemu = need_program("qemu-system-x86_64", "qemu-system-x86")
    if not host_has_kvm():
        pytest.skip("needs a /dev/kvm that can be opened")
    machine = f"{qemu} -M q35 -cpu qemu64 -m 64M -accel kvm -nodefaults -display none -S -monitor stdio".split()
    command = [sys.executable, "-m", "uvfio", "run", "--trace", str(tmp_path / "trace"), "-d", "edu", "--", *machine]
    command += ["-device", "vfio-pci,host=0000:00:01.0"]
    done = subprocess.run(command, cwd=ROOT, input="quit\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "uvfio:" not in done.stderr, done.stderr
    trace = (tmp_path / "trace").read_text()
    assert re.search(r"<kvm-vm>, KVM_CREATE_DEVICE, \{type=4, .*\} *\) = 0", trace)
    assert re.search(r"<kvm-vfio>, KVM_SET_DEVICE_ATTR, \{flags=0, group=1, attr=1, .*\} *\) = 0", trace)


@pytest.mark.parametrize(
    ("request_", "host", "ours"),
    [
        (0xC00CAEE0, True, True),
        (0x4018AEE1, True, True),
        (0x4018AEE3, True, True),
        (0x4008AEE4, False, False),
        (0xAE80, False, False),
        (0xAE01, False, True),
        (0xAE03, False, True),
        (0x4020AE46, False, False),
    ],
)
def test_kvm_run_is_never_asked_about(request_, host, ours):
    for modelled, asked in ((False, host), (True, ours)):
        answer = run_filter(SYS["ioctl"], 3, request_, modelled_kvm=modelled)
        assert answer == (RET_USER_NOTIF if asked else RET_ALLOW)


def test_the_probe_agrees_where_the_host_has_no_kvm(tmp_path):
    conformance = need("conformance") / "conformance"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom uvfio.live import supervisor\nsupervisor.host_has_kvm = lambda: False\n"
        "from uvfio.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(script), "run", "-d", "edu", "-d", "pci-testdev", "-d", "e1000e", "--"]
    command += ["env", f"PYTHONPATH={conformance}", sys.executable, str(conformance / "kvm_vfio.py")]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert "== 46 claims, 46 agree, 0 differ" in done.stdout, done.stdout + done.stderr
