# SPDX-License-Identifier: GPL-2.0-only
"""uvfio: Linux device assignment in user space, and a machine that tries its schedules."""
