// SPDX-License-Identifier: GPL-2.0-only
/* Wrong calls on a device fd. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

static void *volatile nowhere = (void *)16;     /* volatile: the compiler would warn that it is nowhere */

void misuse_infos(int device)
{
	const uint32_t sizes[] = { 0, 15, 16, 17, 20, 24, 64 };
	for (unsigned i = 0; i < LENGTH(sizes); i++) {
		struct device_info info = { sizes[i], 0xee, 0xee, 0xee, 0xee, 0xee };
		TRY(call(device, VFIO_DEVICE_GET_INFO, &info), "DEVICE_GET_INFO argsz %u", sizes[i]);
		out("%u %#x %u %u %#x", info.argsz, info.flags, info.num_regions, info.num_irqs, info.cap_offset);
	}
	const struct { uint32_t argsz, index; } regions[] = {
		{ 0, 0 }, { 31, 0 }, { 33, 0 }, { 32, VGA }, { 32, 9 }, { 32, 10 }, { 32, 0x7fffffff }, { 32, 0xffffffff },
	};
	for (unsigned i = 0; i < LENGTH(regions); i++) {
		struct region_info info = { .argsz = regions[i].argsz, .index = regions[i].index };
		TRY(call(device, VFIO_DEVICE_GET_REGION_INFO, &info), "GET_REGION_INFO argsz %u index %u",
		    regions[i].argsz, regions[i].index);
		out("argsz %u flags %#x size %#llx", info.argsz, info.flags, (unsigned long long)info.size);
	}
	const struct { uint32_t argsz, index; } irqs[] = {
		{ 0, 0 }, { 15, 0 }, { 17, 0 }, { 16, 5 }, { 16, 0xffffffff },
	};
	for (unsigned i = 0; i < LENGTH(irqs); i++) {
		struct irq_info info = { .argsz = irqs[i].argsz, .index = irqs[i].index };
		TRY(call(device, VFIO_DEVICE_GET_IRQ_INFO, &info), "GET_IRQ_INFO argsz %u index %u", irqs[i].argsz,
		    irqs[i].index);
		out("flags %#x count %u", info.flags, info.count);
	}
}

enum { N = DATA_NONE, B = DATA_BOOL, E = DATA_EVENTFD, M = ACTION_MASK, U = ACTION_UNMASK, T = ACTION_TRIGGER };
enum { NO_FD = -1, EVENT = -100, EVENT2 = -101, NULL_FD = -102, PIPE = -103 };

struct irq_row { const char *name; uint32_t flags, index, start, count, argsz; int data; };

