// SPDX-License-Identifier: GPL-2.0-only
/* Drives an NVMe disk through mapped registers only, and says what it saw. argv[1]: the disk's size in MiB. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "nvme_queue.h"

enum { WRITTEN = NVME_DATA, READ = NVME_DATA + 0x80000, PIECE = 0x40000 };

static struct nvme nvme;

static void fill(uint8_t *memory, uint32_t seed, size_t n)
{
	for (size_t i = 0; i < n; i++)
		memory[i] = (seed = seed * 1103515245 + 12345) >> 16;
}

static void identify(void)
{
	struct nvme_command command = { .opcode = 6, .cdw = { 1 } };
	const uint8_t *data = nvme.memory + NVME_DATA;

	if (nvme_run(&nvme, &nvme.admin, command, NVME_DATA, 4096))
		die("Identify Controller");
	printf("model %.21s, serial %.18s\n", data + 24, data + 4);
	command = (struct nvme_command){ .opcode = 6, .nsid = 1 };
	if (nvme_run(&nvme, &nvme.admin, command, NVME_DATA, 4096))
		die("Identify Namespace");
	printf("blocks %lu\n", *(const uint64_t *)data);
}

/* The whole disk: written in large pieces, read back and compared. */
static void sweep(uint32_t pieces)
{
	uint32_t wrong = 0, blocks = PIECE / 512;

	for (uint32_t i = 0; i < pieces; i++) {
		fill(nvme.memory + WRITTEN, i, PIECE);
		wrong += !!nvme_io(&nvme, NVME_WRITE, i * blocks, blocks, WRITTEN);
	}
	wrong += !!nvme_io(&nvme, NVME_FLUSH, 0, 1, 0);
	for (uint32_t i = 0; i < pieces; i++) {
		fill(nvme.memory + WRITTEN, i, PIECE);
		wrong += !!nvme_io(&nvme, NVME_READ, i * blocks, blocks, READ);
		wrong += !!memcmp(nvme.memory + READ, nvme.memory + WRITTEN, PIECE);
	}
	printf("%u pieces written and read back, wrong: %u\n", pieces, wrong);
}

/* Many commands in flight, more than the ring holds, completed out of the same ring. */
static void deep(void)
{
	uint32_t sent = 0, came = 0, wrong = 0, total = 1000;
	struct nvme_completion done;

	while (came < total) {
		while (sent < total && sent - came < 32) {
			uint32_t lba = sent * 7919 % 1024 * 8;
			nvme_put(&nvme, &nvme.io, nvme_io_command(NVME_COMPARE, lba, 8), WRITTEN, 4096);
			sent++;
		}
		nvme_ring(&nvme, &nvme.io);
		while (nvme_take(&nvme.io, &done)) {
			came++;
			wrong += (done.status >> 1 & 0x7ff) != 0x285;   /* nothing on the disk is like it */
		}
		nvme_acknowledge(&nvme, &nvme.io);
	}
	printf("%u commands, 32 at a time, wrong: %u\n", total, wrong);
}

static void refuse(uint64_t blocks)
{
	printf("past the end %#x, unknown %#x, no such namespace %#x\n", nvme_io(&nvme, NVME_READ, blocks, 1, READ),
	       nvme_io(&nvme, 0x7f, 0, 1, READ),
	       nvme_run(&nvme, &nvme.io, (struct nvme_command){ .opcode = NVME_READ, .nsid = 9 }, READ, 512));
}

int main(int argc, char **argv)
{
	uint32_t mib = argc > 1 ? atoi(argv[1]) : 64;

	nvme_open(&nvme, "0000:00:01.0");
	nvme_start(&nvme);
	identify();
	sweep(mib * 4);
	fill(nvme.memory + WRITTEN, 0xdead, 4096);
	deep();
	refuse(mib * 2048ull);
	nvme_start(&nvme);   /* a reset in the middle of everything */
	printf("after a reset: read %#x\n", nvme_io(&nvme, NVME_READ, 0, 8, READ));
	return 0;
}
