// SPDX-License-Identifier: GPL-2.0-only
/* Instructions on edu's registers that must be single-stepped, and then the plain ones again. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "client.h"
#include "nvme_queue.h"

enum { IDENT = 0, LIVENESS = 4, FACTORIAL = 8 };

int main(void)
{
	void *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int device, product = 3;
	uint8_t *registers = map_device(EDU, memory, 0x100000000, PAGE, &device);

	*(volatile uint32_t *)(registers + LIVENESS) = 5;       /* ~5, and what is written next is inverted, too */
	asm volatile("roll $4, (%0)" : : "r"(registers + LIVENESS) : "memory", "cc");
	printf("rotated: %#x\n", *(volatile uint32_t *)(registers + LIVENESS));
	asm volatile("imull (%1), %0" : "+r"(product) : "r"(registers + IDENT) : "cc");
	printf("three times the identity: %#x\n", product);
	asm volatile("push $10; sub $128, %%rsp; push 128(%%rsp); popq (%0); add $136, %%rsp"
		     : : "r"(registers + 0x88) : "memory", "cc");
	printf("popped: %#lx\n", *(volatile uint64_t *)(registers + 0x88));
	*(volatile uint32_t *)(registers + FACTORIAL) = 5;
	printf("5! = %u\n", *(volatile uint32_t *)(registers + FACTORIAL));
	return 0;
}
