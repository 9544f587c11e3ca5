# SPDX-License-Identifier: GPL-2.0-only
"""PCI devices written in Python, and the kit to write one's own."""