/* argsz 0: as the flags need; 20: no room for data */
static const struct irq_row irq_rows[] = {
	{ "argsz 19", N | T, INTX, 0, 0, 19, 0 },
	{ "index 5", N | T, 5, 0, 0, 0, 0 },
	{ "flag 64", 64 | N | T, INTX, 0, 1, 0, 0 },
	{ "count wraps", N | T, INTX, 1, 0xffffffff, 0, 0 },
	{ "start 1", N | T, INTX, 1, 0, 0, 0 },
	{ "count 2", N | T, INTX, 0, 2, 0, 0 },
	{ "no data type", T, INTX, 0, 1, 0, 0 },
	{ "two data types", N | B | T, INTX, 0, 1, 0, 0 },
	{ "three data types", N | B | E | T, INTX, 0, 1, 0, 0 },
	{ "no action", N, INTX, 0, 1, 0, 0 },
	{ "two actions", N | M | U, INTX, 0, 1, 0, 0 },
	{ "eventfd, no room", E | T, INTX, 0, 1, 20, EVENT },
	{ "bool, no room", B | T, INTX, 0, 1, 20, 1 },
	{ "INTx mask, not enabled", N | M, INTX, 0, 1, 0, 0 },
	{ "INTx unmask, not enabled", N | U, INTX, 0, 1, 0, 0 },
	{ "INTx trigger, not enabled", N | T, INTX, 0, 1, 0, 0 },
	{ "INTx trigger bool, not enabled", B | T, INTX, 0, 1, 0, 1 },
	{ "INTx disable, not enabled", N | T, INTX, 0, 0, 0, 0 },
	{ "INTx unmask eventfd, not enabled", E | U, INTX, 0, 1, 0, EVENT },
	{ "INTx fd not open", E | T, INTX, 0, 1, 0, NOT_OPEN },
	{ "INTx fd -1", E | T, INTX, 0, 1, 0, NO_FD },
	{ "INTx fd -2", E | T, INTX, 0, 1, 0, -2 },
	{ "INTx /dev/null", E | T, INTX, 0, 1, 0, NULL_FD },
	{ "INTx pipe", E | T, INTX, 0, 1, 0, PIPE },
	{ "INTx eventfd count 0", E | T, INTX, 0, 0, 0, EVENT },
	{ "INTx enable", E | T, INTX, 0, 1, 0, EVENT },
	{ "INTx enable twice", E | T, INTX, 0, 1, 0, EVENT },
	{ "INTx another eventfd", E | T, INTX, 0, 1, 0, EVENT2 },
	{ "INTx enabled, fd not open", E | T, INTX, 0, 1, 0, NOT_OPEN },
	{ "INTx state after that: trigger", N | T, INTX, 0, 1, 0, 0 },
	{ "INTx enable again", E | T, INTX, 0, 1, 0, EVENT },
	{ "INTx trigger", N | T, INTX, 0, 1, 0, 0 },
	{ "INTx trigger bool 1", B | T, INTX, 0, 1, 0, 1 },
	{ "INTx trigger bool 0", B | T, INTX, 0, 1, 0, 0 },
	{ "INTx mask", N | M, INTX, 0, 1, 0, 0 },
	{ "INTx mask twice", N | M, INTX, 0, 1, 0, 0 },
	{ "INTx mask bool 1", B | M, INTX, 0, 1, 0, 1 },
	{ "INTx mask eventfd", E | M, INTX, 0, 1, 0, EVENT2 },
	{ "INTx mask count 0", N | M, INTX, 0, 0, 0, 0 },
	{ "INTx unmask bool 0", B | U, INTX, 0, 1, 0, 0 },
	{ "INTx unmask", N | U, INTX, 0, 1, 0, 0 },
	{ "INTx unmask twice", N | U, INTX, 0, 1, 0, 0 },
	{ "INTx unmask eventfd", E | U, INTX, 0, 1, 0, EVENT2 },
	{ "INTx unmask eventfd twice", E | U, INTX, 0, 1, 0, EVENT2 },
	{ "INTx unmask fd not open", E | U, INTX, 0, 1, 0, NOT_OPEN },
	{ "INTx unmask fd -1", E | U, INTX, 0, 1, 0, NO_FD },
	{ "INTx unmask fd -1 twice", E | U, INTX, 0, 1, 0, NO_FD },
	{ "INTx unmask /dev/null", E | U, INTX, 0, 1, 0, NULL_FD },
	{ "MSI enable while INTx is", E | T, MSI, 0, 1, 0, EVENT },
	{ "MSI disable while INTx is", N | T, MSI, 0, 0, 0, 0 },
	{ "INTx fd -1", E | T, INTX, 0, 1, 0, NO_FD },
	{ "INTx disable", N | T, INTX, 0, 0, 0, 0 },
	{ "INTx disable twice", N | T, INTX, 0, 0, 0, 0 },
	{ "MSI mask, not enabled", N | M, MSI, 0, 1, 0, 0 },
	{ "MSI disable, not enabled", N | T, MSI, 0, 0, 0, 0 },
	{ "MSI trigger, not enabled", N | T, MSI, 0, 1, 0, 0 },
	{ "MSI bool, not enabled", B | T, MSI, 0, 1, 0, 1 },
	{ "MSI start 1", E | T, MSI, 1, 1, 0, EVENT },
	{ "MSI count 2", E | T, MSI, 0, 2, 0, EVENT },
	{ "MSI fd not open", E | T, MSI, 0, 1, 0, NOT_OPEN },
	{ "MSI /dev/null", E | T, MSI, 0, 1, 0, NULL_FD },
	{ "MSI fd -2", E | T, MSI, 0, 1, 0, -2 },
	{ "MSI trigger after the failures", N | T, MSI, 0, 1, 0, 0 },
	{ "MSI fd -1, not enabled", E | T, MSI, 0, 1, 0, NO_FD },
	{ "MSI trigger without eventfd", N | T, MSI, 0, 1, 0, 0 },
	{ "MSI disable", N | T, MSI, 0, 0, 0, 0 },
	{ "MSI enable", E | T, MSI, 0, 1, 0, EVENT },
	{ "MSI enable twice", E | T, MSI, 0, 1, 0, EVENT },
	{ "MSI trigger", N | T, MSI, 0, 1, 0, 0 },
	{ "MSI bool 1", B | T, MSI, 0, 1, 0, 1 },
	{ "MSI bool 0", B | T, MSI, 0, 1, 0, 0 },
	{ "MSI mask", N | M, MSI, 0, 1, 0, 0 },
	{ "MSI unmask eventfd", E | U, MSI, 0, 1, 0, EVENT },
	{ "INTx enable while MSI is", E | T, INTX, 0, 1, 0, EVENT },
	{ "MSI-X enable while MSI is", E | T, MSIX, 0, 1, 0, EVENT },
	{ "MSI enabled, fd not open", E | T, MSI, 0, 1, 0, NOT_OPEN },
	{ "MSI trigger", N | T, MSI, 0, 1, 0, 0 },
	{ "MSI disable", N | T, MSI, 0, 0, 0, 0 },
	{ "MSI-X, none there", N | T, MSIX, 0, 0, 0, 0 },
	{ "ERR trigger, none set", N | T, ERR, 0, 1, 0, 0 },
	{ "ERR mask", N | M, ERR, 0, 1, 0, 0 },
	{ "ERR eventfd", E | T, ERR, 0, 1, 0, EVENT },
	{ "ERR trigger", N | T, ERR, 0, 1, 0, 0 },
	{ "ERR bool 1", B | T, ERR, 0, 1, 0, 1 },
	{ "ERR bool count 0", B | T, ERR, 0, 0, 0, 1 },
	{ "ERR fd -1", E | T, ERR, 0, 1, 0, NO_FD },
	{ "REQ trigger, none set", N | T, REQ, 0, 1, 0, 0 },
	{ "REQ count 0, none set", N | T, REQ, 0, 0, 0, 0 },
	{ "REQ eventfd count 0", E | T, REQ, 0, 0, 0, EVENT },
	{ "REQ fd -2", E | T, REQ, 0, 1, 0, -2 },
	{ "REQ fd not open", E | T, REQ, 0, 1, 0, NOT_OPEN },
	{ "REQ /dev/null", E | T, REQ, 0, 1, 0, NULL_FD },
	{ "REQ eventfd", E | T, REQ, 0, 1, 0, EVENT },
	{ "REQ trigger", N | T, REQ, 0, 1, 0, 0 },
	{ "REQ start 1", N | T, REQ, 1, 1, 0, 0 },
	{ "REQ clear", N | T, REQ, 0, 0, 0, 0 },
	{ "REQ trigger afterwards", N | T, REQ, 0, 1, 0, 0 },
};

