# SPDX-License-Identifier: GPL-2.0-only
"""The supervisor: serves unmodified programs."""
