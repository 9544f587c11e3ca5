# SPDX-License-Identifier: GPL-2.0-only
"""The driver core, buses, sysfs, device nodes and PCI."""
