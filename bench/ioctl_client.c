// SPDX-License-Identifier: GPL-2.0-only
/* Time COUNT ioctls on PATH: "null" VFIO_GET_API_VERSION, "map" IOAS_MAP + IOAS_UNMAP of a page. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

struct alloc { uint32_t size, flags, id; };
struct map { uint32_t size, flags, ioas, reserved; uint64_t user_va, length, iova; };
struct unmap { uint32_t size, ioas; uint64_t iova, length; };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
	int fd = argc == 4 ? open(argv[1], O_RDWR) : -1;
	int map = argc == 4 && !strcmp(argv[2], "map");
	long count = argc == 4 ? atol(argv[3]) : 0, failed = 0;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct alloc alloc = { sizeof(alloc), 0, 0 };
	double start;

	if (fd < 0 || (map && ioctl(fd, 0x3b81, &alloc))) {
		perror("ioctl_client PATH null|map COUNT");
		return 1;
	}
	memset(page, 1, 4096);
	start = now();
	for (long i = 0; i < count; i++) {
		struct map m = { sizeof(m), 7, alloc.id, 0, (uintptr_t)page, 4096, 0x100000 };
		struct unmap u = { sizeof(u), alloc.id, 0x100000, 4096 };

		if (map)
			failed += ioctl(fd, 0x3b85, &m) != 0 || ioctl(fd, 0x3b86, &u) != 0;
		else
			failed += ioctl(fd, 0x3b64, 0) != 0;
	}
	printf("%.3f\n", (now() - start) / count);
	return failed != 0;
}
