# SPDX-License-Identifier: GPL-2.0-only
"""
A mediated device for which there is no memory, on Linux as root.

Needs a kernel with fault injection (``/proc/self/fail-nth``) and the sample module mdpy:
the n-th allocation of a write to ``create`` fails, for n from 1 on.
"""

import os
import sys

TYPE = "/sys/class/mdev_bus/mdpy/mdev_supported_types/mdpy-vga"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def available():
    with open(f"{TYPE}/available_instances") as file:
        return int(file.read())


def create(n):
    """Make a device; the n-th allocation on the way fails. What came of it."""
    create_fd = os.open(f"{TYPE}/create", os.O_WRONLY)
    fail_nth = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
    os.write(fail_nth, str(n).encode())
    try:
        os.write(create_fd, UUID.encode())
        return "made"
    except OSError as e:
        return os.strerror(e.errno)
    finally:
        os.close(create_fd)
        os.close(fail_nth)


os.system("mount -t debugfs none /sys/kernel/debug 2> /dev/null")
write("/sys/kernel/debug/failslab/ignore-gfp-wait", "N")
write("/sys/kernel/debug/failslab/verbose", "0")
before = after = available()
result = ""
for n in range(1, 30):
    result = create(n)
    after = available()
    if after != before:
        break
print("available instances before:", before)
print("create:", result)
print("available instances after:", after)
print("devices:", ", ".join(os.listdir("/sys/bus/mdev/devices")) or "none")
sys.exit(after != before)
