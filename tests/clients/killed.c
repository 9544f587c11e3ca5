// SPDX-License-Identifier: GPL-2.0-only
/*
 * Start a busy client again and again and kill it at a random instant; then the
 * device must be free, and the parent process (the supervisor) must have no
 * more fds and threads than after the first few. argv[1]: how often.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

enum { FIRST_FEW = 10 };

static void nap(long microseconds)
{
	nanosleep(&(struct timespec){ microseconds / 1000000, microseconds % 1000000 * 1000 }, NULL);
}

static void through_group(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int container = open("/dev/vfio/vfio", O_RDWR), group, event = eventfd(0, 0);

	while ((group = open(group_path(EDU), O_RDWR)) < 0)
		nap(200);
	set_container(group, container);
	call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU);
	map_dma(container, page, 0x10000, PAGE, DMA_READ | DMA_WRITE);
	int device = device_fd(group, EDU);
	volatile uint32_t *regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, region_offset(device, BAR0));
	set_irqs(device, DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, &event);
	for (int i = 0; i < 20; i++) {
		regs[EDU_LIVENESS / 4] = i;
		regs[EDU_IRQ_RAISE / 4] = 1;
		uint64_t size = PAGE;
		unmap_dma(container, 0x10000, &size);
		map_dma(container, page, 0x10000, PAGE, DMA_READ | DMA_WRITE);
	}
	munmap((void *)regs, PAGE);
	munmap(page, PAGE);
	close(event);
	close(device);
	close(group);
	close(container);
}

static void through_cdev(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int device = open(cdev_path(EDU), O_RDWR), iommufd = open("/dev/iommu", O_RDWR);
	uint32_t devid, ioas;

	bind_iommufd(device, iommufd, &devid);
	ioas_alloc(iommufd, &ioas);
	ioas_map(iommufd, ioas, page, 0x10000, PAGE);
	attach(device, &ioas);
	munmap(page, PAGE);
	close(device);
	close(iommufd);
}

static int entries(const char *what)
{
	char path[64];
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", getppid(), what);
	DIR *d = opendir(path);
	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static int device_is_free(void)
{
	for (int i = 0; i < 2000; i++) {
		int group = open(group_path(EDU), O_RDWR);
		if (group >= 0) {
			close(group);
			return 1;
		}
		nap(2000);
	}
	return 0;
}

/* what it comes down to when all is quiet */
static int settled(const char *what, int limit)
{
	int n = entries(what);
	for (int i = 0; i < 1000 && n > limit; i++, n = entries(what))
		nap(2000);
	return n;
}

int main(int argc, char **argv)
{
	int often = argc > 1 ? atoi(argv[1]) : 100, fds = 1 << 20, threads = 1 << 20;

	srandom(argc > 2 ? atoi(argv[2]) : 1);
	for (int i = 0; i < often; i++) {
		pid_t pid = fork();
		if (pid == 0)
			for (;;) {
				through_group();
				through_cdev();
			}
		nap(random() % 12000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		if (i == FIRST_FEW) {
			device_is_free();
			nap(50000);
			fds = entries("fd") + 2;
			threads = entries("task") + 1;
		}
	}
	printf("killed %d\n", often);
	printf("device free: %d\n", device_is_free());
	printf("fds left over: %d\n", settled("fd", fds) > fds);
	printf("threads left over: %d\n", settled("task", threads) > threads);
	return 0;
}
