// SPDX-License-Identifier: GPL-2.0-only
/*
 * Microseconds for a read of a mapped register, the best of five rounds: argv[1]
 * threads at a time, argv[2] reads of each; with one thread, all on one processor
 * if the caller has seen to that. Several threads: time over the reads of all.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "../tests/clients/client.h"
#include "../tests/clients/nvme_queue.h"

enum { ROUNDS = 5, IDENT = 0 };

static volatile uint8_t *registers;
static int count;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *reads(void *unused)
{
	(void)unused;
	for (int i = 0; i < count; i++)
		if (*(volatile uint32_t *)(registers + IDENT) != 0x010000ed)
			die("a read was wrong");
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 1, device;
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	double best = 1e9;
	pthread_t running[16];

	count = argc > 2 ? atoi(argv[2]) : 5000;
	registers = map_device(EDU, memory, 0x100000000, 4096, &device);
	for (int round = 0; round < ROUNDS; round++) {
		double start = now();
		for (int i = 1; i < threads; i++)
			pthread_create(&running[i], NULL, reads, NULL);
		reads(NULL);
		for (int i = 1; i < threads; i++)
			pthread_join(running[i], NULL);
		double each = (now() - start) * 1e6 / count / threads;
		best = each < best ? each : best;
	}
	printf("%.2f\n", best);
	return 0;
}
