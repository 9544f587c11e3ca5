// SPDX-License-Identifier: GPL-2.0-only
/* Loads four registers with one instruction that takes an address for each (AVX2). */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	void *device = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, argc > 1 ? atoi(argv[1]) : 3, 0);

	getchar();                /* the other side attaches now */
	asm volatile("vpcmpeqd %%xmm1, %%xmm1, %%xmm1; vpxor %%xmm0, %%xmm0, %%xmm0; vpgatherdd %%xmm1, (%0,%%xmm0,1), %%xmm2"
		     : : "r"(device) : "memory");
	puts("done");
	return 0;
}
