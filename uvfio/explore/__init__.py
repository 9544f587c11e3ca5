# SPDX-License-Identifier: GPL-2.0-only
"""Search over interleavings: algorithms, shrinking, replay. Sees the runtime only."""
