// SPDX-License-Identifier: GPL-2.0-only
/*
 * Three threads count in a register each, by emulated instructions, while the main one
 * counts in a fourth by instructions that are single-stepped, and signals come all the
 * time. No count may be lost to a thread that runs while another one steps.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>

enum { SIZE = 4096, THREADS = 3, STEPS = 60 };

static volatile uint64_t *device;
static volatile int over, ticks;

static void tick(int signal)
{
	(void)signal;
	ticks++;
}

static void *count(void *word)
{
	uint64_t n = 0;

	while (!over) {
		asm volatile("lock incq (%0)" : : "r"(word) : "memory", "cc");
		n++;
	}
	return (void *)(uintptr_t)n;
}

int main(int argc, char **argv)
{
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
	pthread_t threads[THREADS];
	int right = 0;

	device = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, argc > 1 ? atoi(argv[1]) : 3, 0);
	if (device == MAP_FAILED)
		return 2;
	getchar();                /* the other side attaches now */
	for (int i = 0; i < 2 * (THREADS + 1); i++)
		device[i] = 0;
	signal(SIGALRM, tick);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, count, (void *)&device[2 * (i + 1)]);
	setitimer(ITIMER_REAL, &often, NULL);
	for (uint64_t n = 0; n < STEPS; n++) {
		uint64_t low = n, high = 0;
		uint8_t same;
		asm volatile("lock cmpxchg16b (%3)" : "=@ccz"(same), "+a"(low), "+d"(high)
			     : "r"(device), "b"(n + 1), "c"((uint64_t)0) : "memory");
		right += same;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	over = 1;
	printf("stepped %d, in the register %lu\n", right, device[0]);
	for (int i = 0; i < THREADS; i++) {
		void *n;
		pthread_join(threads[i], &n);
		printf("thread %d lost %ld\n", i, (long)((uintptr_t)n - device[2 * (i + 1)]));
	}
	printf("signals came: %d\n", ticks > 0);
	return 0;
}
