// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drives an edu through mapped registers, and never looks at one before it has been told to:
 * by an interrupt, or by a system call that has returned. Then it takes memory decode away.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "nvme_queue.h"
#include "vfio_abi.h"

enum { IOVA = 0x100000, MEMORY = 2 * PAGE, COMMAND = 4, MASTER_AND_MEMORY = 6, LATE = 20000 };

static volatile uint8_t *registers;
static int device, irq;
static sigjmp_buf bus_error;

static volatile uint32_t *at(uint32_t offset) { return (volatile uint32_t *)(registers + offset); }
static void on_sigbus(int sig) { siglongjmp(bus_error, sig); }

static void interrupt(void)
{
	const char *came = eventfd_take(irq, LATE) ? "interrupt" : "NO interrupt";
	uint32_t cause = *at(EDU_IRQ_STATUS);

	*at(EDU_IRQ_ACK) = cause;
	printf("%s, cause %#x\n", came, cause);
}

static void move(uint64_t source, uint64_t target, uint32_t command)
{
	*(volatile uint64_t *)at(EDU_DMA_SRC) = source;
	*(volatile uint64_t *)at(EDU_DMA_DST) = target;
	*(volatile uint64_t *)at(EDU_DMA_COUNT) = 64;
	*at(EDU_DMA_CMD) = EDU_DMA_RUN | EDU_DMA_IRQ | command;
	interrupt();
}

static void set_command(uint16_t value) { pwrite(device, &value, 2, region_offset(device, CONFIG) + COMMAND); }

static void look(const char *when)
{
	if (sigsetjmp(bus_error, 1))
		printf("%s: SIGBUS\n", when);
	else
		printf("%s: %#x\n", when, *at(EDU_ID));
}

int main(void)
{
	uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t value;

	registers = map_device(EDU, memory, IOVA, MEMORY, &device);
	irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (set_irqs(device, DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, &irq))
		die("MSI");
	printf("identification %#x\n", *at(EDU_ID));
	*at(EDU_STATUS) = EDU_STATUS_IRQ;
	for (uint32_t n = 5; n < 8; n++) {
		*at(EDU_FACTORIAL) = n;
		interrupt();
		printf("%u! = %u\n", n, *at(EDU_FACTORIAL));
	}
	*at(EDU_STATUS) = 0;
	memset(memory, 0x5a, 64);
	move(IOVA, EDU_BUFFER, 0);
	move(EDU_BUFFER, IOVA + PAGE, EDU_DMA_FROM_DEVICE);
	printf("64 bytes out and back: %s\n", memcmp(memory, memory + PAGE, 64) ? "differ" : "equal");

	*at(EDU_LIVENESS) = 0x12345678;
	pread(device, &value, 4, region_offset(device, BAR0) + EDU_LIVENESS);   /* after that write, as it is */
	printf("read by a call: %#x, and mapped: %#x\n", value, *at(EDU_LIVENESS));
	value = 0xff;
	pwrite(device, &value, 4, region_offset(device, BAR0) + EDU_LIVENESS);
	printf("written by a call: %#x\n", *at(EDU_LIVENESS));

	signal(SIGBUS, on_sigbus);
	set_command(0);
	look("memory off");
	set_command(MASTER_AND_MEMORY);
	look("memory on");
	printf("kept: %#x\n", *at(EDU_LIVENESS));
	return 0;
}
