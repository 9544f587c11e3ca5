# SPDX-License-Identifier: GPL-2.0-only
"""
Mapped registers that are polled (``mmap=poll``): bench_nvme's reads, beside trapped registers,
and what a machine costs whose client does nothing.

    python bench/bench_polling.py [COUNT]

Each is measured three times in turn, and the best counts. Exits 1 when a limit is not kept:
of a processor at rest, and of the first read after five seconds of rest.
"""

from __future__ import annotations

import resource
import sys
import tempfile

from bench_nvme import Measured, build_client, measure, run_client

HOWS, MODES = ("trap", "poll"), ("polled", "coalesced")
ROUNDS = 3
SECONDS = 5
SHARE_LIMIT, LATENCY_LIMIT = 0.02, 15e3


def rest(client: str, seconds: int) -> tuple[float, float]:
    """The processor's seconds that a machine takes whose client rests, and microseconds of the read after it."""
    before = _used()
    (latency,) = run_client("nvme,mmap=poll", client, "rest", str(seconds))
    return _used() - before, latency


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "9600"
    with tempfile.TemporaryDirectory() as directory:
        client = build_client(directory)
        rounds: list[dict[tuple[str, str], Measured]] = [
            {(mode, how): measure(f"nvme,mmap={how}", client, mode, count) for mode in MODES for how in HOWS}
            for _ in range(ROUNDS)
        ]
        rests = [(rest(client, 0), rest(client, SECONDS)) for _ in range(ROUNDS)]
    for mode, how in rounds[0]:
        print(f"{mode:10} {how:5} {min(each[mode, how] for each in rounds)}")
    share = (min(used for _, (used, _) in rests) - min(used for (used, _), _ in rests)) / SECONDS
    latency = min(latency for _, (_, latency) in rests)
    print(f"at rest          {100 * share:5.2f} % of a processor   (limit {100 * SHARE_LIMIT:.0f} %)")
    print(f"the first read   {latency:5.0f} us after {SECONDS} s of rest   (limit {LATENCY_LIMIT:.0f} us)")
    return 0 if share <= SHARE_LIMIT and latency <= LATENCY_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
