/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The part of <linux/vfio.h> and <linux/iommufd.h> that the clients use, from
 * the facts in the ABI tables: Debian 12's headers are older than device cdevs
 * and iommufd.
 */
#ifndef VFIO_ABI_H
#define VFIO_ABI_H

#include <stdint.h>

#define VFIO(n) (0x3b64UL + (n))
#define IOMMU(nr) (0x3b00UL | (nr))

/* the numbers are reused: what they mean depends on the kind of fd */
#define VFIO_GET_API_VERSION VFIO(0)
#define VFIO_CHECK_EXTENSION VFIO(1)
#define VFIO_SET_IOMMU VFIO(2)
#define VFIO_GROUP_GET_STATUS VFIO(3)
#define VFIO_GROUP_SET_CONTAINER VFIO(4)
#define VFIO_GROUP_UNSET_CONTAINER VFIO(5)
#define VFIO_GROUP_GET_DEVICE_FD VFIO(6)
#define VFIO_DEVICE_GET_INFO VFIO(7)
#define VFIO_DEVICE_GET_REGION_INFO VFIO(8)
#define VFIO_DEVICE_GET_IRQ_INFO VFIO(9)
#define VFIO_DEVICE_SET_IRQS VFIO(10)
#define VFIO_DEVICE_RESET VFIO(11)
#define VFIO_DEVICE_GET_PCI_HOT_RESET_INFO VFIO(12)
#define VFIO_DEVICE_PCI_HOT_RESET VFIO(13)
#define VFIO_DEVICE_IOEVENTFD VFIO(16)
#define VFIO_DEVICE_FEATURE VFIO(17)
#define VFIO_DEVICE_BIND_IOMMUFD VFIO(18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT VFIO(19)
#define VFIO_DEVICE_DETACH_IOMMUFD_PT VFIO(20)
#define VFIO_IOMMU_GET_INFO VFIO(12)
#define VFIO_IOMMU_MAP_DMA VFIO(13)
#define VFIO_IOMMU_UNMAP_DMA VFIO(14)
#define VFIO_IOMMU_DIRTY_PAGES VFIO(17)

#define IOMMU_DESTROY IOMMU(0x80)
#define IOMMU_IOAS_ALLOC IOMMU(0x81)
#define IOMMU_IOAS_IOVA_RANGES IOMMU(0x84)
#define IOMMU_IOAS_MAP IOMMU(0x85)
#define IOMMU_IOAS_UNMAP IOMMU(0x86)

enum { VFIO_TYPE1_IOMMU = 1, VFIO_TYPE1v2_IOMMU = 3 };
enum { DATA_NONE = 1, DATA_BOOL = 2, DATA_EVENTFD = 4, ACTION_MASK = 8, ACTION_UNMASK = 16, ACTION_TRIGGER = 32 };
enum { INTX = 0, MSI = 1, MSIX = 2, ERR = 3, REQ = 4 };
enum { BAR0 = 0, BAR1 = 1, ROM = 6, CONFIG = 7, VGA = 8, NUM_REGIONS = 9 };
enum { DMA_READ = 1, DMA_WRITE = 2, DMA_VADDR = 4 };
enum { UNMAP_DIRTY = 1, UNMAP_ALL = 2, UNMAP_VADDR = 4 };
enum { FEATURE_GET = 0x10000, FEATURE_SET = 0x20000, FEATURE_PROBE = 0x40000 };
enum { IOAS_FIXED = 1, IOAS_WRITEABLE = 2, IOAS_READABLE = 4 };

struct group_status { uint32_t argsz, flags; };
struct device_info { uint32_t argsz, flags, num_regions, num_irqs, cap_offset, pad; };
struct region_info { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };
struct irq_info { uint32_t argsz, flags, index, count; };
struct irq_set { uint32_t argsz, flags, index, start, count; int32_t data[8]; };
struct hot_reset { uint32_t argsz, flags, count; int32_t fds[4]; };
struct ioeventfd { uint32_t argsz, flags; uint64_t offset, data; int32_t fd; uint32_t reserved; };
struct feature { uint32_t argsz, flags; uint8_t data[32]; };
struct bind_iommufd { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; uint64_t token_uuid_ptr, excess; };
struct attach_pt { uint32_t argsz, flags, pt_id, pasid; };
struct detach_pt { uint32_t argsz, flags, pasid; };
struct type1_info { uint32_t argsz, flags; uint64_t iova_pgsizes; uint32_t cap_offset, pad; uint8_t caps[256]; };
struct dma_map { uint32_t argsz, flags; uint64_t vaddr, iova, size; };
struct dma_unmap { uint32_t argsz, flags; uint64_t iova, size, bitmap_pgsize, bitmap_size, bitmap; };
struct dirty_pages { uint32_t argsz, flags; uint64_t iova, size, pgsize, bitmap_size, bitmap; };
struct cap_header { uint16_t id, version; uint32_t next; };
struct iova_range { uint64_t start, last; };

struct iommu_destroy { uint32_t size, id; };
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_iova_ranges { uint32_t size, ioas_id, num_iovas, reserved; uint64_t allowed_iovas, out_iova_alignment; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };

/* QEMU's edu device (docs/specs/edu.rst) */
enum {
	EDU_ID = 0x00, EDU_LIVENESS = 0x04, EDU_FACTORIAL = 0x08, EDU_STATUS = 0x20, EDU_IRQ_STATUS = 0x24,
	EDU_IRQ_RAISE = 0x60, EDU_IRQ_ACK = 0x64, EDU_DMA_SRC = 0x80, EDU_DMA_DST = 0x88, EDU_DMA_COUNT = 0x90,
	EDU_DMA_CMD = 0x98, EDU_BUFFER = 0x40000, EDU_BUFFER_SIZE = 4096,
};
enum { EDU_STATUS_COMPUTING = 1, EDU_STATUS_IRQ = 0x80 };
enum { EDU_DMA_RUN = 1, EDU_DMA_FROM_DEVICE = 2, EDU_DMA_IRQ = 4, EDU_DMA_IRQ_CAUSE = 0x100 };

#endif
