/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An NVMe driver in user space, as SPDK's: registers that are mapped, queues that
 * are polled, no interrupt. One admin queue pair and one for I/O.
 */
#ifndef NVME_QUEUE_H
#define NVME_QUEUE_H

#include <stdint.h>

enum { NVME_MEMORY = 2 << 20, NVME_ENTRIES = 64, NVME_DATA = 0x10000 };   /* the data starts behind the queues */
enum { NVME_FLUSH = 0, NVME_WRITE = 1, NVME_READ = 2, NVME_COMPARE = 5, NVME_ZEROES = 8 };

struct nvme_command {
	uint8_t opcode, flags;
	uint16_t cid;
	uint32_t nsid, reserved[2];
	uint64_t mptr, prp1, prp2;
	uint32_t cdw[6];
};

struct nvme_completion { uint32_t result, reserved; uint16_t sq_head, sqid, cid, status; };

struct nvme_pair {
	volatile struct nvme_command *sq;
	volatile struct nvme_completion *cq;
	volatile uint32_t *doorbells;    /* tail, head */
	uint32_t tail, head, phase;
};

struct nvme {
	volatile uint8_t *registers;
	uint8_t *memory;                 /* NVME_MEMORY bytes, which the device finds at iova */
	uint64_t iova;
	uint64_t accesses;               /* to registers, since it was opened */
	struct nvme_pair admin, io;
};

void nvme_open(struct nvme *nvme, const char *bdf);
void nvme_start(struct nvme *nvme);
/* Fill the next entry; *data* is an offset into the memory, *length* up to as many pages as a list page holds. */
void nvme_put(struct nvme *nvme, struct nvme_pair *pair, struct nvme_command command, uint32_t data, uint32_t length);
void nvme_ring(struct nvme *nvme, struct nvme_pair *pair);
int nvme_take(struct nvme_pair *pair, struct nvme_completion *done);      /* 1 if there was one */
void nvme_acknowledge(struct nvme *nvme, struct nvme_pair *pair);
/* One command from doorbell to doorbell; its status, without phase and retry bits. */
int nvme_run(struct nvme *nvme, struct nvme_pair *pair, struct nvme_command command, uint32_t data, uint32_t length);
int nvme_io(struct nvme *nvme, uint8_t opcode, uint64_t lba, uint32_t blocks, uint32_t data);
struct nvme_command nvme_io_command(uint8_t opcode, uint64_t lba, uint32_t blocks);

/* Open *bdf* through its group, map *length* bytes for it at *iova*, and its BAR 0; bus mastering on. */
volatile uint8_t *map_device(const char *bdf, void *memory, uint64_t iova, uint64_t length, int *device);

#endif
