// SPDX-License-Identifier: GPL-2.0-only
/* Wrong mappings: type1 (v1 and v2) and IOAS. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

#define TOP (~0ULL - PAGE + 1)    /* the last page of 64 bits */
#define AT_NULL (~0ULL)           /* a vaddr of 0; others below the buffer's size are relative to it */
#define ULL(x) ((unsigned long long)(x))

enum { PAGES = 16 };
static uint8_t *memory;           /* PAGES pages: 12 is read-only, 13 PROT_NONE, 14 a hole */

static void lay_out_memory(void)
{
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || mprotect(memory + 12 * PAGE, PAGE, PROT_READ) ||
	    mprotect(memory + 13 * PAGE, PAGE, PROT_NONE) || munmap(memory + 14 * PAGE, PAGE))
		die("memory layout");
}

static void give_memory_back(void)
{
	munmap(memory, PAGES * PAGE);
}

static uint64_t address(uint64_t vaddr)
{
	return vaddr == AT_NULL ? 0 : vaddr < PAGES * PAGE ? (uintptr_t)memory + vaddr : vaddr;
}

struct map_row { const char *name; uint32_t argsz, flags; uint64_t vaddr, iova, size; };

static const struct map_row maps[] = {
	{ "argsz 0", 0, 3, 0, 0x1000, PAGE },
	{ "argsz 31", 31, 3, 0, 0x1000, PAGE },
	{ "argsz 33", 33, 3, 0, 0x1000, PAGE },
	{ "argsz 0xffffffff", 0xffffffff, 3, 0, 0x2000, PAGE },
	{ "flag 8", 32, 8 | 3, 0, 0x1000, PAGE },
	{ "flag 0x80000000", 32, 0x80000000 | 3, 0, 0x1000, PAGE },
	{ "no protection", 32, 0, 0, 0x3000, PAGE },
	{ "VADDR with protection", 32, 7, 0, 0x3000, PAGE },
	{ "VADDR, nothing there", 32, 4, 0, 0x3000, PAGE },
	{ "VADDR, mapping valid", 32, 4, 0, 0x1000, PAGE },
	{ "size 0", 32, 3, 0, 0x3000, 0 },
	{ "size 1", 32, 3, 0, 0x3000, 1 },
	{ "size 4095", 32, 3, 0, 0x3000, PAGE - 1 },
	{ "size 4097", 32, 3, 0, 0x3000, PAGE + 1 },
	{ "iova + 1", 32, 3, 0, 0x3001, PAGE },
	{ "iova + 0x800", 32, 3, 0, 0x3800, PAGE },
	{ "vaddr + 1", 32, 3, 1, 0x3000, PAGE },
	{ "vaddr + 0x800", 32, 3, 0x800, 0x3000, PAGE },
	{ "iova wraps", 32, 3, 0, TOP, 2 * PAGE },
	{ "iova wraps, no protection", 32, 0, 0, TOP, 2 * PAGE },
	{ "vaddr wraps", 32, 3, TOP, 0x3000, 2 * PAGE },
	{ "the last page of 64 bits", 32, 3, 0, TOP, PAGE },
	{ "beyond the aperture", 32, 3, 0, 1ULL << 60, PAGE },
	{ "just beyond the aperture", 32, 3, 0, 1ULL << 39, PAGE },
	{ "the last page of the aperture", 32, 3, 0, (1ULL << 39) - PAGE, PAGE },
	{ "the MSI window", 32, 3, 0, 0xfee00000, PAGE },
	{ "the last page of the MSI window", 32, 3, 0, 0xfeeff000, PAGE },
	{ "into the MSI window", 32, 3, 0, 0xfedff000, 2 * PAGE },
	{ "just below the MSI window", 32, 3, 0, 0xfedff000, PAGE },
	{ "just above the MSI window", 32, 3, 0, 0xfef00000, PAGE },
	{ "vaddr NULL", 32, 3, AT_NULL, 0x3000, PAGE },
	{ "vaddr not canonical", 32, 3, 1ULL << 60, 0x3000, PAGE },
	{ "read-only memory, read", 32, 1, 12 * PAGE, 0x10000, PAGE },
	{ "read-only memory, write", 32, 2, 12 * PAGE, 0x11000, PAGE },
	{ "PROT_NONE memory", 32, 1, 13 * PAGE, 0x12000, PAGE },
	{ "unmapped memory", 32, 1, 14 * PAGE, 0x13000, PAGE },
	{ "good page then PROT_NONE", 32, 1, 12 * PAGE, 0x14000, 2 * PAGE },
	{ "the same iova afterwards", 32, 1, 0, 0x14000, 2 * PAGE },
	{ "4 pages", 32, 3, 0, 0x20000, 4 * PAGE },
	{ "the same again", 32, 3, 0, 0x20000, 4 * PAGE },
	{ "overlap at the front", 32, 3, 0, 0x1f000, 2 * PAGE },
	{ "overlap at the back", 32, 3, 0, 0x23000, 2 * PAGE },
	{ "overlap inside", 32, 3, 0, 0x21000, PAGE },
	{ "overlap all around", 32, 3, 0, 0x1f000, 6 * PAGE },
	{ "neighbour below", 32, 3, 0, 0x1f000, PAGE },
	{ "neighbour above", 32, 3, 0, 0x24000, PAGE },
	{ "the same memory elsewhere", 32, 2, 0, 0x30000, 4 * PAGE },
	{ "iova 0", 32, 1, 0, 0, PAGE },
};

