// SPDX-License-Identifier: GPL-2.0-only
/* Printing, sysfs and the thin calls of vfio_client. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

static int line_open;

static void end_line(void)
{
	if (line_open)
		putchar('\n');
	line_open = 0;
	fflush(stdout);
}

void section(const char *title)
{
	end_line();
	printf("\n== %s\n", title);
}

void line(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	end_line();
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("%-64s", text);
	fflush(stdout);   /* a call that never returns is the last one shown */
	line_open = 1;
	errno = 0;
}

static const char *error_name(int error)
{
	switch (error) {            /* two names for one number on Linux */
	case EOPNOTSUPP: return "EOPNOTSUPP";
	case EAGAIN: return "EAGAIN";
	}
	const char *name = strerrorname_np(error);
	return name ? name : "E???";
}

static long show(long value, const char *good)
{
	int error = errno;

	if (value < 0)
		printf(" = -%s", error_name(error));
	else if (good)
		printf(" = %s", good);
	else
		printf(" = %ld", value);
	errno = error;
	return value;
}

long result(long value) { return show(value, NULL); }
long result_fd(long value) { return show(value, "fd"); }

void out(const char *fmt, ...)
{
	va_list ap;

	putchar(' ');
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

void note(const char *fmt, ...)
{
	va_list ap;

	end_line();
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	line_open = 1;
}

void die(const char *what)
{
	int error = errno;

	end_line();
	printf("cannot go on: %s: %s\n", what, error_name(error));
	exit(1);
}

int sysfs_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	int error = errno;
	close(fd);
	errno = error;
	return n < 0 ? -1 : 0;
}

void bind_to_vfio_pci(const char *bdf)
{
	char path[256], target[256];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", bdf);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", bdf);
		if (sysfs_write(path, "vfio-pci"))
			die("driver_override");
		if (sysfs_write("/sys/bus/pci/drivers_probe", bdf))
			die("drivers_probe");
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", bdf);
		n = readlink(path, target, sizeof(target) - 1);
	}
	if (n < 0)
		die("readlink driver");
	target[n] = 0;
	note("%s driver %s", bdf, strrchr(target, '/') + 1);
}

const char *group_path(const char *bdf)
{
	static char path[256];
	char link[256], target[256];

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	ssize_t n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		die("readlink iommu_group");
	target[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio%s", strrchr(target, '/'));
	return path;
}

const char *cdev_path(const char *bdf)
{
	static char path[512];
	char dir[256];

	snprintf(dir, sizeof(dir), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	DIR *d = opendir(dir);
	if (!d)
		die("opendir vfio-dev");
	path[0] = 0;
	for (struct dirent *e; (e = readdir(d));)
		if (!strncmp(e->d_name, "vfio", 4))
			snprintf(path, sizeof(path), "/dev/vfio/devices/%s", e->d_name);
	closedir(d);
	return path;
}

int call(int fd, unsigned long request, const void *arg) { return ioctl(fd, request, arg); }

int set_container(int group, int fd)
{
	int32_t number = fd;
	return ioctl(group, VFIO_GROUP_SET_CONTAINER, &number);
}

int device_fd(int group, const char *name) { return ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name); }

int map_dma(int container, void *vaddr, uint64_t iova, uint64_t size, uint32_t flags)
{
	struct dma_map map = { sizeof(map), flags, (uintptr_t)vaddr, iova, size };
	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

int unmap_dma(int container, uint64_t iova, uint64_t *size)
{
	struct dma_unmap unmap = { .argsz = 24, .iova = iova, .size = *size };
	int ret = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
	*size = unmap.size;
	return ret;
}

int bind_iommufd(int device, int iommufd, uint32_t *devid)
{
	struct bind_iommufd bind = { .argsz = 16, .iommufd = iommufd };
	int ret = ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind);
	*devid = bind.out_devid;
	return ret;
}

int ioas_alloc(int iommufd, uint32_t *id)
{
	struct ioas_alloc alloc = { .size = sizeof(alloc) };
	int ret = ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc);
	*id = alloc.out_ioas_id;
	return ret;
}

int ioas_map(int iommufd, uint32_t ioas, void *vaddr, uint64_t iova, uint64_t size)
{
	struct ioas_map map = {
		.size = sizeof(map), .flags = IOAS_FIXED | IOAS_READABLE | IOAS_WRITEABLE, .ioas_id = ioas,
		.user_va = (uintptr_t)vaddr, .length = size, .iova = iova,
	};
	return ioctl(iommufd, IOMMU_IOAS_MAP, &map);
}

int attach(int device, uint32_t *pt_id)
{
	struct attach_pt arg = { .argsz = 12, .pt_id = *pt_id };
	int ret = ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &arg);
	*pt_id = arg.pt_id;
	return ret;
}

int set_irqs(int device, uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const int32_t *data)
{
	struct irq_set set = { .flags = flags, .index = index, .start = start, .count = count };
	size_t bytes = flags & DATA_EVENTFD ? 4 * count : flags & DATA_BOOL ? count : 0;

	if (data && bytes && bytes <= sizeof(set.data))
		memcpy(set.data, data, bytes);
	set.argsz = 20 + (bytes <= sizeof(set.data) ? bytes : 0);
	return ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

uint64_t region_offset(int device, uint32_t index)
{
	struct region_info info = { .argsz = sizeof(info), .index = index };
	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		die("GET_REGION_INFO");
	return info.offset;
}

uint64_t eventfd_take(int fd, int timeout_ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	uint64_t count = 0;

	if (poll(&p, 1, timeout_ms) == 1 && read(fd, &count, 8) != 8)
		count = 0;
	return count;
}

struct opened opened;

int open_device(const char *bdf)
{
	opened.container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	opened.group = open(group_path(bdf), O_RDWR | O_CLOEXEC);
	if (set_container(opened.group, opened.container) || call(opened.container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU))
		die("container");
	int device = device_fd(opened.group, bdf);
	if (device < 0)
		die("GROUP_GET_DEVICE_FD");
	return device;
}

void close_device(int device)
{
	close(device);
	close(opened.group);
	close(opened.container);
}
