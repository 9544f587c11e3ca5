# SPDX-License-Identifier: GPL-2.0-only
"""``linux/kvm.h``, as far as the kvm-vfio device needs it: numbers and structs only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from uvfio.uapi.cstruct import cstruct

KVM_API_VERSION = 12
KVM_CAP_DEVICE_CTRL = 89

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_CREATE_DEVICE = 0xC00CAEE0
KVM_SET_DEVICE_ATTR = 0x4018AEE1
KVM_GET_DEVICE_ATTR = 0x4018AEE2
KVM_HAS_DEVICE_ATTR = 0x4018AEE3

KVM_DEV_TYPE_VFIO = 4
KVM_CREATE_DEVICE_TEST = 1

KVM_DEV_VFIO_FILE = 1
KVM_DEV_VFIO_FILE_ADD = 1
KVM_DEV_VFIO_FILE_DEL = 2
KVM_DEV_VFIO_GROUP = KVM_DEV_VFIO_FILE
KVM_DEV_VFIO_GROUP_ADD = KVM_DEV_VFIO_FILE_ADD
KVM_DEV_VFIO_GROUP_DEL = KVM_DEV_VFIO_FILE_DEL
KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE = 3

kvm_create_device = cstruct(
    "kvm_create_device",
    size=12,
    fields="""
    u32 type
    u32 fd
    u32 flags
""",
)

kvm_device_attr = cstruct(
    "kvm_device_attr",
    size=24,
    fields="""
    u32 flags
    u32 group
    u64 attr
    u64 addr
""",
)

kvm_vfio_spapr_tce = cstruct(
    "kvm_vfio_spapr_tce",
    size=8,
    fields="""
    s32 groupfd
    s32 tablefd
""",
)

REQUESTS: Mapping[int, tuple[str, Any]] = MappingProxyType(
    {
        KVM_GET_API_VERSION: ("KVM_GET_API_VERSION", None),
        KVM_CREATE_VM: ("KVM_CREATE_VM", None),
        KVM_CHECK_EXTENSION: ("KVM_CHECK_EXTENSION", None),
        KVM_CREATE_DEVICE: ("KVM_CREATE_DEVICE", kvm_create_device),
        KVM_SET_DEVICE_ATTR: ("KVM_SET_DEVICE_ATTR", kvm_device_attr),
        KVM_GET_DEVICE_ATTR: ("KVM_GET_DEVICE_ATTR", kvm_device_attr),
        KVM_HAS_DEVICE_ATTR: ("KVM_HAS_DEVICE_ATTR", kvm_device_attr),
    }
)
