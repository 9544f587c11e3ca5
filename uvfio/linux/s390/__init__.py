# SPDX-License-Identifier: GPL-2.0-only
"""The machine-dependent part for s390: PCI functions and crypto adapters as devices."""
