// SPDX-License-Identifier: GPL-2.0-only
//! A driver in Rust: an NVMe disk and an I/OAT engine by mapped registers and polled memory, nothing else.
use std::fs::{self, File, OpenOptions};
use std::io::Result;
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::ptr::{null_mut, read_volatile, write_volatile};

extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
    fn mmap(addr: *mut u8, length: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> *mut u8;
}

const NVME: &str = "0000:00:01.0";
const IOAT: &str = "0000:00:02.0";
const IOVA: u64 = 0x2_0000_0000;
const MEMORY: usize = 1 << 20;

/// An open device: BAR 0, and memory of ours that it finds at IOVA.
struct Device {
    bar: *mut u8,
    memory: *mut u8,
    _files: [File; 3],
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn region_offset(device: &File, index: u32) -> u64 {
    let mut info = [32u32, 0, index, 0, 0, 0, 0, 0];
    assert_eq!(unsafe { ioctl(device.as_raw_fd(), 0x3b6c, info.as_mut_ptr()) }, 0);
    u64::from(info[6]) | u64::from(info[7]) << 32
}

impl Device {
    fn open(bdf: &str) -> Result<Device> {
        let link = fs::read_link(format!("/sys/bus/pci/devices/{bdf}/iommu_group"))?;
        let container = open("/dev/vfio/vfio")?;
        let group = open(&format!("/dev/vfio/{}", link.file_name().unwrap().to_str().unwrap()))?;
        let fd = container.as_raw_fd();
        unsafe {
            assert_eq!(ioctl(group.as_raw_fd(), 0x3b68, &fd as *const i32), 0);
            assert_eq!(ioctl(fd, 0x3b66, 3), 0);
            let memory = mmap(null_mut(), MEMORY, 3, 0x22, -1, 0);
            let map: [u64; 4] = [32 | 3 << 32, memory as u64, IOVA, MEMORY as u64];
            assert_eq!(ioctl(fd, 0x3b71, map.as_ptr()), 0);
            let device = ioctl(group.as_raw_fd(), 0x3b6a, format!("{bdf}\0").as_ptr());
            assert!(device >= 0);
            let device = File::from_raw_fd(device);
            device.write_at(&6u16.to_le_bytes(), region_offset(&device, 7) + 4)?;
            let bar = mmap(null_mut(), 0x4000, 3, 1, device.as_raw_fd(), region_offset(&device, 0) as i64);
            assert_ne!(bar as isize, -1);
            Ok(Device { bar, memory, _files: [container, group, device] })
        }
    }

    fn get<T>(&self, at: usize) -> T {
        unsafe { read_volatile(self.bar.add(at) as *const T) }
    }

    fn set<T>(&self, at: usize, value: T) {
        unsafe { write_volatile(self.bar.add(at) as *mut T, value) }
    }

    fn peek<T>(&self, at: usize) -> T {
        unsafe { read_volatile(self.memory.add(at) as *const T) }
    }

    fn poke<T>(&self, at: usize, value: T) {
        unsafe { write_volatile(self.memory.add(at) as *mut T, value) }
    }

    fn bytes(&self, at: usize, n: usize) -> &mut [u8] {
        unsafe { std::slice::from_raw_parts_mut(self.memory.add(at), n) }
    }
}

/// A queue pair: entries at `sq` and `cq` of the memory.
struct Pair {
    qid: usize,
    sq: usize,
    cq: usize,
    tail: u16,
    head: u16,
    phase: u16,
}

const ENTRIES: u16 = 64;
const DATA: usize = 0x10000;

impl Pair {
    fn new(qid: usize, sq: usize, cq: usize) -> Pair {
        Pair { qid, sq, cq, tail: 0, head: 0, phase: 1 }
    }