static void irqs(int device)
{
	int pipes[2], event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (pipe2(pipes, O_CLOEXEC))
		die("pipe2");
	for (unsigned i = 0; i < LENGTH(irq_rows); i++) {
		const struct irq_row *row = &irq_rows[i];
		int data = row->data == EVENT ? event : row->data == EVENT2 ? other : row->data == NULL_FD ? null :
			   row->data == PIPE ? pipes[0] : row->data;
		struct irq_set set = { row->argsz, row->flags, row->index, row->start, row->count, { data, NO_FD } };
		if (!row->argsz)
			set.argsz = 20 + (row->flags & E ? 4 * row->count : row->flags & B ? row->count : 0);
		TRY(call(device, VFIO_DEVICE_SET_IRQS, &set), "SET_IRQS %s", row->name);
		out("eventfds %llu %llu", (unsigned long long)eventfd_take(event, 0),
		    (unsigned long long)eventfd_take(other, 0));
	}
	TRY(call(device, VFIO_DEVICE_SET_IRQS, (void *)16), "SET_IRQS bad pointer");
	close(event);
	close(other);
	close(null);
	close(pipes[0]);
	close(pipes[1]);
}

static void features(int device)
{
	const struct { const char *name; uint32_t bits; } ops[] = {
		{ "probe", FEATURE_PROBE }, { "probe get", FEATURE_PROBE | FEATURE_GET },
		{ "probe set", FEATURE_PROBE | FEATURE_SET }, { "no operation", 0 },
		{ "get and set", FEATURE_GET | FEATURE_SET },
	};
	for (uint32_t number = 0; number < 16; number++)
		for (unsigned i = 0; i < LENGTH(ops); i++) {
			struct feature arg = { .argsz = 8, .flags = number | ops[i].bits };
			TRY(call(device, VFIO_DEVICE_FEATURE, &arg), "FEATURE %u %s", number, ops[i].name);
		}
	struct feature odd[] = {
		{ .argsz = 7, .flags = FEATURE_PROBE }, { .argsz = 8, .flags = 0x80000 }, { .argsz = 8, .flags = 0xffff | FEATURE_GET },
		{ .argsz = 8, .flags = 11 | FEATURE_GET }, { .argsz = 40, .flags = 1 | FEATURE_GET },
	};
	for (unsigned i = 0; i < LENGTH(odd); i++)
		TRY(call(device, VFIO_DEVICE_FEATURE, &odd[i]), "FEATURE argsz %u flags %#x", odd[i].argsz, odd[i].flags);
}

