# SPDX-License-Identifier: GPL-2.0-only
"""The command line, to be run in tests/ (``make corpus`` does): :mod:`corpus.commands` has the verbs."""

from __future__ import annotations

import sys

from corpus.commands import Commands
from corpus.shrink import Making

from iommufd_corpus.inprocess import answers_of, replay
from iommufd_corpus.replay import CORPUS
from iommufd_corpus.wire import NEW_FD

MAKING = Making(
    files=frozenset({*NEW_FD, "DMABUF_GET", "mmap"}),
    objects=frozenset(
        {
            *("CREATE_ACCESS", "FAULT_QUEUE_ALLOC", "HWPT_ALLOC", "HW_QUEUE_ALLOC", "MOCK_DOMAIN", "MOCK_DOMAIN_FLAGS"),
            *("VDEVICE_ALLOC", "VEVENTQ_ALLOC", "VIOMMU_ALLOC"),
        }
    ),
    plain=("IOAS_ALLOC", [0, 0]),
)
COMMANDS = Commands(CORPUS, replay, answers_of, (("--iommufd-test",),), "iommufd_findings.json", MAKING)

if __name__ == "__main__":
    sys.exit(COMMANDS.main(sys.argv[1:]))
