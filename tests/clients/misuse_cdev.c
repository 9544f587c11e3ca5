// SPDX-License-Identifier: GPL-2.0-only
/* Wrong calls on a cdev, the other two devices, and unplugging. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

static void binds(int device, int iommufd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	static const char token[16] = "sixteen letters";
	const struct { const char *name; struct bind_iommufd arg; } rows[] = {
		{ "argsz 15", { 15, 0, iommufd, 0, 0, 0 } }, { "flags 2", { 16, 2, iommufd, 0, 0, 0 } },
		{ "iommufd -1", { 16, 0, -1, 0, 0, 0 } }, { "iommufd -2", { 16, 0, -2, 0, 0, 0 } },
		{ "iommufd not open", { 16, 0, NOT_OPEN, 0, 0, 0 } }, { "iommufd /dev/null", { 16, 0, null, 0, 0, 0 } },
		{ "iommufd the device", { 16, 0, device, 0, 0, 0 } }, { "excess byte", { 32, 0, iommufd, 0, 0, 1 } },
		{ "token, not needed", { 24, 1, iommufd, 0, (uintptr_t)token, 0 } },
		{ "token, bad pointer", { 24, 1, iommufd, 0, 16, 0 } }, { "token, no room for it", { 16, 1, iommufd, 0, 0, 0 } },
	};
	for (unsigned i = 0; i < LENGTH(rows); i++)
		TRY(call(device, VFIO_DEVICE_BIND_IOMMUFD, &rows[i].arg), "BIND_IOMMUFD %s", rows[i].name);
	close(null);
}

static void attaches(int device, uint32_t ioas, uint32_t devid)
{
	const struct { const char *name; struct attach_pt arg; } rows[] = {
		{ "argsz 11", { 11, 0, ioas, 0 } }, { "flags 2", { 12, 2, ioas, 0 } }, { "id 0", { 12, 0, 0, 0 } },
		{ "id 999", { 12, 0, 999, 0 } }, { "the device id", { 12, 0, devid, 0 } }, { "PASID, no room", { 12, 1, ioas, 1 } },
	};
	const struct { const char *name; struct detach_pt arg; } detaches[] = {
		{ "argsz 7", { 7, 0, 0 } }, { "flags 2", { 8, 2, 0 } }, { "PASID, no room", { 8, 1, 0 } }, { "", { 8, 0, 0 } },
		{ "twice", { 8, 0, 0 } },
	};
	for (unsigned i = 0; i < LENGTH(rows); i++) {
		struct attach_pt arg = rows[i].arg;
		TRY(call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &arg), "ATTACH %s", rows[i].name);
	}
	for (int i = 0; i < 2; i++) {
		uint32_t pt = ioas;
		TRY(attach(device, &pt), "ATTACH");
		out("hwpt %u", pt);
	}
	for (unsigned i = 0; i < LENGTH(detaches); i++) {
		struct detach_pt arg = detaches[i].arg;
		TRY(call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &arg), "DETACH %s", detaches[i].name);
	}
}

void misuse_cdev(void)
{
	uint32_t devid, ioas, other_ioas, pt, word = 0;
	int group;

	section("wrong calls on a cdev");
	int device = TRY_FD(open(cdev_path(EDU), O_RDWR | O_CLOEXEC), "open the cdev");
	int second = TRY_FD(open(cdev_path(EDU), O_RDWR | O_CLOEXEC), "open it twice");
	int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC), other = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	binds(device, iommufd);
	group = TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group");
	TRY(bind_iommufd(device, iommufd, &devid), "BIND_IOMMUFD with the group open");
	TRY(close(group), "close the group");
	TRY(bind_iommufd(device, iommufd, &devid), "BIND_IOMMUFD");
	out("devid %u", devid);
	TRY(bind_iommufd(device, iommufd, &devid), "BIND_IOMMUFD twice");
	TRY(bind_iommufd(device, other, &devid), "BIND_IOMMUFD to another iommufd");
	TRY(bind_iommufd(second, iommufd, &devid), "BIND_IOMMUFD of the second fd");
	TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group");
	TRY(pread(second, &word, 4, region_offset(device, CONFIG)), "pread the second, unbound fd");
	devid = 1;
	struct iommu_destroy destroy = { sizeof(destroy), devid };
	TRY(call(iommufd, IOMMU_DESTROY, &destroy), "DESTROY the device id");
	TRY(ioas_alloc(iommufd, &ioas), "IOAS_ALLOC");
	out("id %u", ioas);
	attaches(device, ioas, devid);
	pt = ioas;
	TRY(attach(device, &pt), "ATTACH");
	TRY(ioas_alloc(iommufd, &other_ioas), "IOAS_ALLOC");
	out("id %u", other_ioas);
	pt = other_ioas;
	TRY(attach(device, &pt), "ATTACH to another IOAS");
	destroy.id = ioas;
	TRY(call(iommufd, IOMMU_DESTROY, &destroy), "DESTROY the first IOAS");
	misuse_hot_resets(device, -1);
	misuse_infos(device);
	TRY(close(iommufd), "close the iommufd number");
	TRY(pread(device, &word, 4, region_offset(device, CONFIG)), "pread config");
	out("%#x", word);
	int copy = dup(device);
	TRY(close(device), "close the bound fd, a copy is open");
	TRY(bind_iommufd(second, other, &devid), "BIND_IOMMUFD of the second fd");
	TRY(close(copy), "close the copy");
	TRY(bind_iommufd(second, other, &devid), "BIND_IOMMUFD of the second fd");
	out("devid %u", devid);
	TRY(close(second), "close it");
	TRY(close(other), "close the other iommufd");
}

static void other_device(const char *name, const char *bdf)
{
	int device = open_device(bdf);
	struct device_info info = { .argsz = sizeof(info) };
	uint32_t id = 0;

	TRY(call(device, VFIO_DEVICE_GET_INFO, &info), "%s DEVICE_GET_INFO", name);
	out("flags %#x regions %u irqs %u", info.flags, info.num_regions, info.num_irqs);
	for (uint32_t i = 0; i < NUM_REGIONS; i++)
		for (uint32_t argsz = 32; argsz <= 40; argsz += 8) {
			uint32_t words[16] = { 0 };
			struct region_info *region = (void *)words;
			region->argsz = argsz;
			region->index = i;
			if (TRY(call(device, VFIO_DEVICE_GET_REGION_INFO, region), "%s GET_REGION_INFO %u argsz %u", name, i,
				argsz) == 0)
				out("argsz %u flags %#x size %#llx cap at %u: %#x %#x", region->argsz, region->flags,
				    (unsigned long long)region->size, region->cap_offset, words[8], words[9]);
		}
	for (uint32_t i = 0; i < 5; i++) {
		struct irq_info irq = { .argsz = sizeof(irq), .index = i };
		TRY(call(device, VFIO_DEVICE_GET_IRQ_INFO, &irq), "%s GET_IRQ_INFO %u", name, i);
		out("flags %#x count %u", irq.flags, irq.count);
	}
	pread(device, &id, 4, region_offset(device, CONFIG));
	note("%s vendor and device %#x", name, id);
	TRY(call(device, VFIO_DEVICE_RESET, NULL), "%s DEVICE_RESET", name);
	close_device(device);
}

void other_devices(void)
{
	section("the other devices");
	other_device("pci-testdev", TESTDEV);
	other_device("e1000e", E1000E);
}

static pid_t remove_in_child(const char *bdf)
{
	char path[128];
	pid_t pid = fork();

	if (pid)
		return pid;
	close_range(3, ~0U, 0);      /* a copy of the device fd here would make the removal wait for itself */
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/remove", bdf);
	_exit(sysfs_write(path, "1") ? errno : 0);
}

