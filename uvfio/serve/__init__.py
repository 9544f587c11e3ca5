# SPDX-License-Identifier: GPL-2.0-only
"""Devices offered over the vfio-user protocol."""
