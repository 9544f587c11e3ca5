// SPDX-License-Identifier: GPL-2.0-only
/* A device fd in many hands: dup, fork, exec, SCM_RIGHTS. It is released when the last one lets go, and not before. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "vfio_abi.h"

static uint32_t vendor(int device)
{
	uint32_t id = 0;
	return pread(device, &id, 4, region_offset(device, CONFIG)) == 4 ? id & 0xffff : 0;
}

static void send_fd(int link, int fd)
{
	char room[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(link, &msg, 0) != 1)
		die("sendmsg");
}

static int receive_fd(int link)
{
	char room[CMSG_SPACE(sizeof(int))], byte;
	struct iovec io = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	int fd;

	if (recvmsg(link, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return fd;
}

/* Made before there is a device: it gets it through a socket, and keeps it until told. */
static int stranger(int link)
{
	char byte;
	int device = receive_fd(link);
	int good = vendor(device) == 0x1234;

	if (write(link, "k", 1) != 1 || read(link, &byte, 1) != 1)
		return 9;
	close(device);
	if (write(link, "c", 1) != 1)
		return 9;
	return good ? 3 : 4;
}

static int status_of(pid_t pid)
{
	int status;
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

static const char *group_opens(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return strerrorname_np(errno);
	close(fd);
	return "yes";
}

int main(int argc, char **argv)
{
	int link[2];
	char byte, path[64], number[16];

	if (argc > 1)
		return vendor(atoi(argv[1])) == 0x1234 ? 6 : 7;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, link))
		die("socketpair");
	pid_t far = fork();
	if (far == 0) {
		close(link[0]);
		_exit(stranger(link[1]));
	}
	close(link[1]);
	snprintf(path, sizeof(path), "%s", group_path(EDU));
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), group = open(path, O_RDWR | O_CLOEXEC);
	if (set_container(group, container) || call(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU))
		die("container");
	int device = device_fd(group, EDU), copy = dup(device), third = dup2(device, 77);
	printf("copies: %#x %#x %#x\n", vendor(device), vendor(copy), vendor(third));
	fflush(stdout);
	pid_t near = fork();
	if (near == 0)
		_exit(vendor(copy) == 0x1234 ? 5 : 6);
	printf("forked child: %d\n", status_of(near));
	fflush(stdout);
	near = fork();
	if (near == 0) {
		snprintf(number, sizeof(number), "%d", copy);
		fcntl(copy, F_SETFD, 0);
		execl("/proc/self/exe", argv[0], number, NULL);
		_exit(9);
	}
	printf("after exec: %d\n", status_of(near));
	send_fd(link[0], device);
	if (read(link[0], &byte, 1) != 1)
		die("read");
	close(device);
	close(copy);
	close(third);
	close(group);
	close(container);
	printf("we closed all; the group opens: %s\n", group_opens(path));
	if (write(link[0], "x", 1) != 1 || read(link[0], &byte, 1) != 1)
		die("link");
	printf("the stranger closed, too; the group opens: %s\n", group_opens(path));
	printf("stranger: %d\n", status_of(far));
	return 0;
}
