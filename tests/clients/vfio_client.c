// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio_client: the whole job of a user-space driver for QEMU's edu device at
 * 0000:00:01.0, once through group and container and once through cdev and
 * iommufd, then a long list of misuses, one line per call. It prints the same
 * on every run, so two kernels can be compared byte for byte. Run as root it
 * binds edu, pci-testdev (02.0) and e1000e (03.0) to vfio-pci itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

static const uint64_t IOVA = 0x100000;

static uint8_t *pages(void)
{
	uint8_t *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	return memory;
}

static void show_type1_info(int container)
{
	struct type1_info info = { .argsz = 24 };

	TRY(call(container, VFIO_IOMMU_GET_INFO, &info), "IOMMU_GET_INFO argsz 24");
	out("argsz %u flags %#x pgsizes %#llx caps at %u", info.argsz, info.flags,
	    (unsigned long long)info.iova_pgsizes, info.cap_offset);
	TRY(call(container, VFIO_IOMMU_GET_INFO, &info), "IOMMU_GET_INFO argsz %u", info.argsz);
	out("caps at %u", info.cap_offset);
	for (uint32_t at = info.cap_offset; at;) {
		struct cap_header *cap = (void *)((char *)&info + at);
		const uint32_t *word = (void *)(cap + 1);
		note("  capability %u version %u next %u: %#x %#x %#x %#x", cap->id, cap->version, cap->next,
		     word[0], cap->id == 3 ? 0 : word[1], cap->id == 3 ? 0 : word[2], cap->id == 3 ? 0 : word[3]);
		if (cap->id == 1) {
			const struct iova_range *ranges = (void *)(word + 2);
			for (uint32_t i = 0; i < word[0]; i++)
				note("  range %#llx..%#llx", (unsigned long long)ranges[i].start,
				     (unsigned long long)ranges[i].last);
		}
		at = cap->next;
	}
}

static void group_and_container(void)
{
	struct group_status status = { .argsz = sizeof(status) };
	uint8_t *memory = pages();
	uint64_t size = 4 * PAGE;

	section("the job through group and container");
	int container = TRY_FD(open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), "open /dev/vfio/vfio");
	int group = TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group");
	TRY(call(container, VFIO_GET_API_VERSION, NULL), "GET_API_VERSION");
	for (unsigned long i = 0; i < 12; i++)
		TRY(call(container, VFIO_CHECK_EXTENSION, (void *)i), "CHECK_EXTENSION %lu", i);
	TRY(call(group, VFIO_GROUP_GET_STATUS, &status), "GROUP_GET_STATUS");
	out("flags %u", status.flags);
	TRY(set_container(group, container), "GROUP_SET_CONTAINER");
	TRY(call(group, VFIO_GROUP_GET_STATUS, &status), "GROUP_GET_STATUS");
	out("flags %u", status.flags);
	TRY(call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "SET_IOMMU type1v2");
	for (unsigned long i = 0; i < 12; i++)
		TRY(call(container, VFIO_CHECK_EXTENSION, (void *)i), "CHECK_EXTENSION %lu", i);
	show_type1_info(container);
	TRY(map_dma(container, memory, IOVA, size, DMA_READ | DMA_WRITE), "MAP_DMA 4 pages");
	int device = TRY_FD(device_fd(group, EDU), "GROUP_GET_DEVICE_FD");
	TRY(fcntl(device, F_GETFD), "F_GETFD of the device fd");
	do_the_job(device, (struct dma){ IOVA, memory });
	TRY(unmap_dma(container, IOVA, &size), "UNMAP_DMA");
	out("%#llx bytes", (unsigned long long)size);
	TRY(close(container), "close the container, the group keeps it");
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER with the device open");
	TRY(close(device), "close the device");
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER");
	TRY(close(group), "close the group");
	munmap(memory, 4 * PAGE);
}

