# SPDX-License-Identifier: GPL-2.0-only
"""Checkers that listen to the event stream. See the runtime only."""
