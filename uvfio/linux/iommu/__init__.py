# SPDX-License-Identifier: GPL-2.0-only
"""IOMMU groups, domains, ownership, and the IOMMU drivers."""
