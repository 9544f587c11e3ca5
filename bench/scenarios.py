# SPDX-License-Identifier: GPL-2.0-only
"""
A scenario that is big enough to be worth two processes: half a minute for one.

    uvfio explore bench/scenarios.py::three_openers --jobs 2
"""

from functools import partial
from itertools import product

from uvfio.linux.kernel.user import UserProcess
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.vfio import VFIO_GROUP_GET_STATUS

STATUS_SIZE = 8
QUESTIONS = 5  # of each process while it has the group open


@scenario(*(each for each in product(("opened", "EBUSY"), repeat=3) if "opened" in each))
def three_openers(scene: Scene) -> None:
    """Can three processes that have a group open in turn all be told that it is busy?"""
    scene.plug("edu")

    def use(process: UserProcess, arg: int) -> None:
        fd = process.open("/dev/vfio/1")
        for _ in range(QUESTIONS):
            process.ioctl(fd, VFIO_GROUP_GET_STATUS, arg)
        process.close(fd)

    for name in "ABC":
        process = scene.process()
        arg = process.mm.mmap(STATUS_SIZE)
        process.mm.write(arg, STATUS_SIZE.to_bytes(4, "little"))
        scene.task(name, partial(use, process, arg), "opened")
