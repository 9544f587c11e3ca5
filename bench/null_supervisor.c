// SPDX-License-Identifier: GPL-2.0-only
/*
 * The fastest possible supervisor: answers every ioctl of type ';' with 0 and does
 * nothing else. What uvfio's round trip is measured against.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#define ARG1 offsetof(struct seccomp_data, args[1])

static int start(char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARG1),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x3b00, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(*code), code };
	char x;
	int fd;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	/* The parent takes the listener over by its number, then we exec. */
	fd = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
	if (fd < 0 || dup2(fd, 200) < 0 || write(201, "x", 1) != 1)
		return 1;
	if (read(202, &x, 1) != 1)
		return 1;
	close(200);
	execvp(argv[0], argv);
	return 1;
}

int main(int argc, char **argv)
{
	struct seccomp_notif call;
	struct seccomp_notif_resp answer;
	int ready[2], go[2], listener, pid;
	char x;

	if (argc < 2 || pipe(ready) || dup2(ready[1], 201) < 0 || pipe(go) || dup2(go[0], 202) < 0)
		return 2;
	pid = fork();
	if (pid == 0)
		_exit(start(argv + 1));
	if (read(ready[0], &x, 1) != 1)
		return 2;
	listener = syscall(__NR_pidfd_getfd, syscall(__NR_pidfd_open, pid, 0), 200, 0);
	if (listener < 0)
		return 2;
	if (write(go[1], "x", 1) != 1)
		return 2;
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1UL);
	for (;;) {
		struct pollfd p = { listener, POLLIN, 0 };

		if (poll(&p, 1, -1) < 0 || !(p.revents & POLLIN))
			break;
		memset(&call, 0, sizeof(call));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
			continue;
		memset(&answer, 0, sizeof(answer));
		answer.id = call.id;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
	return waitpid(pid, NULL, 0) < 0;
}