void misuse_hot_resets(int device, int group)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const struct { const char *name; struct hot_reset arg; } rows[] = {
		{ "argsz 11", { 11, 0, 0, { 0 } } }, { "flags 1", { 12, 1, 0, { 0 } } }, { "count 0", { 12, 0, 0, { 0 } } },
		{ "the group", { 16, 0, 1, { group } } }, { "/dev/null", { 16, 0, 1, { null } } },
		{ "fd not open", { 16, 0, 1, { NOT_OPEN } } },
	};
	for (uint32_t argsz = 11; argsz < 14; argsz++) {
		struct hot_reset arg = { .argsz = argsz };
		TRY(call(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &arg), "GET_PCI_HOT_RESET_INFO argsz %u", argsz);
		out("flags %u count %u", arg.flags, arg.count);
	}
	for (unsigned i = 0; i < LENGTH(rows); i++)
		if (group >= 0 || rows[i].arg.count == 0)
			TRY(call(device, VFIO_DEVICE_PCI_HOT_RESET, &rows[i].arg), "PCI_HOT_RESET %s", rows[i].name);
	close(null);
}

static void ioeventfds(int device)
{
	int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	uint64_t bar0 = region_offset(device, BAR0), config = region_offset(device, CONFIG);
	const struct { const char *name; struct ioeventfd arg; } rows[] = {
		{ "argsz 27", { 27, 4, bar0, 0, event, 0 } }, { "no size", { 32, 0, bar0, 0, event, 0 } },
		{ "two sizes", { 32, 12, bar0, 0, event, 0 } }, { "flag 16", { 32, 20, bar0, 0, event, 0 } },
		{ "fd -2", { 32, 4, bar0, 0, -2, 0 } }, { "config space", { 32, 4, config, 0, event, 0 } },
		{ "beyond the BAR", { 32, 4, bar0 + (1 << 20), 0, event, 0 } },
		{ "across the end", { 32, 4, bar0 + (1 << 20) - 2, 0, event, 0 } },
		{ "remove, none", { 32, 4, bar0 + 4, 1, -1, 0 } }, { "fd not open", { 32, 4, bar0 + 4, 1, NOT_OPEN, 0 } },
		{ "/dev/null", { 32, 4, bar0 + 4, 1, null, 0 } }, { "add", { 32, 4, bar0 + 4, 0x1234, event, 0 } },
		{ "add twice", { 32, 4, bar0 + 4, 0x1234, event, 0 } }, { "add, argsz 28", { 28, 4, bar0 + 4, 1, event, 0 } },
		{ "remove", { 32, 4, bar0 + 4, 0x1234, -1, 0 } }, { "remove twice", { 32, 4, bar0 + 4, 0x1234, -1, 0 } },
	};
	for (unsigned i = 0; i < LENGTH(rows); i++)
		TRY(call(device, VFIO_DEVICE_IOEVENTFD, &rows[i].arg), "IOEVENTFD %s", rows[i].name);
	close(event);
	close(null);
}