struct unmap_row { const char *name; uint32_t argsz, flags; uint64_t iova, size; };

static const struct unmap_row unmaps[] = {
	{ "argsz 0", 0, 0, 0x20000, 4 * PAGE },
	{ "argsz 23", 23, 0, 0x20000, 4 * PAGE },
	{ "flag 8", 24, 8, 0x20000, 4 * PAGE },
	{ "size 0", 24, 0, 0x20000, 0 },
	{ "size 1", 24, 0, 0x20000, 1 },
	{ "iova + 1", 24, 0, 0x20001, 4 * PAGE },
	{ "wraps", 24, 0, TOP, 2 * PAGE },
	{ "nothing there", 24, 0, 0x80000000, PAGE },
	{ "nothing there, large", 24, 0, 0x80000000, 1ULL << 30 },
	{ "cuts the front", 24, 0, 0x1e000, 3 * PAGE },
	{ "front half", 24, 0, 0x20000, 2 * PAGE },
	{ "middle", 24, 0, 0x21000, PAGE },
	{ "back half", 24, 0, 0x22000, 2 * PAGE },
	{ "dirty bitmap, tracking off", 48, 1, 0x20000, 4 * PAGE },
	{ "dirty bitmap, argsz 24", 24, 1, 0x20000, 4 * PAGE },
	{ "dirty bitmap and all", 48, 3, 0, 0 },
	{ "dirty bitmap and vaddr", 48, 5, 0x20000, 4 * PAGE },
	{ "all, with iova", 24, 2, PAGE, 0 },
	{ "all, with size", 24, 2, 0, PAGE },
	{ "vaddr", 24, 4, 0x30000, 4 * PAGE },
	{ "vaddr twice", 24, 4, 0x30000, 4 * PAGE },
	{ "several at once", 24, 0, 0x1f000, 6 * PAGE },
	{ "the same again", 24, 0, 0x1f000, 6 * PAGE },
	{ "a large range with something in it", 24, 0, 0, 0x15000 },
	{ "all", 24, 2, 0, 0 },
	{ "all twice", 24, 2, 0, 0 },
};

static int map_row(int container, const struct map_row *row)
{
	struct dma_map map = { row->argsz, row->flags, address(row->vaddr), row->iova, row->size };
	return call(container, VFIO_IOMMU_MAP_DMA, &map);
}

static void unmap_row(int container, const char *who, const struct unmap_row *row)
{
	uint64_t bitmap = 0;
	struct dma_unmap unmap = {
		row->argsz, row->flags, row->iova, row->size, PAGE, sizeof(bitmap), (uintptr_t)&bitmap,
	};
	TRY(call(container, VFIO_IOMMU_UNMAP_DMA, &unmap), "%s UNMAP_DMA %s", who, row->name);
	out("%#llx bytes", ULL(unmap.size));
}

static void tables(int container, const char *who)
{
	for (unsigned i = 0; i < LENGTH(maps); i++)
		TRY(map_row(container, &maps[i]), "%s MAP_DMA %s", who, maps[i].name);
	TRY(call(container, VFIO_IOMMU_MAP_DMA, NULL), "%s MAP_DMA NULL", who);
	TRY(call(container, VFIO_IOMMU_UNMAP_DMA, (void *)16), "%s UNMAP_DMA bad pointer", who);
	for (unsigned i = 0; i < LENGTH(unmaps); i++)
		unmap_row(container, who, &unmaps[i]);
}

