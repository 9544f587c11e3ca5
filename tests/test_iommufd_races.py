# SPDX-License-Identifier: GPL-2.0-only
"""iommufd and the IOMMU core over all interleavings of two tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from iommu_machine import PG, A, B, Iommu, boot, dev

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Judge, Result, explore
from uvfio.linux.base import pci
from uvfio.linux.iommu import iommu
from uvfio.linux.iommufd import device, objects
from uvfio.linux.iommufd.pages import user_struct
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Errno, errno_name
from uvfio.runtime.task import Task

Bodies = tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]
U64_MAX = 2**64 - 1


class Machine:
    def __init__(self, runtime: ControlledRuntime) -> None:
        self.statics: dict[Any, Any] = {}
        runtime.machine = self


def answer(body: Callable[[], Any]) -> Callable[[], str]:
    """What *body* came to: it answers an errno, a tuple that starts with one, or None, or raises Errno."""

    def run() -> str:
        try:
            got = body()
        except Errno as e:
            return errno_name(e.number)
        error = got[0] if isinstance(got, tuple) else got
        return errno_name(error) if error else "ok"

    return run


def attach(idev: Any, pt_id: int) -> None:
    device.iommufd_device_attach(idev, 0, pt_id)


def every_order(
    setup: Callable[[], Bodies], budget: float | None = None, before: Callable[[], None] = lambda: None
) -> Result:
    """
    Explore the first two functions that *setup* answers; the third cleans up and checks.
    *before* is for what must be there when the machine boots.
    """

    def program(runtime: ControlledRuntime) -> Judge:
        Machine(runtime)

        def prepare() -> Bodies:
            before()
            boot(A, B)
            return setup()

        one, two, clean_up = runtime.run_function(prepare, "setup")
        tasks: list[Task] = [runtime.spawn(answer(one), "A"), runtime.spawn(answer(two), "B")]

        def judge() -> tuple[str, ...]:
            for task in tasks:
                if task.exception is not None:
                    raise task.exception
            runtime.run_function(lambda: (clean_up(), check_quiet()), "cleanup")
            return tuple(str(task.result) for task in tasks)

        return judge

    result = explore(program, Dpor(), budget=budget)
    assert result.finding is None, result.finding
    assert result.complete, f"{result.runs} runs were not enough"
    return result


def check_quiet() -> None:
    assert user_struct().locked_vm == 0
    for bdf in (A, B):
        group = dev(bdf).iommu_group
        assert (group.owner_cnt, group.owner) == (0, None)
        assert group.domain is group.default_domain


def test_map_against_destroy() -> None:
    def setup() -> Bodies:
        i = Iommu()
        q, va = i.ioas(), i.buffer(PG)
        return lambda: i.map(q, va, PG, 0x1000, 7), lambda: i.destroy(q), lambda: i.process.close(i.fd)

    assert set(every_order(setup).outcomes) == {("ok", "ok"), ("ENOENT", "ok"), ("ok", "EBUSY")}


def test_map_against_unmap_with_a_device() -> None:
    def setup() -> Bodies:
        i = Iommu()
        q, va = i.ioas(), i.buffer(PG)
        idev = device.iommufd_device_bind(i.ctx, dev(A))
        device.iommufd_device_attach(idev, 0, q)

        def clean_up() -> None:
            assert len(idev.igroup.pasid_attach[0].hwpt.domain.mappings) == len(i.ctx.objects.load(q).iopt.area_itree)
            device.iommufd_device_detach(idev, 0)
            device.iommufd_device_unbind(idev)
            i.process.close(i.fd)

        return lambda: i.map(q, va, PG, 0x1000, 7), lambda: i.unmap(q, 0x1000, PG), clean_up

    assert set(every_order(setup).outcomes) == {("ok", "ok"), ("ok", "ENOENT"), ("ok", "EBUSY")}


def test_map_against_attach() -> None:
    def setup() -> Bodies:
        i = Iommu()
        q, va = i.ioas(), i.buffer(PG)
        idev = device.iommufd_device_bind(i.ctx, dev(A))

        def clean_up() -> None:
            idev.dev.dma_write(0x1000, b"both")  # whoever was first, the device sees the mapping
            assert i.process.mm.read(va, 4) == b"both"
            device.iommufd_device_detach(idev, 0)
            device.iommufd_device_unbind(idev)
            i.process.close(i.fd)

        return lambda: i.map(q, va, PG, 0x1000, 7), lambda: attach(idev, q), clean_up

    assert set(every_order(setup).outcomes) == {("ok", "ok")}


def test_two_devices_attach_at_once_and_share() -> None:
    def setup() -> Bodies:
        i = Iommu()
        q = i.ioas()
        one, two = (device.iommufd_device_bind(i.ctx, dev(bdf)) for bdf in (A, B))

        def clean_up() -> None:
            assert one.igroup.pasid_attach[0].hwpt is two.igroup.pasid_attach[0].hwpt
            for idev in (one, two):
                device.iommufd_device_detach(idev, 0)
                device.iommufd_device_unbind(idev)
            i.process.close(i.fd)

        return lambda: attach(one, q), lambda: attach(two, q), clean_up

    assert set(every_order(setup).outcomes) == {("ok", "ok")}


def test_unbind_against_a_call_on_the_device() -> None:
    def setup() -> Bodies:
        i = Iommu()
        idev = device.iommufd_device_bind(i.ctx, dev(A))
        q = i.ioas()
        device_id = idev.id
        return (
            lambda: device.iommufd_device_unbind(idev),
            lambda: i.hwpt(device_id, q),
            lambda: i.process.close(i.fd),
        )

    assert set(every_order(setup).outcomes) == {("ok", "ok"), ("ok", "ENOENT")}


def test_detach_against_destroy_of_the_automatic_page_table() -> None:
    def setup() -> Bodies:
        i = Iommu()
        q = i.ioas()
        idev = device.iommufd_device_bind(i.ctx, dev(A))
        h = device.iommufd_device_attach(idev, 0, q)

        def clean_up() -> None:
            device.iommufd_device_unbind(idev)
            i.process.close(i.fd)

        return lambda: device.iommufd_device_detach(idev, 0), lambda: i.destroy(h), clean_up

    assert set(every_order(setup).outcomes) == {("ok", "EBUSY"), ("ok", "ENOENT")}


def test_two_owners() -> None:
    def setup() -> Bodies:
        group = dev(A).iommu_group

        def claim(owner: str) -> None:
            iommu.iommu_group_claim_dma_owner(group, owner)
            assert group.owner == owner
            iommu.iommu_group_release_dma_owner(group)

        return lambda: claim("one"), lambda: claim("two"), lambda: None

    assert set(every_order(setup).outcomes) == {("ok", "ok"), ("ok", "EPERM"), ("EPERM", "ok")}


def test_a_kernel_driver_against_an_owner() -> None:
    def setup() -> Bodies:
        group = dev(A).iommu_group

        def drive() -> None:
            iommu.iommu_device_use_default_domain(dev(A))
            assert group.domain is group.default_domain
            iommu.iommu_device_unuse_default_domain(dev(A))

        def own() -> None:
            iommu.iommu_group_claim_dma_owner(group, "user")
            iommu.iommu_group_release_dma_owner(group)

        return drive, own, lambda: None

    assert set(every_order(setup).outcomes) == {("ok", "ok"), ("EBUSY", "ok"), ("ok", "EPERM")}


def test_group_reference_against_unplug() -> None:
    def setup() -> Bodies:
        group = iommu.iommu_group_get(dev(B))
        assert group is not None

        def clean_up() -> None:
            pci.pci_add_device(type(dev(A).model)(), B)
            assert dev(B).iommu_group.id == 1

        return lambda: iommu.iommu_group_put(group), lambda: pci.pci_unplug(B), clean_up

    assert set(every_order(setup).outcomes) == {("ok", "ok")}


def test_a_missing_lock_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """put_object in the wrong order: a destroyer sees a user that is on its way out."""

    def wrong(ictx: Any, obj: Any) -> None:
        if obj.wait_cnt.dec_and_test():
            ictx.destroy_wait.wake_up()
        obj.users.dec_and_test()

    monkeypatch.setattr(objects, "iommufd_put_object", wrong)
    with pytest.raises(AssertionError, match=r"could not be destroyed|use-after-free"):
        test_unbind_against_a_call_on_the_device()