    /// Runs `count` commands that `make(n)` gives as (opcode, nsid, offset of the data, cdw10, cdw11, cdw12),
    /// with one doorbell for all of them; how many failed.
    fn run(&mut self, device: &Device, count: u16, make: impl Fn(u64) -> [u64; 6]) -> usize {
        for n in 0..count {
            let [opcode, nsid, data, cdw10, cdw11, cdw12] = make(n.into());
            let at = self.sq + 64 * usize::from(self.tail);
            let words = [opcode | nsid << 32, 0, 0, IOVA + data, 0, cdw10 | cdw11 << 32, cdw12, 0];
            for (i, word) in words.into_iter().enumerate() {
                device.poke(at + 8 * i, word);
            }
            self.tail = (self.tail + 1) % ENTRIES;
        }
        device.set(0x1000 + 8 * self.qid, u32::from(self.tail));
        let mut failed = 0;
        for _ in 0..count {
            let at = self.cq + 16 * usize::from(self.head);
            while device.peek::<u16>(at + 14) & 1 != self.phase {
                std::hint::spin_loop();
            }
            failed += usize::from(device.peek::<u16>(at + 14) >> 1 != 0);
            self.head = (self.head + 1) % ENTRIES;
            self.phase ^= u16::from(self.head == 0);
        }
        device.set(0x1004 + 8 * self.qid, u32::from(self.head));
        failed
    }
}

fn nvme() -> Result<()> {
    let device = Device::open(NVME)?;
    let size = u32::from(ENTRIES - 1);
    device.set(0x24, size << 16 | size);
    device.set(0x28, IOVA);
    device.set(0x30, IOVA + 0x1000);
    device.set(0x14, 4u32 << 20 | 6 << 16 | 1);
    while device.get::<u32>(0x1c) & 1 == 0 {}
    let mut admin = Pair::new(0, 0, 0x1000);
    let queue = u64::from(size) << 16 | 1;
    assert_eq!(admin.run(&device, 1, |_| [5, 0, 0x3000, queue, 1, 0]), 0);
    assert_eq!(admin.run(&device, 1, |_| [1, 0, 0x2000, queue, 1 << 16 | 1, 0]), 0);
    let mut io = Pair::new(1, 0x2000, 0x3000);
    for (n, byte) in device.bytes(DATA, 32 * 4096).iter_mut().enumerate() {
        *byte = (n * 7 + n / 4096) as u8;
    }
    let wrote = io.run(&device, 32, |n| [1, 1, DATA as u64 + 4096 * n, 8 * n, 0, 7]);
    let back = DATA + 64 * 4096;
    let read = io.run(&device, 32, |n| [2, 1, back as u64 + 4096 * n, 8 * n, 0, 7]);
    let equal = device.bytes(DATA, 32 * 4096) == device.bytes(back, 32 * 4096);
    println!("NVMe: 32 written, 32 read, failed {}, equal {equal}", wrote + read);
    Ok(())
}

fn ioat() -> Result<()> {
    let device = Device::open(IOAT)?;
    device.set(0x84, 0x20u8);
    while device.get::<u8>(0x84) & 0x20 != 0 {}
    device.set(0x98, IOVA + 0x8000);
    device.set(0x90, IOVA);
    device.bytes(DATA, 0x8000).fill(0x5a);
    for n in 0..8u64 {
        let source = IOVA + DATA as u64 + 0x1000 * n;
        let words = [0x1000 | 8 << 32, source, source + 0x10000, IOVA + 64 * (n + 1)];
        for (i, word) in words.into_iter().enumerate() {
            device.poke(64 * n as usize + 8 * i, word);
        }
    }
    device.set(0x86, 8u16);
    while device.peek::<u64>(0x8000) & !63 != IOVA + 64 * 7 {
        std::hint::spin_loop();
    }
    let equal = device.bytes(DATA, 0x8000) == device.bytes(DATA + 0x10000, 0x8000);
    println!("I/OAT: 8 copies, equal {equal}");
    Ok(())
}

fn main() -> Result<()> {
    nvme()?;
    ioat()
}
