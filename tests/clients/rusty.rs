// SPDX-License-Identifier: GPL-2.0-only
//! A client as Rust VMMs are written: std::fs::File, raw fds, threads, no knowledge of its host.
use std::fs::{self, File, OpenOptions};
use std::io::Result;
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::thread;

extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

const EDU: &str = "0000:00:01.0";

fn open(path: &str) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn region_offset(device: &File, index: u32) -> u64 {
    let mut info = [32u32, 0, index, 0, 0, 0, 0, 0];
    assert_eq!(unsafe { ioctl(device.as_raw_fd(), 0x3b6c, info.as_mut_ptr()) }, 0);
    u64::from(info[6]) | u64::from(info[7]) << 32
}

fn main() -> Result<()> {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{EDU}/iommu_group"))?;
    let number = link.file_name().unwrap().to_str().unwrap().to_owned();
    let container = open("/dev/vfio/vfio")?;
    let group = open(&format!("/dev/vfio/{number}"))?;
    let fd = container.as_raw_fd();
    assert_eq!(unsafe { ioctl(group.as_raw_fd(), 0x3b68, &fd as *const i32) }, 0);
    assert_eq!(unsafe { ioctl(fd, 0x3b66, 3) }, 0);
    let name = format!("{EDU}\0");
    let device = unsafe { ioctl(group.as_raw_fd(), 0x3b6a, name.as_ptr()) };
    assert!(device >= 0);
    let device = unsafe { File::from_raw_fd(device) };
    let bar0 = region_offset(&device, 0);
    let threads: Vec<_> = (0..4u32)
        .map(|_| {
            let device = device.try_clone().unwrap();
            thread::spawn(move || {
                let mut word = [0u8; 4];
                (0..100).all(|_| device.read_at(&mut word, bar0).unwrap() == 4 && u32::from_le_bytes(word) == 0x10000ed)
            })
        })
        .collect();
    let good = threads.into_iter().all(|t| t.join().unwrap());
    println!("every thread read the identification: {good}");
    Ok(())
}
