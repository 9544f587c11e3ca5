// SPDX-License-Identifier: GPL-2.0-only
/* The whole job of a user-space driver for edu, on an open device fd. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

enum { COMMAND = 4, COMMAND_MEMORY = 2, COMMAND_MASTER = 4, COMMAND_INTX_OFF = 0x400, SOON = 5000, SILENT = 50 };

static int device;
static uint64_t bar0, config;

static uint32_t rd32(uint64_t at)
{
	uint32_t value = 0xdeadbeef;
	if (pread(device, &value, 4, bar0 + at) != 4)
		die("pread BAR0");
	return value;
}

static void wr32(uint64_t at, uint32_t value)
{
	if (pwrite(device, &value, 4, bar0 + at) != 4)
		die("pwrite BAR0");
}

static void wr64(uint64_t at, uint64_t value)
{
	if (pwrite(device, &value, 8, bar0 + at) != 8)
		die("pwrite BAR0");
}

static void nap(void) { nanosleep(&(struct timespec){ 0, 1000000 }, NULL); }

static uint16_t command(void)
{
	uint16_t value = 0;
	pread(device, &value, 2, config + COMMAND);
	return value;
}

static void set_command(uint16_t value)
{
	if (pwrite(device, &value, 2, config + COMMAND) != 2)
		die("pwrite COMMAND");
}

static void show_info(void)
{
	struct device_info info = { .argsz = sizeof(info) };
	TRY(call(device, VFIO_DEVICE_GET_INFO, &info), "DEVICE_GET_INFO");
	out("argsz %u flags %#x regions %u irqs %u", info.argsz, info.flags, info.num_regions, info.num_irqs);
	for (uint32_t i = 0; i < NUM_REGIONS; i++) {
		struct region_info region = { .argsz = sizeof(region), .index = i };
		if (TRY(call(device, VFIO_DEVICE_GET_REGION_INFO, &region), "GET_REGION_INFO %u", i) == 0)
			out("argsz %u flags %#x size %#llx", region.argsz, region.flags, (unsigned long long)region.size);
	}
	for (uint32_t i = 0; i < 5; i++) {
		struct irq_info irq = { .argsz = sizeof(irq), .index = i };
		TRY(call(device, VFIO_DEVICE_GET_IRQ_INFO, &irq), "GET_IRQ_INFO %u", i);
		out("flags %#x count %u", irq.flags, irq.count);
	}
}

/* BAR addresses and the interrupt line are the firmware's choice */
static int is_machines_choice(unsigned at) { return (at >= 0x11 && at < 0x28) || at == 0x3c; }

static void show_config(void)
{
	uint8_t bytes[256];

	TRY(pread(device, bytes, sizeof(bytes), config), "pread all of config space");
	for (unsigned row = 0; row < 256; row += 16) {
		char text[64], *p = text;
		for (unsigned i = row; i < row + 16; i++)
			p += is_machines_choice(i) ? sprintf(p, " ..") : sprintf(p, " %02x", bytes[i]);
		note("  %02x:%s", row, text);
	}
}

static void size_bars(void)
{
	for (unsigned i = 0; i < 6; i++) {
		uint32_t old = 0, all = 0xffffffff, mask = 0;
		pread(device, &old, 4, config + 0x10 + 4 * i);
		pwrite(device, &all, 4, config + 0x10 + 4 * i);
		pread(device, &mask, 4, config + 0x10 + 4 * i);
		pwrite(device, &old, 4, config + 0x10 + 4 * i);
		note("  BAR%u type bits %#x size mask %#x", i, old & 0xf, mask);
	}
}

static uint32_t factorial(uint32_t n)
{
	wr32(EDU_FACTORIAL, n);
	while (rd32(EDU_STATUS) & EDU_STATUS_COMPUTING)
		nap();
	return rd32(EDU_FACTORIAL);
}

static void registers_by_pread(void)
{
	note("identification %#x", rd32(EDU_ID));
	wr32(EDU_LIVENESS, 0x12345678);
	note("liveness ~0x12345678 = %#x", rd32(EDU_LIVENESS));
	for (uint32_t n = 0; n < 14; n += 3)
		note("factorial(%u) = %u", n, factorial(n));
}