static void accesses(int device)
{
	uint8_t bytes[64];
	uint64_t bar0 = region_offset(device, BAR0), step = region_offset(device, BAR1) - bar0;
	const struct { const char *name; uint64_t region, at, count; } rows[] = {
		{ "BAR0, 0 bytes", 0, 0, 0 }, { "BAR0, last word", 0, (1 << 20) - 4, 4 },
		{ "BAR0, across the end", 0, (1 << 20) - 4, 8 }, { "BAR0, at the end", 0, 1 << 20, 4 },
		{ "BAR0, beyond the end", 0, (1 << 20) + 4, 4 }, { "BAR1, absent", 1, 0, 4 }, { "BAR5, absent", 5, 0, 4 },
		{ "ROM, absent", ROM, 0, 4 }, { "config, last word", CONFIG, 0xfc, 4 }, { "config, at the end", CONFIG, 0x100, 1 },
		{ "config, across the end", CONFIG, 0xfc, 8 }, { "config, odd place and length", CONFIG, 1, 7 },
		{ "VGA, absent", VGA, 0, 4 }, { "region 9", 9, 0, 4 }, { "region 200", 200, 0, 4 }, { "region 9, 0 bytes", 9, 0, 0 },
	};
	for (unsigned i = 0; i < LENGTH(rows); i++)
		TRY(pread(device, bytes, rows[i].count, bar0 + rows[i].region * step + rows[i].at), "pread %s", rows[i].name);
	memset(bytes, 0, sizeof(bytes));
	for (unsigned i = 0; i < LENGTH(rows); i++)
		if (rows[i].region != CONFIG)
			TRY(pwrite(device, bytes, rows[i].count, bar0 + rows[i].region * step + rows[i].at), "pwrite %s",
			    rows[i].name);
	TRY(pread(device, nowhere, 4, bar0), "pread BAR0 to a bad pointer");
	TRY(pread(device, nowhere, 4, bar0 + CONFIG * step), "pread config to a bad pointer");
	TRY(pwrite(device, nowhere, 4, bar0 + 4), "pwrite BAR0 from a bad pointer");
	const uint64_t sizes[] = { 1, 2, 3, 4, 5, 8, 12, 16 };
	for (unsigned i = 0; i < LENGTH(sizes); i++) {
		memset(bytes, 0xee, sizeof(bytes));
		TRY(pread(device, bytes, sizes[i], bar0), "pread BAR0, %u bytes", (unsigned)sizes[i]);
		out("%02x %02x %02x %02x  %02x %02x %02x %02x", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5],
		    bytes[6], bytes[7]);
	}
	memset(bytes, 0xee, sizeof(bytes));
	TRY(pread(device, bytes, 4, bar0 + 2), "pread BAR0 + 2, 4 bytes");
	out("%02x %02x %02x %02x", bytes[0], bytes[1], bytes[2], bytes[3]);
}

/* What a write may change in config space, and what reads back. */
static void config_writes(int device)
{
	const struct { const char *name; unsigned at, size; uint32_t value; } rows[] = {
		{ "vendor", 0, 2, 0xffff }, { "device", 2, 2, 0 }, { "command all ones", 4, 2, 0xffff }, { "command 3", 4, 2, 3 },
		{ "command 2", 4, 2, 2 }, { "status all ones", 6, 2, 0xffff }, { "class", 8, 4, 0 }, { "cache line", 0xc, 1, 0x10 },
		{ "latency", 0xd, 1, 0x40 }, { "header type", 0xe, 1, 0xff }, { "BIST", 0xf, 1, 0xff }, { "BAR0 zero", 0x10, 4, 0 },
		{ "BAR0 byte", 0x13, 1, 0xab }, { "BAR1 all ones", 0x14, 4, 0xffffffff }, { "subsystem", 0x2c, 4, 0 },
		{ "ROM all ones", 0x30, 4, 0xffffffff }, { "capabilities", 0x34, 1, 0 }, { "interrupt line", 0x3c, 1, 0x55 },
		{ "interrupt pin", 0x3d, 1, 4 }, { "MSI capability", 0x40, 2, 0 }, { "MSI control all ones", 0x42, 2, 0xffff },
		{ "MSI address", 0x44, 4, 0xffffffff }, { "MSI address high", 0x48, 4, 0xffffffff }, { "MSI data", 0x4c, 2, 0xffff },
		{ "MSI control 0", 0x42, 2, 0 }, { "nothing", 0x80, 4, 0xffffffff },
	};
	uint64_t config = region_offset(device, CONFIG);
	for (unsigned i = 0; i < LENGTH(rows); i++) {
		uint32_t value = 0;
		TRY(pwrite(device, &rows[i].value, rows[i].size, config + rows[i].at), "write config %s", rows[i].name);
		pread(device, &value, rows[i].size, config + rows[i].at);
		out("reads %#x", value);
	}
}

