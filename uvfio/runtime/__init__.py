# SPDX-License-Identifier: GPL-2.0-only
"""Tasks, points, events and the policies that decide who runs next."""
