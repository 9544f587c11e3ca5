# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's primitives, over the runtime."""
