# SPDX-License-Identifier: GPL-2.0-only
"""
Mapped registers that are polled (``mmap=poll``): bench_nvme's reads, beside trapped registers,
and what a machine costs whose client does nothing.

    python bench/bench_polling.py [COUNT]

Each is measured three times in turn, and the best counts. Exits 1 when a limit is not kept:
of a processor at rest, against a thread that does nothing but sleep as often; and of the
first read after five seconds of rest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_nvme import HERE, Measured, build_client, measure, served

HOWS, MODES = ("trap", "poll"), ("polled", "coalesced")
ROUNDS = 3
SECONDS = 5
LOOKS = 100  # a second, at rest
REST_LIMIT, LATENCY_LIMIT = 5.0, 15e3


def rest(client: str) -> tuple[float, float]:
    """The share of a processor that uvfio takes while its client rests, and microseconds of the read after it."""
    run = served("nvme,mmap=poll", client, "rest", str(SECONDS))
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as machine:
        time.sleep(SECONDS * 0.4)  # it starts, and the client has begun to rest
        before = used(machine.pid)
        time.sleep(SECONDS * 0.4)
        share = (used(machine.pid) - before) / (SECONDS * 0.4)
        text, _ = machine.communicate()
    return share, float(text)


def used(pid: int) -> float:
    """The processor's seconds that all threads of *pid* have had."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def sleeper() -> float:
    """The share of a processor that a thread takes which wakes up LOOKS times a second."""
    before = time.thread_time()
    for _ in range(2 * LOOKS):
        time.sleep(1 / LOOKS)
    return (time.thread_time() - before) / 2


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "9600"
    with tempfile.TemporaryDirectory() as directory:
        client = build_client(directory)
        rounds: list[dict[tuple[str, str], Measured]] = [
            {(mode, how): measure(f"nvme,mmap={how}", client, mode, count) for mode in MODES for how in HOWS}
            for _ in range(ROUNDS)
        ]
        rests = [rest(client) for _ in range(ROUNDS)]
        floor = min(sleeper() for _ in range(ROUNDS))
    for mode, how in rounds[0]:
        print(f"{mode:10} {how:5} {min(each[mode, how] for each in rounds)}")
    share, latency = min(share for share, _ in rests), min(latency for _, latency in rests)
    ratio = share / floor
    print(f"at rest          {100 * share:5.2f} % of a processor, a thread that sleeps {100 * floor:.2f} %:", end=" ")
    print(f"{ratio:.1f} x   (limit {REST_LIMIT:.0f} x)")
    print(f"the first read   {latency:5.0f} us after {SECONDS} s of rest   (limit {LATENCY_LIMIT:.0f} us)")
    return 0 if ratio <= REST_LIMIT and latency <= LATENCY_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
