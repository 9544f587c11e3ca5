# SPDX-License-Identifier: GPL-2.0-only
"""A scan of the PCI bus that meets a virtual function on its way out; see sriov.md. Needs what sriov_hangs.py needs."""

import os
import re
import subprocess
import time

from sriov_hangs import DRIVER, FIRST, enable, opened_function, start

TRIES = 20
for _ in range(TRIES):
    waiting: list[str] = []
    enable(FIRST, 2)
    function = opened_function(FIRST)
    start(waiting, "unbind", f"{DRIVER}/unbind", FIRST, FIRST)
    start(waiting, "rescan", "/sys/bus/pci/rescan", "1")
    os.close(function)
    time.sleep(3)
    if waiting:
        break
print("still waiting:", ", ".join(waiting) or "none", flush=True)
log = subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout
for oops in re.findall(r"BUG: kernel.*|Oops: general.*|RIP: 0010:.*", log)[:2]:
    print(oops, flush=True)
os._exit(1)
