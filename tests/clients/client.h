/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of vfio_client share: one printed line per call, and the
 * device under test. Nothing that differs between two kernels or two runs is
 * printed: no fd number, region offset, address, pid, group or node number.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <stddef.h>
#include <stdint.h>

#define EDU "0000:00:01.0"
#define TESTDEV "0000:00:02.0"
#define E1000E "0000:00:03.0"
#define PAGE 4096UL
#define NOT_OPEN 499              /* an fd number that nobody opens */

/* TRY(call, "text"...): print the text, make the call, print its result. */
#define TRY(call, ...) (line(__VA_ARGS__), result((long)(call)))
#define TRY_FD(call, ...) (line(__VA_ARGS__), result_fd((long)(call)))
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

void section(const char *title);
void line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
long result(long value);          /* " = 0" or " = -EINVAL" */
long result_fd(long value);       /* " = fd" instead of the number */
void out(const char *fmt, ...) __attribute__((format(printf, 1, 2)));   /* decoded outputs, on the same line */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  /* a line of its own */
void die(const char *what);       /* the set-up failed: no sense in going on */

/* sysfs and nodes */
void bind_to_vfio_pci(const char *bdf);
const char *group_path(const char *bdf);
const char *cdev_path(const char *bdf);
int sysfs_write(const char *path, const char *text);     /* 0 or -1 with errno */

/* thin calls; all return what ioctl(2) returned */
int call(int fd, unsigned long request, const void *arg);
int set_container(int group, int fd);
int device_fd(int group, const char *name);
int map_dma(int container, void *vaddr, uint64_t iova, uint64_t size, uint32_t flags);
int unmap_dma(int container, uint64_t iova, uint64_t *size);
int bind_iommufd(int device, int iommufd, uint32_t *devid);
int ioas_alloc(int iommufd, uint32_t *id);
int ioas_map(int iommufd, uint32_t ioas, void *vaddr, uint64_t iova, uint64_t size);
int attach(int device, uint32_t *pt_id);
int set_irqs(int device, uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const int32_t *data);
uint64_t region_offset(int device, uint32_t index);
uint64_t eventfd_take(int fd, int timeout_ms);           /* its count, 0 if it stays silent */

/* one device at a time, through its group and a type1 v2 container of its own */
extern struct opened { int container, group; } opened;
int open_device(const char *bdf);
void close_device(int device);

/* the parts */
struct dma { uint64_t iova; uint8_t *memory; };          /* 4 pages mapped for the device */
void do_the_job(int device, struct dma dma);
void misuse_matrix(void);
void misuse_group(void);
void misuse_type1(void);
void misuse_device(void);
void misuse_infos(int device);
void misuse_hot_resets(int device, int group);           /* group -1: not opened through one */
void misuse_cdev(void);
void misuse_ioas(void);
void other_devices(void);
void unplug(void);

#endif
