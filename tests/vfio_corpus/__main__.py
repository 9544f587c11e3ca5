# SPDX-License-Identifier: GPL-2.0-only
"""The command line, to be run in tests/ (``make corpus`` does): :mod:`corpus.commands` has the verbs."""

from __future__ import annotations

import sys

from corpus.commands import Commands
from corpus.shrink import Making

from vfio_corpus.inprocess import MACHINES, answers_of, options, replay
from vfio_corpus.replay import CORPUS

MAKING = Making(
    files=frozenset({"open", "eventfd", "GROUP_GET_DEVICE_FD", "mmap", "FAULT_QUEUE_ALLOC"}),
    objects=frozenset({"HWPT_ALLOC", "FAULT_QUEUE_ALLOC", "BIND_IOMMUFD"}),
    plain=("pages",),
)
COMMANDS = Commands(CORPUS, replay, answers_of, tuple(map(options, MACHINES)), "vfio_findings.json", MAKING)

if __name__ == "__main__":
    sys.exit(COMMANDS.main(sys.argv[1:]))