static void registers_by_mmap(void)
{
	volatile uint32_t *regs = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar0);
	if (regs == MAP_FAILED)
		die("mmap BAR0");
	note("identification %#x", regs[EDU_ID / 4]);
	regs[EDU_LIVENESS / 4] = 0xcafe0001;
	note("liveness ~0xcafe0001 = %#x", regs[EDU_LIVENESS / 4]);
	regs[EDU_FACTORIAL / 4] = 10;
	while (regs[EDU_STATUS / 4] & EDU_STATUS_COMPUTING)
		nap();
	note("factorial(10) = %u", regs[EDU_FACTORIAL / 4]);
	volatile uint64_t *wide = (volatile uint64_t *)((volatile char *)regs + EDU_DMA_SRC);
	*wide = 0x123456789abcULL;
	note("64-bit DMA source register %#llx", (unsigned long long)*wide);
	regs[EDU_STATUS / 4] |= EDU_STATUS_IRQ;            /* read-modify-write */
	note("status after |= 0x80: %#x", regs[EDU_STATUS / 4]);
	regs[EDU_STATUS / 4] &= ~EDU_STATUS_IRQ;
	note("status after &= ~0x80: %#x", regs[EDU_STATUS / 4]);
	munmap((void *)regs, 1 << 20);
}

static sigjmp_buf bus_error;
static void on_sigbus(int sig) { siglongjmp(bus_error, sig); }

static void memory_decode_off(void)
{
	struct sigaction act = { .sa_handler = on_sigbus }, old;
	volatile uint32_t *regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar0);
	uint32_t value = 0;

	if (regs == MAP_FAILED)
		die("mmap BAR0");
	note("mapped: %#x", *regs);
	set_command(command() & ~COMMAND_MEMORY);
	TRY(pread(device, &value, 4, bar0), "pread BAR0 with memory decode off");
	TRY(pwrite(device, &value, 4, bar0), "pwrite BAR0 with memory decode off");
	sigaction(SIGBUS, &act, &old);
	if (sigsetjmp(bus_error, 1) == 0)
		note("read through the mapping: %#x", *regs);
	else
		note("read through the mapping: SIGBUS");
	if (sigsetjmp(bus_error, 1) == 0) {
		regs[EDU_LIVENESS / 4] = 1;
		note("write through the mapping: done");
	} else {
		note("write through the mapping: SIGBUS");
	}
	sigaction(SIGBUS, &old, NULL);
	set_command(command() | COMMAND_MEMORY);
	note("memory decode on again: %#x", *regs);
	munmap((void *)regs, PAGE);
}

static void dma(uint64_t src, uint64_t dst, uint64_t count, uint32_t cmd)
{
	wr64(EDU_DMA_SRC, src);
	wr64(EDU_DMA_DST, dst);
	wr64(EDU_DMA_COUNT, count);
	wr32(EDU_DMA_CMD, EDU_DMA_RUN | cmd);
	while (rd32(EDU_DMA_CMD) & EDU_DMA_RUN)
		nap();
}

/* QEMU before 8 aborts when a transfer reaches the last byte of the device's buffer */
enum { MOST = EDU_BUFFER_SIZE - 1 };

static void move_a_buffer(struct dma mem)
{
	set_command(command() | COMMAND_MASTER);
	for (unsigned i = 0; i < EDU_BUFFER_SIZE; i++)
		mem.memory[i] = i * 7 + (i >> 8);
	dma(mem.iova, EDU_BUFFER, MOST, 0);
	dma(EDU_BUFFER, mem.iova + 2 * PAGE, MOST, EDU_DMA_FROM_DEVICE);
	note("%d bytes out and back: %s", MOST, memcmp(mem.memory, mem.memory + 2 * PAGE, MOST) ? "differ" : "equal");
	memset(mem.memory + PAGE, 0x5a, 2 * PAGE);
	dma(EDU_BUFFER + 16, mem.iova + 2 * PAGE - 100, 200, EDU_DMA_FROM_DEVICE);
	note("200 bytes across a page: %s",
	     memcmp(mem.memory + 2 * PAGE - 100, mem.memory + 16, 200) ? "differ" : "equal");
	note("byte before and after: %#x %#x", mem.memory[2 * PAGE - 101], mem.memory[2 * PAGE + 100]);
	memset(mem.memory + PAGE, 0x5a, PAGE);
	dma(EDU_BUFFER, mem.iova + (1 << 20), 64, EDU_DMA_FROM_DEVICE);      /* blocked: nothing is mapped there */
	note("DMA to an unmapped address leaves memory alone: %#x %#x", mem.memory[0], mem.memory[PAGE]);
}

