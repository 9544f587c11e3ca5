// SPDX-License-Identifier: GPL-2.0-only
/* Every request on every kind of fd, and groups and containers in the wrong order. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

struct kind { const char *name; int fd; };

static void every_request(struct kind kind)
{
	for (unsigned n = 0; n <= 23; n++)
		TRY(call(kind.fd, VFIO(n), NULL), "%s: VFIO request %u, no argument", kind.name, n);
	TRY(call(kind.fd, VFIO(27), NULL), "%s: VFIO request 27, no argument", kind.name);
	for (unsigned nr = 0x7f; nr <= 0x86; nr++)
		TRY(call(kind.fd, IOMMU(nr), NULL), "%s: IOMMU request %#x, no argument", kind.name, nr);
}

void misuse_matrix(void)
{
	int pipes[2];
	uint32_t devid;

	section("every request on every kind of fd");
	if (pipe2(pipes, O_CLOEXEC))
		die("pipe2");
	struct kind kinds[] = {
		{ "container", open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC) },
		{ "group", open(group_path(EDU), O_RDWR | O_CLOEXEC) },
		{ "unbound cdev", open(cdev_path(EDU), O_RDWR | O_CLOEXEC) },
		{ "iommufd", open("/dev/iommu", O_RDWR | O_CLOEXEC) },
		{ "eventfd", eventfd(0, EFD_CLOEXEC) },
		{ "/dev/null", open("/dev/null", O_RDWR | O_CLOEXEC) },
		{ "pipe", pipes[0] },
		{ "directory", open("/", O_RDONLY | O_CLOEXEC) },
		{ "closed fd", NOT_OPEN },
		{ "-1", -1 },
	};
	for (unsigned i = 0; i < LENGTH(kinds); i++)
		every_request(kinds[i]);
	TRY(set_container(kinds[1].fd, kinds[0].fd), "GROUP_SET_CONTAINER");
	every_request((struct kind){ "container with a group", kinds[0].fd });
	TRY(call(kinds[0].fd, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "SET_IOMMU type1v2");
	every_request((struct kind){ "type1 container", kinds[0].fd });
	int device = TRY_FD(device_fd(kinds[1].fd, EDU), "GROUP_GET_DEVICE_FD");
	every_request((struct kind){ "device", device });
	every_request((struct kind){ "busy group", kinds[1].fd });
	close(device);
	TRY(call(kinds[1].fd, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER");
	close(kinds[1].fd);
	TRY(bind_iommufd(kinds[2].fd, kinds[3].fd, &devid), "BIND_IOMMUFD");
	every_request((struct kind){ "bound cdev", kinds[2].fd });
	for (unsigned i = 0; i < LENGTH(kinds); i++)
		if (i != 1 && kinds[i].fd >= 0 && kinds[i].fd != NOT_OPEN)
			close(kinds[i].fd);
	close(pipes[1]);
}

static void group_status_sizes(int group)
{
	const uint32_t sizes[] = { 0, 1, 7, 8, 9, 64, 0xffffffff };
	for (unsigned i = 0; i < LENGTH(sizes); i++) {
		struct group_status status = { sizes[i], 0xee };
		TRY(call(group, VFIO_GROUP_GET_STATUS, &status), "GROUP_GET_STATUS argsz %u", sizes[i]);
		out("argsz %u flags %#x", status.argsz, status.flags);
	}
}

static void device_names(int group)
{
	static char longest[5001];
	const char *names[] = {
		"", "edu", "0000:00:01.1", TESTDEV, "00:01.0", "0000:00:01", EDU "x", EDU "\n", " " EDU, EDU " ",
		EDU " foo=1", EDU " vf_token=", EDU " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
		EDU " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1fz", EDU " vf_token=bd8d",
	};
	for (unsigned i = 0; i < LENGTH(names); i++) {
		const char *shown = strcmp(names[i], EDU "\n") ? names[i] : EDU "\\n";
		int fd = TRY_FD(device_fd(group, names[i]), "GROUP_GET_DEVICE_FD \"%s\"", shown);
		if (fd >= 0)
			close(fd);
	}
	memset(longest, 'a', sizeof(longest) - 1);
	TRY_FD(device_fd(group, longest), "GROUP_GET_DEVICE_FD, 5000 letters");
	longest[4095] = 0;
	TRY_FD(device_fd(group, longest), "GROUP_GET_DEVICE_FD, 4095 letters");
	TRY_FD(device_fd(group, NULL), "GROUP_GET_DEVICE_FD NULL");
	TRY_FD(device_fd(group, (char *)16), "GROUP_GET_DEVICE_FD bad pointer");
}

static void containers_for(int group, int container, int iommufd)
{
	int event = eventfd(0, EFD_CLOEXEC), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct kind kinds[] = {
		{ "-1", -1 }, { "closed fd", NOT_OPEN }, { "huge fd", 0x7fffffff }, { "eventfd", event },
		{ "/dev/null", null }, { "the group itself", group },
	};
	for (unsigned i = 0; i < LENGTH(kinds); i++)
		TRY(set_container(group, kinds[i].fd), "GROUP_SET_CONTAINER to %s", kinds[i].name);
	TRY(call(group, VFIO_GROUP_SET_CONTAINER, (void *)16), "GROUP_SET_CONTAINER bad pointer");
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER, none set");
	TRY(set_container(group, container), "GROUP_SET_CONTAINER");
	for (unsigned i = 0; i < LENGTH(kinds); i++)
		TRY(set_container(group, kinds[i].fd), "again, to %s", kinds[i].name);
	TRY(set_container(group, container), "again, to the same");
	TRY(set_container(group, iommufd), "again, to an iommufd");
	close(event);
	close(null);
}

static void types_for(int container)
{
	const unsigned long types[] = { 0, 2, 4, 5, 6, 7, 8, 9, 10, 77, 0xffffffff };
	for (unsigned i = 0; i < LENGTH(types); i++)
		TRY(call(container, VFIO_SET_IOMMU, (void *)types[i]), "SET_IOMMU %lu", types[i]);
}

static void sharing(int group, int container)
{
	uint64_t size = PAGE;
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int other_container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	int other = TRY_FD(open(group_path(TESTDEV), O_RDWR | O_CLOEXEC), "open pci-testdev's group");

	TRY(set_container(other, container), "it joins the container");
	TRY(map_dma(container, page, 0x10000, PAGE, DMA_READ), "MAP_DMA for both");
	TRY_FD(device_fd(other, EDU), "edu through the wrong group");
	int device = TRY_FD(device_fd(other, TESTDEV), "pci-testdev");
	TRY(call(other, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER with its device open");
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER of edu's group");
	TRY(unmap_dma(container, 0x10000, &size), "the mapping is still there");
	out("%#llx bytes", (unsigned long long)size);
	TRY(set_container(group, other_container), "edu's group to another container");
	TRY_FD(device_fd(group, EDU), "its device before SET_IOMMU");
	TRY(call(other_container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1_IOMMU), "SET_IOMMU type1");
	TRY(close(other), "close pci-testdev's group, its device still open");
	TRY_FD(open(group_path(TESTDEV), O_RDWR | O_CLOEXEC), "open it again");
	TRY(close(device), "close its device");
	other = TRY_FD(open(group_path(TESTDEV), O_RDWR | O_CLOEXEC), "open it again");
	close(other);
	TRY(call(container, VFIO_IOMMU_MAP_DMA, NULL), "MAP_DMA in a container that all groups left");
	TRY(call(container, VFIO_CHECK_EXTENSION, (void *)10), "CHECK_EXTENSION 10 there");
	close(other_container);
	munmap(page, PAGE);
}

static void group_with_iommufd(int group, int iommufd)
{
	uint64_t size = PAGE;
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct group_status status = { .argsz = sizeof(status) };

	TRY(map_dma(iommufd, page, 0x10000, PAGE, DMA_READ), "iommufd MAP_DMA before any compat IOAS");
	TRY(set_container(group, iommufd), "GROUP_SET_CONTAINER to an iommufd");
	TRY(call(group, VFIO_GROUP_GET_STATUS, &status), "GROUP_GET_STATUS");
	out("flags %u", status.flags);
	for (unsigned long i = 0; i < 12; i++)
		TRY(call(iommufd, VFIO_CHECK_EXTENSION, (void *)i), "iommufd CHECK_EXTENSION %lu", i);
	TRY(call(iommufd, VFIO_SET_IOMMU, (void *)8UL), "iommufd SET_IOMMU 8");
	TRY(call(iommufd, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "iommufd SET_IOMMU type1v2");
	TRY(call(iommufd, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "iommufd SET_IOMMU again");
	int device = TRY_FD(device_fd(group, EDU), "GROUP_GET_DEVICE_FD");
	TRY(map_dma(iommufd, page, 0x10000, PAGE, DMA_READ | DMA_WRITE), "iommufd MAP_DMA");
	TRY(map_dma(iommufd, page, 0x10000, PAGE, DMA_READ | DMA_WRITE), "iommufd MAP_DMA twice");
	TRY(unmap_dma(iommufd, 0x10000, &size), "iommufd UNMAP_DMA");
	out("%#llx bytes", (unsigned long long)size);
	TRY(unmap_dma(iommufd, 0x10000, &size), "iommufd UNMAP_DMA twice");
	out("%#llx bytes", (unsigned long long)size);
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER with the device open");
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER twice");
	close(device);
	munmap(page, PAGE);
}

void misuse_group(void)
{
	section("groups and containers in the wrong order");
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	int group = TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group");

	TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open it twice");
	TRY_FD(open(group_path(EDU), O_RDONLY | O_CLOEXEC), "open it twice, read-only");
	group_status_sizes(group);
	TRY(call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "SET_IOMMU without a group");
	TRY_FD(device_fd(group, EDU), "GROUP_GET_DEVICE_FD without a container");
	containers_for(group, container, iommufd);
	TRY_FD(device_fd(group, EDU), "GROUP_GET_DEVICE_FD before SET_IOMMU");
	types_for(container);
	TRY(call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "SET_IOMMU type1v2");
	TRY(call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), "SET_IOMMU twice");
	TRY(call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1_IOMMU), "SET_IOMMU type1 afterwards");
	device_names(group);
	int one = TRY_FD(device_fd(group, EDU), "GROUP_GET_DEVICE_FD");
	int two = TRY_FD(device_fd(group, EDU), "GROUP_GET_DEVICE_FD twice");
	TRY(close(one), "close the first");
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER with the second open");
	TRY(close(two), "close the second");
	sharing(group, container);
	TRY(close(group), "close edu's group");
	group = TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open it again");
	group_with_iommufd(group, iommufd);
	int copy = TRY_FD(dup(group), "dup the group fd");
	TRY(close(group), "close the original");
	TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group, the copy is open");
	TRY(call(copy, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER on the copy");
	TRY(close(copy), "close the copy");
	group = TRY_FD(open(group_path(EDU), O_RDWR | O_CLOEXEC), "open the group");
	TRY(close(group), "close it");
	TRY(close(group), "close it twice");
	close(container);
	close(iommufd);
}