static void dirty(int container, const char *who)
{
	uint64_t bitmap = 0;
	const struct { const char *name; uint32_t argsz, flags; uint64_t iova, size, pgsize, bitmap_size; } rows[] = {
		{ "bitmap, tracking off", 48, 4, 0x20000, 4 * PAGE, PAGE, 8 },
		{ "argsz 7", 7, 1, 0, 0, 0, 0 },
		{ "no flag", 8, 0, 0, 0, 0, 0 },
		{ "two flags", 8, 3, 0, 0, 0, 0 },
		{ "flag 8", 8, 8, 0, 0, 0, 0 },
		{ "stop before start", 8, 2, 0, 0, 0, 0 },
		{ "start", 8, 1, 0, 0, 0, 0 },
		{ "start twice", 8, 1, 0, 0, 0, 0 },
		{ "bitmap", 48, 4, 0x20000, 4 * PAGE, PAGE, 8 },
		{ "bitmap again", 48, 4, 0x20000, 4 * PAGE, PAGE, 8 },
		{ "bitmap, argsz 47", 47, 4, 0x20000, 4 * PAGE, PAGE, 8 },
		{ "bitmap, size 0", 48, 4, 0x20000, 0, PAGE, 8 },
		{ "bitmap of 0 bytes", 48, 4, 0x20000, 4 * PAGE, PAGE, 0 },
		{ "bitmap, page size 8192", 48, 4, 0x20000, 4 * PAGE, 2 * PAGE, 8 },
		{ "bitmap, unaligned", 48, 4, 0x20001, 4 * PAGE, PAGE, 8 },
		{ "bitmap cuts a mapping", 48, 4, 0x21000, PAGE, PAGE, 8 },
		{ "bitmap wraps", 48, 4, TOP, 2 * PAGE, PAGE, 8 },
		{ "stop", 8, 2, 0, 0, 0, 0 },
		{ "stop twice", 8, 2, 0, 0, 0, 0 },
	};
	TRY(map_dma(container, memory, 0x20000, 4 * PAGE, DMA_READ | DMA_WRITE), "%s MAP_DMA 4 pages", who);
	for (unsigned i = 0; i < LENGTH(rows); i++) {
		struct dirty_pages arg = {
			rows[i].argsz, rows[i].flags, rows[i].iova, rows[i].size, rows[i].pgsize, rows[i].bitmap_size,
			(uintptr_t)&bitmap,
		};
		bitmap = 0;
		TRY(call(container, VFIO_IOMMU_DIRTY_PAGES, &arg), "%s DIRTY_PAGES %s", who, rows[i].name);
		out("bitmap %#llx", ULL(bitmap));
	}
}

static void info_sizes(int container, const char *who)
{
	const uint32_t sizes[] = { 0, 15, 16, 17, 23, 24, 25, 119, 120, 280 };
	for (unsigned i = 0; i < LENGTH(sizes); i++) {
		struct type1_info info = { .argsz = sizes[i], .cap_offset = 0xee };
		TRY(call(container, VFIO_IOMMU_GET_INFO, &info), "%s IOMMU_GET_INFO argsz %u", who, sizes[i]);
		out("argsz %u flags %#x caps at %u", info.argsz, info.flags, info.cap_offset);
	}
}

static void one_type(unsigned long type, const char *who)
{
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), group = open(group_path(EDU), O_RDWR | O_CLOEXEC);

	lay_out_memory();
	TRY(set_container(group, container), "%s GROUP_SET_CONTAINER", who);
	TRY(call(container, VFIO_SET_IOMMU, (void *)type), "%s SET_IOMMU", who);
	info_sizes(container, who);
	tables(container, who);
	dirty(container, who);
	give_memory_back();                       /* with mappings left: munmap first, close afterwards */
	TRY(call(group, VFIO_GROUP_UNSET_CONTAINER, NULL), "%s UNSET_CONTAINER with mappings", who);
	TRY(call(container, VFIO_IOMMU_MAP_DMA, NULL), "%s MAP_DMA afterwards", who);
	close(group);
	close(container);
}