void unplug(void)
{
	struct group_status status_arg = { .argsz = sizeof(status_arg) };
	int status, request = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	char path[64];

	section("unplug");
	int device = open_device(EDU);
	snprintf(path, sizeof(path), "%s", group_path(EDU));
	TRY(set_irqs(device, DATA_EVENTFD | ACTION_TRIGGER, REQ, 0, 1, &request), "SET_IRQS REQ eventfd");
	pid_t pid = remove_in_child(EDU);
	note("request event: %d", eventfd_take(request, 20000) > 0);
	TRY(waitpid(pid, &status, WNOHANG), "the removal waits");
	uint32_t id = 0;
	TRY(pread(device, &id, 4, region_offset(device, CONFIG)), "the device still answers");
	out("%#x", id);
	TRY_FD(device_fd(opened.group, EDU), "GROUP_GET_DEVICE_FD while it goes");
	TRY(close(device), "close the device");
	waitpid(pid, &status, 0);
	note("the removal ended: exit status %d", WEXITSTATUS(status));
	TRY(access("/sys/bus/pci/devices/" EDU, F_OK), "its sysfs directory");
	TRY(call(opened.group, VFIO_GROUP_GET_STATUS, &status_arg), "dead group: GET_STATUS");
	TRY_FD(device_fd(opened.group, EDU), "dead group: GET_DEVICE_FD");
	TRY(call(opened.group, VFIO_GROUP_UNSET_CONTAINER, NULL), "dead group: UNSET_CONTAINER");
	TRY(set_container(opened.group, opened.container), "dead group: SET_CONTAINER");
	TRY(call(opened.container, VFIO_IOMMU_MAP_DMA, NULL), "its container: MAP_DMA NULL");
	TRY(close(opened.group), "close the dead group");
	TRY(close(opened.container), "close the container");
	TRY(access(path, F_OK), "its node");
	TRY(sysfs_write("/sys/bus/pci/rescan", "1"), "rescan");
	TRY(access("/sys/bus/pci/devices/" EDU, F_OK), "its sysfs directory");
	bind_to_vfio_pci(EDU);
	note("the same group number: %d", !strcmp(path, group_path(EDU)));
	device = open_device(EDU);
	TRY(pread(device, &id, 4, region_offset(device, CONFIG)), "it answers");
	out("%#x", id);
	close_device(device);
	close(request);
}
