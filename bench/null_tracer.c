// SPDX-License-Identifier: GPL-2.0-only
/*
 * The floor of a trapped register access: microseconds for a read of a page that is not
 * there, with a tracer in C that looks at the stop as ours does (signal, registers,
 * instruction), puts a number into a register, and knows nothing of devices.
 * argv[1]: reads in each of five rounds, the best of which counts.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 5, LENGTH = 2, IDENT = 0x010000ed };     /* bytes of "mov (%rcx), %eax" */

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int client(int count)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd_create("registers", 0), 0);
	double best = 1e9;

	raise(SIGSTOP);
	for (int round = 0; round < ROUNDS; round++) {
		double start = now();
		for (int i = 0; i < count; i++) {
			uint32_t value;
			asm volatile("mov (%%rcx), %%eax" : "=a"(value) : "c"(page) : "memory");
			if (value != IDENT)
				return 1;
		}
		double each = (now() - start) * 1e6 / count;
		best = each < best ? each : best;
	}
	printf("%.2f\n", best);
	return 0;
}

static void access_done(pid_t pid, int memory)
{
	struct user_regs_struct regs;
	siginfo_t info;
	uint8_t code[15];

	if (ptrace(PTRACE_GETSIGINFO, pid, 0, &info) || ptrace(PTRACE_GETREGS, pid, 0, &regs) ||
	    pread(memory, code, sizeof(code), regs.rip) != sizeof(code))
		exit(1);
	regs.rax = IDENT;
	regs.rip += LENGTH;
	if (ptrace(PTRACE_SETREGS, pid, 0, &regs) || ptrace(PTRACE_CONT, pid, 0, 0))
		exit(1);
}

int main(int argc, char **argv)
{
	pid_t pid = fork();
	char path[32];
	int status;

	if (!pid)
		return client(argc > 1 ? atoi(argv[1]) : 5000);
	waitpid(pid, &status, WUNTRACED);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int memory = open(path, O_RDONLY);
	if (memory < 0 || ptrace(PTRACE_SEIZE, pid, 0, 0) || kill(pid, SIGCONT))
		return 1;
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		if (WSTOPSIG(status) == SIGBUS)
			access_done(pid, memory);
		else
			ptrace(PTRACE_CONT, pid, 0, 0);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
