# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines, as far as device assignment meets them. Mirrors ``virt/kvm``."""
