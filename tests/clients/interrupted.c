// SPDX-License-Identifier: GPL-2.0-only
/*
 * Signals as a language runtime sends them (Go's SIGURG preemption), every few
 * dozen microseconds, handlers with SA_RESTART (argv[1] "restart") or without.
 * With it nobody may notice; without, a call may end with EINTR, but only if
 * it has done nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

enum { ROUNDS = 1000 };

static volatile sig_atomic_t signals;
static volatile int over;
static pthread_t victim;

static void on_signal(int sig) { (void)sig, signals++; }

static void *hammer(void *arg)
{
	while (!over) {
		pthread_kill(victim, SIGURG);
		nanosleep(&(struct timespec){ 0, 30000 }, NULL);
	}
	return arg;
}

static int allowed(int failed, int restart) { return failed && errno == EINTR && !restart; }

int main(int argc, char **argv)
{
	int restart = argc > 1 && !strcmp(argv[1], "restart"), wrong = 0;
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = restart ? SA_RESTART : 0 };
	uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int container = open("/dev/vfio/vfio", O_RDWR), group = open(group_path(EDU), O_RDWR);
	pthread_t thread;

	if (set_container(group, container) || call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU))
		die("container");
	int device = device_fd(group, EDU);
	volatile uint32_t *regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, region_offset(device, BAR0));
	sigaction(SIGURG, &act, NULL);
	victim = pthread_self();
	pthread_create(&thread, NULL, hammer, NULL);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint64_t size = PAGE;
		int mapped = map_dma(container, page, 0x10000, PAGE, DMA_READ);
		if (mapped)
			wrong += !allowed(mapped, restart);
		int unmapped;
		do
			unmapped = unmap_dma(container, 0x10000, &size);
		while (allowed(unmapped, restart));
		wrong += unmapped || size != (mapped ? 0 : PAGE);
		regs[EDU_LIVENESS / 4] = i;
		wrong += regs[EDU_LIVENESS / 4] != ~i;
	}
	over = 1;
	pthread_join(thread, NULL);
	printf("wrong answers: %d, signals came: %d\n", wrong, signals > 0);
	return 0;
}