static void show_iova_ranges(int iommufd, uint32_t ioas)
{
	struct iova_range ranges[8];
	struct ioas_iova_ranges arg = {
		.size = sizeof(arg), .ioas_id = ioas, .num_iovas = 8, .allowed_iovas = (uintptr_t)ranges,
	};
	TRY(call(iommufd, IOMMU_IOAS_IOVA_RANGES, &arg), "IOAS_IOVA_RANGES");
	out("%u alignment %llu", arg.num_iovas, (unsigned long long)arg.out_iova_alignment);
	for (uint32_t i = 0; i < arg.num_iovas; i++)
		note("  range %#llx..%#llx", (unsigned long long)ranges[i].start, (unsigned long long)ranges[i].last);
}

static void cdev_and_iommufd(void)
{
	uint8_t *memory = pages();
	uint32_t devid, ioas, pt;

	section("the job through cdev and iommufd");
	int device = TRY_FD(open(cdev_path(EDU), O_RDWR | O_CLOEXEC), "open the device");
	int iommufd = TRY_FD(open("/dev/iommu", O_RDWR | O_CLOEXEC), "open /dev/iommu");
	TRY(bind_iommufd(device, iommufd, &devid), "BIND_IOMMUFD");
	out("devid %u", devid);
	TRY(ioas_alloc(iommufd, &ioas), "IOAS_ALLOC");
	out("id %u", ioas);
	show_iova_ranges(iommufd, ioas);
	pt = ioas;
	TRY(attach(device, &pt), "ATTACH_IOMMUFD_PT");
	out("hwpt %u", pt);
	show_iova_ranges(iommufd, ioas);
	TRY(ioas_map(iommufd, ioas, memory, IOVA, 4 * PAGE), "IOAS_MAP 4 pages");
	do_the_job(device, (struct dma){ IOVA, memory });
	struct ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = ioas, .iova = IOVA, .length = 4 * PAGE };
	TRY(call(iommufd, IOMMU_IOAS_UNMAP, &unmap), "IOAS_UNMAP");
	out("%#llx bytes", (unsigned long long)unmap.length);
	struct iommu_destroy destroy = { sizeof(destroy), ioas };
	TRY(call(iommufd, IOMMU_DESTROY, &destroy), "DESTROY the IOAS while attached");
	struct detach_pt detach = { .argsz = 8 };
	TRY(call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach), "DETACH_IOMMUFD_PT");
	TRY(call(iommufd, IOMMU_DESTROY, &destroy), "DESTROY the IOAS");
	TRY(close(iommufd), "close the iommufd, the device keeps it");
	TRY(close(device), "close the device");
	munmap(memory, 4 * PAGE);
}

static void nodes(void)
{
	const char *paths[] = { "/dev/vfio/vfio", "/dev/iommu" };
	struct stat st;

	section("nodes");
	for (unsigned i = 0; i < LENGTH(paths); i++) {
		TRY(stat(paths[i], &st), "stat %s", paths[i]);
		out("character device %d misc %d", S_ISCHR(st.st_mode), major(st.st_rdev) == 10);
	}
	int fd = TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group");
	TRY(fstat(fd, &st), "fstat it");
	out("character device %d", S_ISCHR(st.st_mode));
	close(fd);
	TRY(open("/dev/vfio/no-such-node", O_RDWR), "open /dev/vfio/no-such-node");
	TRY(open("/dev/vfio/devices/vfio999", O_RDWR), "open /dev/vfio/devices/vfio999");
}

int main(void)
{
	section("set-up");
	bind_to_vfio_pci(EDU);
	bind_to_vfio_pci(TESTDEV);
	bind_to_vfio_pci(E1000E);
	nodes();
	group_and_container();
	cdev_and_iommufd();
	misuse_matrix();
	misuse_group();
	misuse_type1();
	misuse_device();
	misuse_cdev();
	misuse_ioas();
	other_devices();
	unplug();
	section("end");
	return 0;
}
