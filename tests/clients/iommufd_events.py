# SPDX-License-Identifier: GPL-2.0-only
"""
A VMM that waits for the events of an iommufd: poll, select and epoll on a fault queue and on
an event queue, reads and writes, copies of their fds, fork, and memory that both sides see.
For the toy IOMMU of the tests, whose hardware does things when asked to (toy_iommu.py).
"""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct

PAGE, TOY = 4096, 0xF00D
FAULT_ID_VALID, NEST_PARENT = 4, 1


def ioctl(fd: int, request: int, fmt: str, *values: int) -> tuple[int, ...]:
    """Pass the values as a struct whose first word is its size, and return them as the kernel left them."""
    arg = bytearray(struct.pack("<" + fmt, struct.calcsize("<" + fmt), *values))
    fcntl.ioctl(fd, request, arg)
    return struct.unpack("<" + fmt, arg)


def fails(call, *args: object) -> str:
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok"


def address(data: bytes) -> int:
    """Of a copy of *data* that lives as long as we do."""
    kept.append(mmap.mmap(-1, PAGE))
    kept[-1][: len(data)] = data
    return ctypes.addressof(ctypes.c_char.from_buffer(kept[-1]))


def hwpt(pt: int, flags: int, data: bytes = b"", fault: int = 0) -> int:
    where = address(data) if data else 0
    kind = TOY if data else 0
    return ioctl(iommufd, 0x3B89, "8IQ2I", flags, dev, pt, 0, 0, kind, len(data), where, fault, 0)[4]


def invalidate(target: int, data: bytes) -> None:
    ioctl(iommufd, 0x3B8D, "2IQ4I", target, address(data), TOY, len(data), 1, 0)


def page_request(grpid: int) -> None:
    invalidate(nested, struct.pack("<4I2Q", 0, grpid, 3, 1, 0x1000, 1))


def event(value: int, length: int = 4) -> None:
    invalidate(viommu, struct.pack("<2I", value, length))


def destroy(target: int) -> str:
    return fails(ioctl, iommufd, 0x3B80, "2I", target)


def polled(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLRDNORM)
    return dict(poll.poll(0)).get(fd, 0)


kept: list[mmap.mmap] = []
iommufd = os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC)
device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR | os.O_CLOEXEC)
dev = ioctl(device, 0x3B76, "IIiIQ", 0, iommufd, 0, 0)[3]
ioas = ioctl(iommufd, 0x3B81, "3I", 0, 0)[2]
parent = hwpt(ioas, NEST_PARENT)
_, _, queue, faults = ioctl(iommufd, 0x3B8E, "4I", 0, 0, 0)
nested = hwpt(parent, FAULT_ID_VALID, bytes(4), queue)
ioctl(device, 0x3B77, "3I", 0, nested)
viommu_data = address(struct.pack("<Q2I", 0, 0x55, 0))
viommu = ioctl(iommufd, 0x3B90, "8IQ", 0, TOY, dev, parent, 0, 16, 0, viommu_data)[5]
offset, _value, length = struct.unpack("<Q2I", kept[-1][:16])
events_id, events = ioctl(iommufd, 0x3B93, "8I", 0, viommu, TOY, 2, 0, 0, 0)[5:7]

print("fault queue:", hex(polled(faults)), os.read(faults, 40), fails(os.read, faults, 39), fails(os.read, faults, 0))
print("event queue:", hex(polled(events)), os.read(events, 8), fails(os.read, events, 7), fails(os.write, events, b"x"))
print("positions:", [fails(os.lseek, fd, 0, 1) for fd in (faults, events)], fails(os.pread, faults, 40, 0))
print("links:", os.readlink(f"/proc/self/fd/{faults}"), os.readlink(f"/proc/self/fd/{events}"))
print("close on exec:", [fcntl.fcntl(fd, fcntl.F_GETFD) for fd in (faults, events)])

epoll = select.epoll()
epoll.register(faults, select.EPOLLIN | select.EPOLLET)
epoll.register(events, select.EPOLLIN)
print("epoll, nothing:", epoll.poll(0))
page_request(1)
event(7)
print("epoll, both:", sorted(epoll.poll(0)) == sorted([(faults, 1), (events, 1)]))
print("epoll, edge and level:", epoll.poll(0) == [(events, 1)])
page_request(2)
print("epoll, another edge:", sorted(fd for fd, _ in epoll.poll(0)) == sorted([faults, events]))
print("select:", [fd in (faults, events) for fd in select.select([faults, events], [], [], 0)[0]])
print("poll:", hex(polled(faults)), hex(polled(events)))
print("EINVAL with one waiting:", fails(os.read, faults, 0), fails(os.read, events, 11))
print("event:", os.read(events, 64).hex(), hex(polled(events)))
first, second = os.read(faults, 40), os.read(faults, 80)
for name, data in (("first", first), ("second", second)):
    print(f"{name} fault:", struct.unpack("<6IQ2I", data))
print("read all:", hex(polled(faults)))
print("response:", os.write(faults, struct.pack("<4I", 1, 0, 9, 0)), fails(os.write, faults, struct.pack("<2I", 1, 0)))
page_request(3)
print("one waits:", hex(polled(faults)))
ioctl(device, 0x3B77, "3I", 0, parent)
print("detached:", hex(polled(faults)), os.read(faults, 40), fails(os.write, faults, struct.pack("<2I", 2, 0)))

copy = os.dup(events)
os.close(events)
event(8)
print("a copy:", hex(polled(copy)), os.read(copy, 64).hex(), "busy:", destroy(events_id))
pid = os.fork()
if pid == 0:
    event(9)
    os.read(copy, 64)
    os._exit(0)
os.waitpid(pid, 0)
print("the child has read it:", hex(polled(copy)))
event(10)
os.close(copy)
print("closed:", destroy(events_id), destroy(events_id))
os.close(faults)
print("fault queue in use:", destroy(queue), destroy(nested), destroy(queue))


def mapped(n: int = length, at: int = offset, flags: int = mmap.MAP_SHARED, prot: int = 3) -> mmap.mmap:
    return mmap.mmap(iommufd, n, flags, prot, offset=at)


print("odd:", fails(mapped, length, offset + PAGE), fails(mapped, PAGE), fails(mapped, length, 0))
print("private:", fails(mapped, length, offset, mmap.MAP_PRIVATE))
print("executable:", fails(mapped, length, offset, mmap.MAP_SHARED, 7))
memory = mapped()
memory[4:8] = b"user"
event(0, 0)
print("shared:", memory[:12], destroy(viommu))
stay, leave = os.pipe()
pid = os.fork()
if pid == 0:
    # It makes no call that anybody hears of, and has it mapped.
    os.close(leave)
    os.read(stay, 1)
    os._exit(0)
memory.close()
print("mapped by a child:", destroy(viommu))
os.close(leave)
os.waitpid(pid, 0)
print("by nobody:", destroy(viommu), fails(mapped), destroy(parent))
