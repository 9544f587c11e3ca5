# SPDX-License-Identifier: GPL-2.0-only
"""
In the reference machine: pull the plug when the shell that started this, whose number is given, has ended.

For a kernel that cannot power off any more, as it waits for a device's lock. The machine
must have QEMU's ``pvpanic-pci`` at 0000:00:1e.0, and ``-action panic=shutdown``.
"""

import mmap
import os
import sys
import time

AT = "/sys/bus/pci/devices/0000:00:1e.0"
PANICKED, ROOM = 1, 16

shell = int(sys.argv[1])
with open(f"{AT}/enable", "w") as enable:
    enable.write("1")
registers = mmap.mmap(os.open(f"{AT}/resource0", os.O_RDWR), ROOM)
while os.getppid() == shell:
    time.sleep(0.1)
time.sleep(2)  # until init has said how it went
registers[0] = PANICKED
