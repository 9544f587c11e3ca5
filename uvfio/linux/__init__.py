# SPDX-License-Identifier: GPL-2.0-only
"""The modelled kernel. Below, rooms and files have Linux's own names."""
