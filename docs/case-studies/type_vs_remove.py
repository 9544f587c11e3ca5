# SPDX-License-Identifier: GPL-2.0-only
"""
A write of DMA-FQ to an IOMMU group's type, while the group's last device is removed.

For Linux as root, in a machine that may crash: one process writes, one removes the device
and scans for it again. The one that writes is killed by the oops, with the group's mutex
held, so the other hangs soon after.
"""

import os
import signal
import sys
import time

BDF = sys.argv[1] if len(sys.argv) > 1 else "0000:00:01.0"
DEVICE = f"/sys/bus/pci/devices/{BDF}"
SECONDS = 60


def write_types():
    while True:
        try:
            group = os.path.basename(os.readlink(f"{DEVICE}/iommu_group"))
            fd = os.open(f"/sys/kernel/iommu_groups/{group}/type", os.O_WRONLY)
        except OSError:
            continue  # it is removed just now
        try:
            while True:
                os.pwrite(fd, b"DMA-FQ", 0)
        except OSError:
            os.close(fd)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def remove_and_rescan():
    while True:
        write(f"{DEVICE}/remove", "1")
        write("/sys/bus/pci/rescan", "1")


def fork(body):
    pid = os.fork()
    if not pid:
        body()
    return pid


def oops():
    """What the kernel said: the BUG line and where it was."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            line = os.read(fd, 8192).decode(errors="replace").partition(";")[2].splitlines()[0]
            if line.startswith(("BUG:", "RIP: 0010:")):
                yield line
    except BlockingIOError:
        os.close(fd)


def main():
    writer, remover = fork(write_types), fork(remove_and_rescan)
    start = time.monotonic()
    while time.monotonic() - start < SECONDS:
        time.sleep(0.2)
        pid, status = os.waitpid(writer, os.WNOHANG)
        if pid:
            print(f"the writer was killed by signal {os.WTERMSIG(status)}")
            print("\n".join(list(oops())[:2]), flush=True)
            return
    print(f"nothing in {SECONDS} seconds")
    for pid in (writer, remover):
        os.kill(pid, signal.SIGKILL)


main()
