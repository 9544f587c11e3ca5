# SPDX-License-Identifier: GPL-2.0-only
"""What crosses the system-call line: structs and numbers; data only."""
