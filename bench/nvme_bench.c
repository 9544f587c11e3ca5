// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random reads of 4 KiB at queue depth 32, by polling. Prints microseconds a command, accesses
 * to registers a command, and the latency of a command in microseconds, from its entry in the
 * queue until its completion is seen: the mean and the 99th percentile. argv[1]: "polled" rings
 * both doorbells for each command; "coalesced" fills the queue, rings once, and empties it.
 * argv[2]: commands. argv[3]: the address of the disk. "rest" does nothing for argv[2] seconds,
 * then one read, and prints its latency.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../tests/clients/client.h"
#include "../tests/clients/nvme_queue.h"

enum { DEPTH = 32, BLOCKS = 8, SPAN = 1 << 14, MOST = 1 << 20 };   /* of 64 MiB */

static struct nvme nvme;
static uint32_t seed = 1, sent, came, unacknowledged;
static double started[NVME_ENTRIES], latency[MOST];

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
	started[nvme.io.tail] = now();
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
	latency[came++] = now() - started[done.cid];
	if (++unacknowledged >= lazy) {
		nvme_acknowledge(&nvme, &nvme.io);
		unacknowledged = 0;
	}
}

static int by_size(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double mean(const double *values, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += values[i];
	return sum / n;
}

static int rest(unsigned seconds)
{
	sleep(seconds);
	double start = now();
	if (nvme_io(&nvme, NVME_READ, 0, BLOCKS, NVME_DATA))
		die("a read failed");
	printf("%.3f\n", (now() - start) * 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "polled";
	uint32_t total = argc > 2 ? atoi(argv[2]) / DEPTH * DEPTH : 3200;
	int batched = !strcmp(mode, "coalesced");
	uint32_t lazy = batched ? DEPTH : 1;

	nvme_open(&nvme, argc > 3 ? argv[3] : EDU);
	nvme_start(&nvme);
	if (!strcmp(mode, "rest"))
		return rest(atoi(argv[2]));
	if (!total || total > MOST)
		die("the number of commands");
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
	qsort(latency, total, sizeof(*latency), by_size);
	printf("%.3f %.3f %.3f %.3f\n", seconds * 1e6 / total, (double)(nvme.accesses - accesses) / total,
	       mean(latency, total) * 1e6, latency[total - 1 - total / 100] * 1e6);
	return 0;
}
