// SPDX-License-Identifier: GPL-2.0-only
/*
 * Time COUNT rounds of calls on /dev/iommu (or PATH), with a mock device attached:
 * map and unmap 16 pages; copy them to another address and unmap them there; read the
 * dirty bitmap of 64 MiB, where two pages in the first 64 KiB are dirty. One line each.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull
#define PAGES 16
#define BASE (1ull << 24) /* where the mock device's addresses begin */
#define WINDOW (64ull << 20)
#define READ_WRITE_FIXED 7

enum { ALLOC = 0x3b81, COPY = 0x3b83, MAP = 0x3b85, UNMAP, HWPT_ALLOC = 0x3b89, SET_DIRTY = 0x3b8b, GET_DIRTY, TEST = 0x3ba0 };

struct alloc { uint32_t size, flags, id; };
struct copy { uint32_t size, flags, dst, src; uint64_t length, dst_iova, src_iova; };
struct map { uint32_t size, flags, ioas, reserved; uint64_t user_va, length, iova; };
struct unmap { uint32_t size, ioas; uint64_t iova, length; };
struct hwpt { uint32_t size, flags, dev, pt, out, reserved, type, len; uint64_t uptr; uint32_t fault, reserved2; };
struct set_dirty { uint32_t size, flags, hwpt, reserved; };
struct get_dirty { uint32_t size, hwpt, flags, reserved; uint64_t iova, length, page_size, data; };
struct test { uint32_t size, op, id, reserved; union { uint32_t u32[12]; uint64_t u64[6]; }; uint32_t last; };

static int fd;
static int failed;

static void call(unsigned long request, void *arg)
{
	failed += ioctl(fd, request, arg) != 0;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void map(uint32_t ioas, void *va, uint64_t iova, uint64_t length)
{
	struct map m = { sizeof(m), READ_WRITE_FIXED, ioas, 0, (uintptr_t)va, length, iova };

	call(MAP, &m);
}

static void unmap(uint32_t ioas, uint64_t iova)
{
	struct unmap u = { sizeof(u), ioas, iova, PAGES * PAGE };

	call(UNMAP, &u);
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 1000;
	char *memory = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	static uint64_t bitmap[WINDOW / PAGE / 64], dirty[WINDOW / PAGE / 64];
	struct alloc ioas = { sizeof(ioas), 0, 0 };
	struct test device = { .size = sizeof(device), .op = 2 };
	struct test touch = { .size = sizeof(touch), .op = 13 };
	struct hwpt tracked = { .size = sizeof(tracked), .flags = 2 };
	struct set_dirty track = { sizeof(track), 1, 0, 0 };
	double start;

	fd = open(argc > 2 ? argv[2] : "/dev/iommu", O_RDWR);
	if (fd < 0) {
		perror("iommufd_client [COUNT [PATH]]");
		return 1;
	}
	memset(memory, 1, WINDOW);
	call(ALLOC, &ioas);
	device.id = ioas.id;
	call(TEST, &device);

	start = now();
	for (long i = 0; i < count; i++) {
		map(ioas.id, memory, BASE, PAGES * PAGE);
		unmap(ioas.id, BASE);
	}
	printf("map %.3f\n", (now() - start) / count);

	map(ioas.id, memory, BASE, PAGES * PAGE);
	start = now();
	for (long i = 0; i < count; i++) {
		struct copy c = { sizeof(c), READ_WRITE_FIXED, ioas.id, ioas.id, PAGES * PAGE, 2 * BASE, BASE };

		call(COPY, &c);
		unmap(ioas.id, 2 * BASE);
	}
	printf("copy %.3f\n", (now() - start) / count);
	unmap(ioas.id, BASE);

	map(ioas.id, memory, BASE, WINDOW);
	tracked.dev = device.u32[2];
	tracked.pt = ioas.id;
	call(HWPT_ALLOC, &tracked);
	track.hwpt = tracked.out;
	call(SET_DIRTY, &track);
	dirty[0] = 0x11;
	touch.id = tracked.out;
	touch.u64[1] = BASE;
	touch.u64[2] = WINDOW;
	touch.u64[3] = PAGE;
	touch.u64[4] = (uintptr_t)dirty;
	call(TEST, &touch);
	start = now();
	for (long i = 0; i < count; i++) {
		struct get_dirty g = { sizeof(g), tracked.out, 1, 0, BASE, WINDOW, PAGE, (uintptr_t)bitmap };

		call(GET_DIRTY, &g);
	}
	printf("bitmap %.3f\n", (now() - start) / count);
	if (failed)
		fprintf(stderr, "%d calls failed\n", failed);
	return failed != 0;
}