void misuse_type1(void)
{
	section("wrong type1 mappings");
	one_type(VFIO_TYPE1v2_IOMMU, "v2");
	one_type(VFIO_TYPE1_IOMMU, "v1");
}

struct ioas_row { const char *name; uint32_t size, flags, reserved; uint64_t vaddr, length, iova; };

static const struct ioas_row ioas_maps[] = {
	{ "size 0", 0, 7, 0, 0, PAGE, 0x1000 },
	{ "size 39", 39, 7, 0, 0, PAGE, 0x1000 },
	{ "flag 8", 40, 15, 0, 0, PAGE, 0x1000 },
	{ "reserved word", 40, 7, 1, 0, PAGE, 0x1000 },
	{ "no protection", 40, 1, 0, 0, PAGE, 0x1000 },
	{ "length 0", 40, 7, 0, 0, 0, 0x1000 },
	{ "length all ones", 40, 7, 0, 0, ~0ULL, 0x1000 },
	{ "iova all ones", 40, 7, 0, 0, PAGE, ~0ULL },
	{ "iova wraps", 40, 7, 0, 0, 2 * PAGE, TOP },
	{ "vaddr wraps", 40, 7, 0, TOP, 2 * PAGE, 0x1000 },
	{ "length 100", 40, 7, 0, 0, 100, 0x1000 },
	{ "iova + 1", 40, 7, 0, 0, PAGE, 0x1001 },
	{ "vaddr + 1", 40, 7, 0, 1, PAGE, 0x1000 },
	{ "the MSI window", 40, 7, 0, 0, PAGE, 0xfee00000 },
	{ "into the MSI window", 40, 7, 0, 0, 2 * PAGE, 0xfedff000 },
	{ "beyond the aperture", 40, 7, 0, 0, PAGE, 1ULL << 39 },
	{ "vaddr NULL", 40, 7, 0, AT_NULL, PAGE, 0x5000 },
	{ "read-only memory, read", 40, 5, 0, 12 * PAGE, PAGE, 0x10000 },
	{ "read-only memory, write", 40, 3, 0, 12 * PAGE, PAGE, 0x11000 },
	{ "PROT_NONE memory", 40, 5, 0, 13 * PAGE, PAGE, 0x12000 },
	{ "unmapped memory", 40, 5, 0, 14 * PAGE, PAGE, 0x13000 },
	{ "good page then PROT_NONE", 40, 5, 0, 12 * PAGE, 2 * PAGE, 0x14000 },
	{ "4 pages", 40, 7, 0, 0, 4 * PAGE, 0x20000 },
	{ "the same again", 40, 7, 0, 0, 4 * PAGE, 0x20000 },
	{ "overlap inside", 40, 7, 0, 0, PAGE, 0x21000 },
	{ "neighbour above", 40, 7, 0, 0, PAGE, 0x24000 },
	{ "an address of its choice", 40, 6, 0, 0, PAGE, 0x77 },
};

static void ioas_tables(int iommufd, uint32_t ioas, const char *who)
{
	const struct { const char *name; uint32_t size; uint64_t iova, length; } rows[] = {
		{ "size 23", 23, 0x20000, 4 * PAGE },
		{ "length 0", 24, 0x20000, 0 },
		{ "wraps", 24, TOP, 2 * PAGE },
		{ "nothing there", 24, 0x80000000, PAGE },
		{ "front half", 24, 0x20000, 2 * PAGE },
		{ "middle", 24, 0x21000, PAGE },
		{ "two at once", 24, 0x20000, 5 * PAGE },
		{ "the same again", 24, 0x20000, 5 * PAGE },
		{ "everything", 24, 0, ~0ULL },
		{ "everything again", 24, 0, ~0ULL },
	};
	for (unsigned i = 0; i < LENGTH(ioas_maps); i++) {
		const struct ioas_row *row = &ioas_maps[i];
		struct ioas_map map = {
			row->size, row->flags, ioas, row->reserved, address(row->vaddr), row->length, row->iova,
		};
		long ret = TRY(call(iommufd, IOMMU_IOAS_MAP, &map), "%s IOAS_MAP %s", who, row->name);
		if (ret == 0 && row->flags & IOAS_FIXED)
			out("iova %#llx", ULL(map.iova));
	}
	for (unsigned i = 0; i < LENGTH(rows); i++) {
		struct ioas_unmap unmap = { rows[i].size, ioas, rows[i].iova, rows[i].length };
		TRY(call(iommufd, IOMMU_IOAS_UNMAP, &unmap), "%s IOAS_UNMAP %s", who, rows[i].name);
		out("%#llx bytes", ULL(unmap.length));
	}
}