static void intx(void)
{
	int irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), resample = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint64_t one = 1;

	TRY(set_irqs(device, DATA_EVENTFD | ACTION_TRIGGER, INTX, 0, 1, &irq), "INTx enable");
	wr32(EDU_IRQ_RAISE, 1);
	note("raised: eventfd %llu", (unsigned long long)eventfd_take(irq, SOON));
	note("cause %#x, INTx disabled in COMMAND %d", rd32(EDU_IRQ_STATUS), !!(command() & COMMAND_INTX_OFF));
	wr32(EDU_IRQ_RAISE, 2);
	note("raised while automasked: eventfd %llu", (unsigned long long)eventfd_take(irq, SILENT));
	TRY(set_irqs(device, DATA_NONE | ACTION_UNMASK, INTX, 0, 1, NULL), "INTx unmask, line still high");
	out("eventfd %llu", (unsigned long long)eventfd_take(irq, SOON));
	wr32(EDU_IRQ_ACK, 3);
	note("acknowledged: cause %#x", rd32(EDU_IRQ_STATUS));
	TRY(set_irqs(device, DATA_NONE | ACTION_UNMASK, INTX, 0, 1, NULL), "INTx unmask, line low");
	out("eventfd %llu", (unsigned long long)eventfd_take(irq, SILENT));
	TRY(set_irqs(device, DATA_NONE | ACTION_MASK, INTX, 0, 1, NULL), "INTx mask");
	wr32(EDU_IRQ_RAISE, 4);
	note("raised while masked: eventfd %llu", (unsigned long long)eventfd_take(irq, SILENT));
	TRY(set_irqs(device, DATA_EVENTFD | ACTION_UNMASK, INTX, 0, 1, &resample), "INTx resample eventfd");
	write(resample, &one, 8);
	note("resampled with the line high: eventfd %llu", (unsigned long long)eventfd_take(irq, SOON));
	wr32(EDU_IRQ_ACK, 4);
	write(resample, &one, 8);
	note("resampled with the line low: eventfd %llu", (unsigned long long)eventfd_take(irq, SILENT));
	wr32(EDU_STATUS, EDU_STATUS_IRQ);
	wr32(EDU_FACTORIAL, 5);
	note("factorial interrupt: eventfd %llu", (unsigned long long)eventfd_take(irq, SOON));
	note("cause %#x result %u", rd32(EDU_IRQ_STATUS), rd32(EDU_FACTORIAL));
	wr32(EDU_STATUS, 0);
	wr32(EDU_IRQ_ACK, 1);
	TRY(set_irqs(device, DATA_NONE | ACTION_TRIGGER, INTX, 0, 0, NULL), "INTx disable");
	close(irq);
	close(resample);
}

static void msi(struct dma mem)
{
	int irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint16_t control = 0;

	TRY(set_irqs(device, DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, &irq), "MSI enable");
	pread(device, &control, 2, config + 0x42);
	note("MSI control %#x", control);
	for (int i = 0; i < 3; i++) {
		wr32(EDU_IRQ_RAISE, 1 << i);
		note("raised: eventfd %llu", (unsigned long long)eventfd_take(irq, SOON));
	}
	wr32(EDU_IRQ_ACK, 7);
	TRY(set_irqs(device, DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, &other), "MSI other eventfd");
	dma(mem.iova, EDU_BUFFER, 64, EDU_DMA_IRQ);
	note("DMA interrupt: eventfds %llu %llu cause %#x", (unsigned long long)eventfd_take(irq, 0),
	     (unsigned long long)eventfd_take(other, SOON), rd32(EDU_IRQ_STATUS));
	wr32(EDU_IRQ_ACK, EDU_DMA_IRQ_CAUSE);
	TRY(set_irqs(device, DATA_NONE | ACTION_TRIGGER, MSI, 0, 0, NULL), "MSI disable");
	pread(device, &control, 2, config + 0x42);
	note("MSI control %#x", control);
	close(irq);
	close(other);
}

void do_the_job(int device_fd_, struct dma mem)
{
	device = device_fd_;
	show_info();
	bar0 = region_offset(device, BAR0);
	config = region_offset(device, CONFIG);
	show_config();
	size_bars();
	registers_by_pread();
	registers_by_mmap();
	memory_decode_off();
	move_a_buffer(mem);
	intx();
	msi(mem);
	TRY(call(device, VFIO_DEVICE_RESET, NULL), "DEVICE_RESET");
	set_command(command() & ~COMMAND_MASTER);
}
