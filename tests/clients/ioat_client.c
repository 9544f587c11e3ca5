// SPDX-License-Identifier: GPL-2.0-only
/* Drives an I/OAT engine through mapped registers only: a ring of descriptors, completion by polling memory. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "client.h"
#include "nvme_queue.h"

enum { RING = 0, STATUS = 0x2000, SOURCE = 0x10000, TARGET = 0x80000, MEMORY = 2 << 20, ENTRIES = 64 };
enum { CHANCMD = 0x84, DMACOUNT = 0x86, CHANSTS = 0x88, CHAINADDR = 0x90, CHANCMP = 0x98, CHANERR = 0xa8 };
enum { COMPLETION = 8, FILL = 1 << 24, RESET = 0x20, SUSPEND = 4, RESUME = 0x10 };

static const uint64_t iova = 0x100000000;
static volatile uint8_t *registers;
static uint8_t *memory;
static uint16_t submitted;

struct descriptor { uint32_t size, control; uint64_t source, target, next, reserved[4]; };

static uint64_t status(void) { return *(volatile uint64_t *)(memory + STATUS); }
static uint64_t state(void) { return *(volatile uint64_t *)(registers + CHANSTS) & 7; }

static void start(void)
{
	registers[CHANCMD] = RESET;
	while (registers[CHANCMD] & RESET)
		;
	*(volatile uint64_t *)(registers + CHANCMP) = iova + STATUS;
	*(volatile uint64_t *)(registers + CHAINADDR) = iova + RING;
	submitted = 0;
}

static uint64_t put(uint32_t control, uint32_t size, uint64_t source, uint64_t target)
{
	uint32_t at = submitted++ % ENTRIES;

	((struct descriptor *)(memory + RING))[at] = (struct descriptor){
		.size = size, .control = control | COMPLETION, .source = source, .target = target,
		.next = iova + RING + (at + 1) % ENTRIES * sizeof(struct descriptor),
	};
	return iova + RING + at * sizeof(struct descriptor);
}

static void submit(void) { *(volatile uint16_t *)(registers + DMACOUNT) = submitted; }

static void wait_for(uint64_t last)
{
	submit();
	while ((status() & ~63ull) != last)
		;
}

static void copies(void)
{
	uint32_t wrong = 0;

	for (int round = 0; round < 20; round++) {
		uint64_t last = 0;

		memset(memory + TARGET, 0, 0x40000);
		for (int i = 0; i < 0x40000; i++)
			memory[SOURCE + i] = i * 31 + round;
		for (int i = 0; i < 16; i++)
			last = put(0, 0x4000, iova + SOURCE + i * 0x4000, iova + TARGET + i * 0x4000);
		wait_for(last);
		wrong += !!memcmp(memory + TARGET, memory + SOURCE, 0x40000);
	}
	printf("320 copies of 16 KiB, wrong: %u\n", wrong);
}

static void fills(void)
{
	wait_for(put(FILL, 0x1001, 0x1122334455667788, iova + TARGET + 1));
	printf("fill: %02x %02x %02x .. %02x, behind it %02x\n", memory[TARGET + 1], memory[TARGET + 2], memory[TARGET + 8],
	       memory[TARGET + 0x1001], memory[TARGET + 0x1002]);
}

static void hold(void)
{
	registers[CHANCMD] = SUSPEND;
	uint64_t before = status(), last = put(0, 16, iova + SOURCE, iova + TARGET);
	submit();
	printf("suspended: state %lu, status %s", state(), status() == before ? "the same" : "moved");
	registers[CHANCMD] = RESUME;
	printf(", resumed: %s\n", (status() & ~63ull) == last ? "done" : "not done");
}

static void fail(void)
{
	put(0, 16, 0x1000, iova + TARGET);   /* not mapped */
	submit();
	printf("unmapped source: state %lu, CHANERR %#x", state(), *(volatile uint32_t *)(registers + CHANERR));
	start();
	wait_for(put(0, 16, iova + SOURCE, iova + TARGET));
	printf(", after a reset: state %lu\n", state());
}

int main(void)
{
	int device;

	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	registers = map_device("0000:00:01.0", memory, iova, MEMORY, &device);
	printf("version %#x, channels %u\n", registers[8], registers[0]);
	start();
	copies();
	fills();
	hold();
	fail();
	return 0;
}