static void ranges(int iommufd, uint32_t ioas, const char *who)
{
	struct iova_range found[4];
	const struct { const char *name; uint32_t size, ioas, num, reserved; uint64_t where; } rows[] = {
		{ "size 31", 31, ioas, 4, 0, (uintptr_t)found },
		{ "reserved word", 32, ioas, 4, 1, (uintptr_t)found },
		{ "wrong id", 32, 999, 4, 0, (uintptr_t)found },
		{ "room for none", 32, ioas, 0, 0, 0 },
		{ "bad pointer", 32, ioas, 4, 0, 16 },
		{ "room for four", 32, ioas, 4, 0, (uintptr_t)found },
	};
	for (unsigned i = 0; i < LENGTH(rows); i++) {
		struct ioas_iova_ranges arg = {
			rows[i].size, rows[i].ioas, rows[i].num, rows[i].reserved, rows[i].where, 0,
		};
		TRY(call(iommufd, IOMMU_IOAS_IOVA_RANGES, &arg), "%s IOAS_IOVA_RANGES %s", who, rows[i].name);
		out("%u ranges, alignment %llu", arg.num_iovas, ULL(arg.out_iova_alignment));
	}
}

static void objects(int iommufd)
{
	const struct { const char *name; uint32_t size, flags; } allocs[] = {
		{ "size 0", 0, 0 }, { "size 11", 11, 0 }, { "flags 1", 12, 1 }, { "", 12, 0 },
	};
	const uint32_t ids[] = { 0, 999, 0xffffffff };
	uint32_t ioas;

	for (unsigned i = 0; i < LENGTH(allocs); i++) {
		struct ioas_alloc arg = { allocs[i].size, allocs[i].flags, 0 };
		TRY(call(iommufd, IOMMU_IOAS_ALLOC, &arg), "IOAS_ALLOC %s", allocs[i].name);
		out("id %u", arg.out_ioas_id);
	}
	for (unsigned i = 0; i < LENGTH(ids); i++) {
		struct iommu_destroy arg = { sizeof(arg), ids[i] };
		TRY(call(iommufd, IOMMU_DESTROY, &arg), "DESTROY id %u", ids[i]);
	}
	TRY(ioas_alloc(iommufd, &ioas), "IOAS_ALLOC");
	out("id %u", ioas);
	struct iommu_destroy arg = { sizeof(arg), ioas };
	TRY(call(iommufd, IOMMU_DESTROY, &arg), "DESTROY");
	TRY(call(iommufd, IOMMU_DESTROY, &arg), "DESTROY twice");
	TRY(ioas_alloc(iommufd, &ioas), "IOAS_ALLOC uses the number again");
	out("id %u", ioas);
	arg.id = ioas;
	TRY(call(iommufd, IOMMU_DESTROY, &arg), "DESTROY");
}

void misuse_ioas(void)
{
	section("wrong IOAS calls");
	int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC), device = open(cdev_path(EDU), O_RDWR | O_CLOEXEC);
	uint32_t devid, ioas, pt;

	lay_out_memory();
	objects(iommufd);
	TRY(ioas_alloc(iommufd, &ioas), "IOAS_ALLOC");
	out("id %u", ioas);
	ranges(iommufd, ioas, "no device:");
	ioas_tables(iommufd, ioas, "no device:");
	TRY(bind_iommufd(device, iommufd, &devid), "BIND_IOMMUFD");
	out("devid %u", devid);
	pt = ioas;
	TRY(attach(device, &pt), "ATTACH");
	out("hwpt %u", pt);
	ranges(iommufd, ioas, "attached:");
	ioas_tables(iommufd, ioas, "attached:");
	ioas_tables(iommufd, devid, "device id:");
	TRY(ioas_map(iommufd, ioas, memory, 0x20000, 4 * PAGE), "IOAS_MAP 4 pages");
	give_memory_back();
	TRY(close(device), "close the device with mappings, the memory gone");
	TRY(close(iommufd), "close the iommufd");
}
