# SPDX-License-Identifier: GPL-2.0-only
"""
Runs under ``uvfio run -d nvme,file=disk.img,size=64M -d edu``: Debian's QEMU gives both
devices to a Linux guest, which mounts a file system on the first. Then both are pulled out.

    uvfio run -d nvme,file=disk.img,size=64M -d edu -- python3 examples/demo_qemu.py --disk disk.img

Needs qemu-system-x86, a static busybox, mke2fs, cpio and a kernel with NVMe and ext4
(Debian: apt-get install qemu-system-x86 busybox-static linux-image-cloud-amd64).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

NVME, EDU = "0000:00:01.0", "0000:00:02.0"
MODULES = ("nvme", "ext4")  # that the guest needs, unless they are built in
GREETING = b"written by the host\n" * 1000

INIT = r"""#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev /mnt
/busybox --install -s /bin
export PATH=/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in /modules/*; do [ -f $m ] && insmod $m; done
find_pci() { for d in /sys/bus/pci/devices/*; do [ $(cat $d/$1) = $2 ] && echo $d; done; }
nvme=$(find_pci class 0x010802); edu=$(find_pci device 0x11e8)
echo "guest: $(uname -r)"
until [ -b /dev/nvme0n1 ]; do sleep 0.1; done
disk=/sys/block/nvme0n1
echo "nvme: $(cat $disk/device/model | xargs), $(cat $disk/size) sectors, $(ls $disk/mq | wc -l) queues"
echo 1 > $edu/enable
bar=$(head -n 1 $edu/resource | cut -d ' ' -f 1)
devmem $((bar + 8)) 32 10
echo "edu: 10! = $(($(devmem $((bar + 8)) 32)))"
mount -t ext4 /dev/nvme0n1 /mnt || poweroff -f
echo "file-from-host $(sha256sum < /mnt/greeting)"
dd if=/dev/urandom of=/mnt/random bs=64k count=128 2>/dev/null
sum=$(sha256sum < /mnt/random)
sync; echo 3 > /proc/sys/vm/drop_caches
[ "$sum" = "$(sha256sum < /mnt/random)" ] && echo "written, synced and read back: equal"
umount /mnt; sync; echo 3 > /proc/sys/vm/drop_caches
echo "disk $(sha256sum < /dev/nvme0n1)"
echo "ready for removal"
while [ -e $nvme ] || [ -e $edu ]; do sleep 0.1; done
[ -e /dev/nvme0n1 ] || echo "both are gone"
poweroff -f
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--disk", required=True, type=Path, help="the file behind the NVMe namespace")
    parser.add_argument("--kernel", type=Path, help="bzImage (default: the newest of /boot)")
    args = parser.parse_args()
    kernel = args.kernel or newest_kernel()
    if kernel is None:
        sys.exit("there must be a kernel in /boot, or one given with --kernel")
    with tempfile.TemporaryDirectory() as directory:
        make_file_system(args.disk, Path(directory))
        return run(command(kernel, make_initrd(Path(directory), kernel)), args.disk)


def newest_kernel() -> Path | None:
    found = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def make_file_system(disk: Path, directory: Path) -> None:
    (directory / "root").mkdir()
    (directory / "root" / "greeting").write_bytes(GREETING)
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "mke2fs"
    subprocess.run([mke2fs, "-q", "-F", "-t", "ext4", "-d", directory / "root", disk], check=True)


def make_initrd(directory: Path, kernel: Path, init: str = INIT, files: Sequence[Path] = ()) -> Path:
    """The guest's root: *init*, busybox, the modules that it needs, and *files* where they are here."""
    root = directory / "initrd.root"
    (root / "modules").mkdir(parents=True)
    for file in files:
        (root / file.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / file.relative_to("/"))
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "busybox")
    (root / "init").write_text(init)
    (root / "init").chmod(0o755)
    for n, module in enumerate(needed_modules(kernel)):
        shutil.copy(module, root / "modules" / f"{n:02}-{module.name}")
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    image = directory / "initrd"
    with image.open("wb") as out:
        cpio = ["cpio", "-o", "-H", "newc", "--quiet"]
        subprocess.run(cpio, cwd=root, input=names.encode(), stdout=out, check=True)
    return image


def needed_modules(kernel: Path) -> list[Path]:
    """MODULES and what they depend on, in the order of loading; those that are not built in."""
    tree = Path("/lib/modules") / kernel.name.partition("-")[2]
    if not (tree / "modules.dep").exists():
        return []
    depends = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        module, _, needs = line.partition(":")
        depends[module] = needs.split()
    order: list[str] = []
    for name in MODULES:
        for module in (each for each in depends if Path(each).name.partition(".")[0] == name):
            order += [each for each in [*reversed(depends[module]), module] if each not in order]
    return [tree / module for module in order]


def command(kernel: Path, initrd: Path, functions: Sequence[str] = (NVME, EDU)) -> list[str]:
    machine = "qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 256M -smp 2"
    machine += " -nodefaults -no-reboot -display none -serial stdio"
    devices = []
    for n, bdf in enumerate(functions):
        devices += ["-device", f"pcie-root-port,id=port{n},slot={n},chassis={n}"]
        devices += ["-device", f"vfio-pci,host={bdf},bus=port{n}"]
    boot = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 quiet panic=-1"]
    return [*machine.split(), *boot, *devices]


def run(qemu: list[str], disk: Path) -> int:
    """Show what the guest prints; compare its checksums with ours; then pull the devices out."""
    wanted = {"10! = 3628800", "read back: equal", "both are gone"}
    with subprocess.Popen(qemu, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, errors="replace") as guest:
        assert guest.stdout is not None
        for line in guest.stdout:
            text = line.strip("\r\n")
            print(text, flush=True)
            wanted = {each for each in wanted if not text.endswith(each)}
            if text.startswith("file-from-host "):
                check("the file that the host wrote", text.split()[1] == hashlib.sha256(GREETING).hexdigest())
            elif text.startswith("disk "):
                check("the whole disk", text.split()[1] == hashlib.sha256(disk.read_bytes()).hexdigest())
            elif text == "ready for removal":
                for bdf in (NVME, EDU):
                    print(f"host: unplug {bdf}: {control(f'unplug {bdf}')}", flush=True)
    for each in wanted:
        check(each, False)
    return 0


def check(what: str, good: bool) -> None:
    print(f"host: {what}: {'the same' if good else 'WRONG'}", flush=True)
    if not good:
        sys.exit(1)


def control(line: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["UVFIO_CONTROL"])
        connection.sendall(line.encode() + b"\n")
        return connection.makefile().readline().strip()


if __name__ == "__main__":
    sys.exit(main())