static void maps(int device)
{
	uint64_t bar0 = region_offset(device, BAR0), step = region_offset(device, BAR1) - bar0;
	const struct { const char *name; uint64_t region, at, length; int prot, flags; } rows[] = {
		{ "private", 0, 0, PAGE, PROT_READ, MAP_PRIVATE }, { "all of BAR0", 0, 0, 1 << 20, PROT_READ, MAP_SHARED },
		{ "write-only", 0, 0, PAGE, PROT_WRITE, MAP_SHARED }, { "inner page", 0, 0x40000, PAGE, 3, MAP_SHARED },
		{ "one byte", 0, 0, 1, 3, MAP_SHARED }, { "PROT_NONE", 0, 0, PAGE, PROT_NONE, MAP_SHARED },
		{ "beyond the BAR", 0, 0, 2 << 20, 3, MAP_SHARED },
		{ "across the end", 0, (1 << 20) - PAGE, 2 * PAGE, 3, MAP_SHARED }, { "at the end", 0, 1 << 20, PAGE, 3, MAP_SHARED },
		{ "length 0", 0, 0, 0, 3, MAP_SHARED }, { "odd offset", 0, 1, PAGE, 3, MAP_SHARED },
		{ "absent BAR", 1, 0, PAGE, 3, MAP_SHARED }, { "ROM", ROM, 0, PAGE, 3, MAP_SHARED },
		{ "config", CONFIG, 0, PAGE, 3, MAP_SHARED }, { "VGA", VGA, 0, PAGE, 3, MAP_SHARED }, { "region 9", 9, 0, PAGE, 3, MAP_SHARED },
	};
	for (unsigned i = 0; i < LENGTH(rows); i++) {
		void *at = mmap(NULL, rows[i].length, rows[i].prot, rows[i].flags, device,
				bar0 + rows[i].region * step + rows[i].at);
		int error = errno;
		line("mmap %s", rows[i].name);
		errno = error;
		result(at == MAP_FAILED ? -1 : 0);
		if (at != MAP_FAILED)
			munmap(at, rows[i].length);
	}
	volatile uint32_t *regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar0);
	TRY(call(device, VFIO_GET_API_VERSION, NULL), "GET_API_VERSION on a device");
	TRY(munmap((void *)regs, PAGE), "munmap");
}

void misuse_device(void)
{
	section("wrong calls on a device");
	int device = open_device(EDU);
	misuse_infos(device);
	irqs(device);
	features(device);
	misuse_hot_resets(device, opened.group);
	ioeventfds(device);
	accesses(device);
	config_writes(device);
	maps(device);
	close_device(device);
	section("closing in the wrong order");
	device = open_device(EDU);
	uint64_t bar0 = region_offset(device, BAR0);
	volatile uint32_t *regs = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar0);
	TRY(close(device), "close the device, BAR0 still mapped");
	TRY(call(opened.group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER");
	note("the mapping still works: %#x", *regs);
	TRY(munmap((void *)regs, PAGE), "munmap");
	TRY(call(opened.group, VFIO_GROUP_UNSET_CONTAINER, NULL), "UNSET_CONTAINER");
	close(opened.group);
	close(opened.container);
}
