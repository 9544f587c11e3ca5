# SPDX-License-Identifier: GPL-2.0-only
"""Mediated devices. Mirrors ``drivers/vfio/mdev``."""
