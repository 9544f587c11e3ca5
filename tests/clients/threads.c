// SPDX-License-Identifier: GPL-2.0-only
/* Many threads on one device: calls, BAR accesses by pread and through a mapping, DMA mappings, all at once. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

enum { THREADS = 4, ROUNDS = 50 };

static int container, group, device;
static uint64_t bar0, config;
static volatile uint32_t *regs;
static uint8_t *memory;

static int one_round(uintptr_t id)
{
	struct group_status status = { .argsz = sizeof(status) };
	uint32_t word = 0;
	uint64_t iova = 0x100000 + id * PAGE, size = PAGE;

	if (call(group, VFIO_GROUP_GET_STATUS, &status) || status.flags != 3)
		return 1;
	if (pread(device, &word, 4, config) != 4 || word != 0x11e81234)
		return 2;
	if (pread(device, &word, 4, bar0) != 4 || word != 0x10000ed)
		return 3;
	if (regs[EDU_ID / 4] != 0x10000ed)
		return 4;
	if (map_dma(container, memory + id * PAGE, iova, PAGE, DMA_READ | DMA_WRITE))
		return 5;
	if (unmap_dma(container, iova, &size) || size != PAGE)
		return 6;
	return 0;
}

static void *work(void *arg)
{
	intptr_t wrong = 0;
	for (int i = 0; i < ROUNDS && !wrong; i++)
		wrong = one_round((uintptr_t)arg);
	return (void *)wrong;
}

int main(void)
{
	pthread_t thread[THREADS];

	container = open("/dev/vfio/vfio", O_RDWR);
	group = open(group_path(EDU), O_RDWR);
	if (set_container(group, container) || call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU))
		die("container");
	device = device_fd(group, EDU);
	bar0 = region_offset(device, BAR0);
	config = region_offset(device, CONFIG);
	regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar0);
	memory = mmap(NULL, THREADS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, work, (void *)i);
	for (int i = 0; i < THREADS; i++) {
		void *wrong;
		pthread_join(thread[i], &wrong);
		printf("thread %d: step %ld went wrong\n", i, (long)wrong);
	}
	return 0;
}
