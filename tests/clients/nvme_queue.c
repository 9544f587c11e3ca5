// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "nvme_queue.h"
#include "vfio_abi.h"

enum { CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30, DOORBELLS = 0x1000 };
enum { PRP_LISTS = 0x8000, LIST_ROOM = 512 };   /* one list for each entry of the I/O queue, of LIST_ROOM bytes */

volatile uint8_t *map_device(const char *bdf, void *memory, uint64_t iova, uint64_t length, int *device)
{
	int container = open("/dev/vfio/vfio", O_RDWR), group = open(group_path(bdf), O_RDWR);

	if (set_container(group, container) || call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU))
		die("container");
	if (map_dma(container, memory, iova, length, DMA_READ | DMA_WRITE))
		die("MAP_DMA");
	*device = device_fd(group, bdf);
	uint16_t command = 6;
	if (pwrite(*device, &command, 2, region_offset(*device, CONFIG) + 4) != 2)
		die("bus mastering");
	void *bar = mmap(NULL, 0x4000, PROT_READ | PROT_WRITE, MAP_SHARED, *device, region_offset(*device, BAR0));
	if (bar == MAP_FAILED)
		die("mmap of BAR 0");
	return bar;
}

static uint32_t get(struct nvme *nvme, uint32_t at)
{
	nvme->accesses++;
	return *(volatile uint32_t *)(nvme->registers + at);
}

static void set(struct nvme *nvme, uint32_t at, uint32_t value)
{
	nvme->accesses++;
	*(volatile uint32_t *)(nvme->registers + at) = value;
}

static void set64(struct nvme *nvme, uint32_t at, uint64_t value)
{
	nvme->accesses++;
	*(volatile uint64_t *)(nvme->registers + at) = value;
}

static struct nvme_pair pair_at(struct nvme *nvme, uint32_t sq, uint32_t cq, uint32_t qid)
{
	return (struct nvme_pair){
		.sq = (void *)(nvme->memory + sq), .cq = (void *)(nvme->memory + cq),
		.doorbells = (void *)(nvme->registers + DOORBELLS + 8 * qid), .phase = 1,
	};
}

void nvme_open(struct nvme *nvme, const char *bdf)
{
	int device;

	memset(nvme, 0, sizeof(*nvme));
	nvme->iova = 0x100000000;
	nvme->memory = mmap(NULL, NVME_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	nvme->registers = map_device(bdf, nvme->memory, nvme->iova, NVME_MEMORY, &device);
}

void nvme_start(struct nvme *nvme)
{
	uint32_t size = NVME_ENTRIES - 1;

	memset(nvme->memory, 0, PRP_LISTS);
	set(nvme, CC, 0);
	while (get(nvme, CSTS) & 1)
		;
	set(nvme, AQA, size << 16 | size);
	set64(nvme, ASQ, nvme->iova);
	set64(nvme, ACQ, nvme->iova + 0x1000);
	set(nvme, CC, 4 << 20 | 6 << 16 | 1);
	while (!(get(nvme, CSTS) & 1))
		;
	nvme->admin = pair_at(nvme, 0, 0x1000, 0);
	struct nvme_command create_cq = { .opcode = 5, .cdw = { size << 16 | 1, 1 } };
	struct nvme_command create_sq = { .opcode = 1, .cdw = { size << 16 | 1, 1 << 16 | 1 } };
	if (nvme_run(nvme, &nvme->admin, create_cq, 0x3000, 0) || nvme_run(nvme, &nvme->admin, create_sq, 0x2000, 0))
		die("creating queues");
	nvme->io = pair_at(nvme, 0x2000, 0x3000, 1);
}

void nvme_put(struct nvme *nvme, struct nvme_pair *pair, struct nvme_command command, uint32_t data, uint32_t length)
{
	command.cid = pair->tail;
	command.prp1 = nvme->iova + data;
	if (length > 0x1000)
		command.prp2 = nvme->iova + data + 0x1000;
	if (length > 0x2000) {
		uint32_t list = PRP_LISTS + LIST_ROOM * (pair->tail % 64);

		for (uint32_t i = 0; i * 0x1000 + 0x1000 < length; i++)
			((uint64_t *)(nvme->memory + list))[i] = command.prp2 + i * 0x1000;
		command.prp2 = nvme->iova + list;
	}
	memcpy((void *)&pair->sq[pair->tail], &command, sizeof(command));
	pair->tail = (pair->tail + 1) % NVME_ENTRIES;
}

void nvme_ring(struct nvme *nvme, struct nvme_pair *pair)
{
	nvme->accesses++;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	pair->doorbells[0] = pair->tail;
}

int nvme_take(struct nvme_pair *pair, struct nvme_completion *done)
{
	if ((pair->cq[pair->head].status & 1) != pair->phase)
		return 0;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	memcpy(done, (void *)&pair->cq[pair->head], sizeof(*done));
	pair->head = (pair->head + 1) % NVME_ENTRIES;
	pair->phase ^= pair->head == 0;
	return 1;
}

void nvme_acknowledge(struct nvme *nvme, struct nvme_pair *pair)
{
	nvme->accesses++;
	pair->doorbells[1] = pair->head;
}

int nvme_run(struct nvme *nvme, struct nvme_pair *pair, struct nvme_command command, uint32_t data, uint32_t length)
{
	struct nvme_completion done;

	nvme_put(nvme, pair, command, data, length);
	nvme_ring(nvme, pair);
	while (!nvme_take(pair, &done))
		;
	nvme_acknowledge(nvme, pair);
	return done.status >> 1 & 0x7ff;
}

struct nvme_command nvme_io_command(uint8_t opcode, uint64_t lba, uint32_t blocks)
{
	return (struct nvme_command){ .opcode = opcode, .nsid = 1, .cdw = { lba, lba >> 32, blocks - 1 } };
}

int nvme_io(struct nvme *nvme, uint8_t opcode, uint64_t lba, uint32_t blocks, uint32_t data)
{
	return nvme_run(nvme, &nvme->io, nvme_io_command(opcode, lba, blocks), data, 512 * blocks);
}
