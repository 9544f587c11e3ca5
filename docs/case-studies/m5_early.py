# SPDX-License-Identifier: GPL-2.0-only
"""
A mediated device that is removed as soon as it is there, on Linux as root, with mtty.

One process makes devices, another waits for each and writes to its ``remove``, until a
device is left without that file.
"""

import os
import sys
import time

PARENT = "/sys/devices/virtual/mtty/mtty"
SECONDS = 60


def write(path, text):
    """The errno's text; empty if all is well."""
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as e:
        return os.strerror(e.errno)
    try:
        os.write(fd, text.encode())
        return ""
    except OSError as e:
        return os.strerror(e.errno)
    finally:
        os.close(fd)


def remove_when_there(device):
    """In another process, which exits with 1 if it was answered EAGAIN."""
    pid = os.fork()
    if not pid:
        answer = "No such"
        while answer.startswith("No such"):
            answer = write(f"{device}/remove", "1")
        os._exit(answer == "Resource temporarily unavailable")
    return pid


deadline = time.monotonic() + SECONDS
for n in range(10000):
    uuid = f"83b8f4f2-509f-382f-3c1e-e6bfe0fa{n:04}"
    device = f"{PARENT}/{uuid}"
    pid = remove_when_there(device)
    write(f"{PARENT}/mdev_supported_types/mtty-1/create", uuid)
    refused = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if refused and os.path.exists(device):
        print("the first remove:", "Resource temporarily unavailable")
        print("the next one:", write(f"{device}/remove", "1"))
        print("the device has:", " ".join(sorted(os.listdir(device))))
        sys.exit(1)
    write(f"{device}/remove", "1")
    if time.monotonic() > deadline:
        sys.exit("every device could be removed")
