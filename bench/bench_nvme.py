# SPDX-License-Identifier: GPL-2.0-only
"""
Random reads of 4 KiB at queue depth 32 from our NVMe disk, by a polling driver in C.

    python bench/bench_nvme.py [COUNT]

The floor is the round trip of a supervisor in C that does nothing. The peer is QEMU's own
NVMe on the same file: there the same program runs in the reference kernel, through that
kernel's vfio-pci, processor and disk both emulated. Two ways to ring: both doorbells for
each command ("polled"), or for 32 at a time ("coalesced"). Each is measured five times in
turn, and the best counts. Exits 1 when a command needs more round trips than its limit. The
peer needs ../shared/oracle and qemu-system-x86; without them it is left out, and said to be.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench_ioctl import build, microseconds
from reference import in_the_reference

HERE = Path(__file__).parent
CLIENTS = HERE.parent / "tests" / "clients"
PEER = "0000:00:04.0"  # the first slot that the reference machine has free
PEER_DEVICES = "-drive if=none,id=disk,format=raw,file={} -device nvme,drive=disk,serial=peer,addr=4.0"
ROUND_TRIPS = {"polled": 4.0, "coalesced": 1.0}
ROUNDS = 5


class Measured(NamedTuple):
    """Of a command: microseconds, accesses to registers, and its latency in microseconds."""

    time: float
    accesses: float
    mean: float
    p99: float

    def __str__(self) -> str:
        return (
            f"{self.time:6.2f} us a read, {1e6 / self.time:6.0f} IOPS, latency {self.mean:.0f}, p99 {self.p99:.0f} us"
        )


def build_client(directory: str) -> str:
    return build(directory, "nvme_bench", f"{CLIENTS}/nvme_queue.c", f"{CLIENTS}/client_lib.c", "-static")


def served(device: str, *command: str) -> list[str]:
    """*command* with *device* in its machine, to be run in the directory above this one."""
    return [sys.executable, "-m", "uvfio", "run", "-d", device, "--", *command]


def run_client(device: str, *command: str) -> list[float]:
    """The numbers that *command* prints with *device* in its machine."""
    done = subprocess.run(served(device, *command), check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    return [float(word) for word in done.stdout.split()]


def measure(device: str, client: str, mode: str, count: str) -> Measured:
    return Measured(*run_client(device, client, mode, count))


def measure_peer(client: str, count: str, disk: str) -> dict[str, Measured]:
    """By mode; empty where there is no reference kernel."""
    bind = f"echo vfio-pci > /sys/bus/pci/devices/{PEER}/driver_override; echo {PEER} > /sys/bus/pci/drivers_probe"
    runs = [f"echo {mode} $(./client {mode} {count} {PEER})" for _ in range(ROUNDS) for mode in ROUND_TRIPS]
    printed = in_the_reference(client, "; ".join([bind, *runs]), *PEER_DEVICES.format(disk).split())
    found: dict[str, Measured] = {}
    for line in printed or ():
        mode, *values = line.split()
        seen = Measured(*map(float, values))
        found[mode] = min(seen, found.get(mode, seen))
    return found


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "9600"
    with tempfile.TemporaryDirectory() as directory:
        supervisor, null = build(directory, "null_supervisor"), build(directory, "ioctl_client")
        client = build_client(directory)
        disk = f"nvme,file={directory}/disk,size=64M"
        floors, found = [], []
        for _ in range(ROUNDS):
            floors.append(microseconds([supervisor, null, "/dev/null", "null", count]))
            found.append({mode: measure(disk, client, mode, count) for mode in ROUND_TRIPS})
        peer = measure_peer(client, count, f"{directory}/disk")
    floor = min(floors)
    print(f"do-nothing supervisor in C   {floor:6.2f} us a call")
    kept = True
    for mode, limit in ROUND_TRIPS.items():
        ours = min(each[mode] for each in found)
        kept = kept and ours.accesses <= limit
        print(f"{mode:28} {ours}")
        print(f"{'':28} {ours.time / floor:5.2f} x the floor; {ours.accesses:.2f} round trips (limit {limit:.0f})")
        if mode in peer:
            print(f"  QEMU's own, emulated       {peer[mode]}: {ours.time / peer[mode].time:.2f} x that")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
