// SPDX-License-Identifier: GPL-2.0-only
/*
 * Seconds for 64 MiB: memcpy, the device reading it, the device writing it; the
 * best of forty each. argv[1]: "private" or "shared" memory.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../tests/clients/client.h"
#include "../tests/clients/vfio_abi.h"

enum { SIZE = 64 << 20, ROUNDS = 40, HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2 };

static int device;
static uint64_t bar0;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void by_device(uint32_t command)
{
	uint32_t status = 0;
	if (pwrite(device, &command, 4, bar0 + 8) != 4 || pread(device, &status, 4, bar0 + 12) != 4 || status != 1)
		die("the device could not reach the memory");
}

int main(int argc, char **argv)
{
	double best[3] = { 1e9, 1e9, 1e9 };
	int shared = argc > 1 && !strcmp(argv[1], "shared"), memfd = shared ? memfd_create("dma", 0) : -1;
	int container = open("/dev/vfio/vfio", O_RDWR), group = open(group_path(EDU), O_RDWR);
	uint64_t iova = 0x10000000;

	if (shared && ftruncate(memfd, SIZE))
		die("ftruncate");
	int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, memfd, 0);
	uint8_t *other = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(memory, 1, SIZE);
	memset(other, 2, SIZE);
	if (set_container(group, container) || call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU))
		die("container");
	if (map_dma(container, memory, iova, SIZE, DMA_READ | DMA_WRITE))
		die("MAP_DMA of 64 MiB (ulimit -l)");
	device = device_fd(group, EDU);
	bar0 = region_offset(device, BAR0);
	uint16_t command = 6;
	if (pwrite(device, &command, 2, region_offset(device, CONFIG) + 4) != 2 || pwrite(device, &iova, 8, bar0) != 8)
		die("set-up");
	for (int i = 0; i < ROUNDS; i++) {
		double t[4] = { now() };
		memcpy(other, memory, SIZE);
		t[1] = now();
		by_device(HOST_TO_DEVICE);
		t[2] = now();
		by_device(DEVICE_TO_HOST);
		t[3] = now();
		for (int k = 0; k < 3; k++)
			best[k] = t[k + 1] - t[k] < best[k] ? t[k + 1] - t[k] : best[k];
	}
	printf("%.6f %.6f %.6f\n", best[0], best[1], best[2]);
	return 0;
}
