// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random reads of 4 KiB at queue depth 32, by polling: microseconds a command and
 * accesses to registers a command. argv[1]: "polled" rings both doorbells for each
 * command; "coalesced" fills the queue, rings once, and empties it. argv[2]: commands.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../tests/clients/client.h"
#include "../tests/clients/nvme_queue.h"

enum { DEPTH = 32, BLOCKS = 8, SPAN = 1 << 14 };   /* of 64 MiB */

static struct nvme nvme;
static uint32_t seed = 1, sent, came, unacknowledged;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void send(int doorbell)
{
	seed = seed * 1103515245 + 12345;
	uint64_t lba = (uint64_t)(seed >> 8) % SPAN * BLOCKS;
	nvme_put(&nvme, &nvme.io, nvme_io_command(NVME_READ, lba, BLOCKS), NVME_DATA + 4096 * (sent++ % DEPTH), 4096);
	if (doorbell)
		nvme_ring(&nvme, &nvme.io);
}

static void take(uint32_t lazy)
{
	struct nvme_completion done;

	while (!nvme_take(&nvme.io, &done))
		;
	if (done.status >> 1)
		die("a read failed");
	came++;
	if (++unacknowledged >= lazy) {
		nvme_acknowledge(&nvme, &nvme.io);
		unacknowledged = 0;
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "polled";
	uint32_t total = argc > 2 ? atoi(argv[2]) / DEPTH * DEPTH : 3200;
	int batched = !strcmp(mode, "coalesced");
	uint32_t lazy = batched ? DEPTH : 1;

	nvme_open(&nvme, EDU);
	nvme_start(&nvme);
	uint64_t accesses = nvme.accesses;
	double start = now();
	while (sent < DEPTH)
		send(!batched);
	if (batched)
		nvme_ring(&nvme, &nvme.io);
	while (came < total) {
		take(lazy);
		if (sent < total && (!batched || came % DEPTH == 0)) {
			do
				send(!batched);
			while (batched && sent % DEPTH);
			if (batched)
				nvme_ring(&nvme, &nvme.io);
		}
	}
	double seconds = now() - start;
	printf("%.3f %.3f\n", seconds * 1e6 / total, (double)(nvme.accesses - accesses) / total);
	return 0;
}
