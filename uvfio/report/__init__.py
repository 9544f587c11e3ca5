# SPDX-License-Identifier: GPL-2.0-only
"""How findings are shown."""
