// SPDX-License-Identifier: GPL-2.0-only
/*
 * A traced client's life: threads, fork, exec, signals, group stops, real bus
 * errors. The fd argv[1] is device memory of 4096 bytes behaving like memory,
 * whose last word refuses every access. One line per step on stdout.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 200, LAST = 1023 };

static volatile uint32_t *device;
static volatile sig_atomic_t ticks;
static sigjmp_buf escape;

static void *work(void *arg)
{
	intptr_t id = (intptr_t)arg;
	for (uint32_t i = 0; i < ROUNDS; i++) {
		device[id] = i * 7;
		if (device[id] != i * 7)
			return (void *)1;
		__atomic_fetch_add(&device[100], 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void tick(int sig)
{
	(void)sig;
	device[200] = ++ticks;       /* in the middle of other accesses */
}

static void bus(int sig) { siglongjmp(escape, sig); }

static void threads(void)
{
	pthread_t thread[THREADS];
	void *bad, *any = NULL;

	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, work, (void *)i);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &bad);
		any = any ? any : bad;
	}
	printf("threads: %s, counter %u\n", any ? "wrong" : "right", device[100]);
}

static void signals(void)
{
	struct sigaction act = { .sa_handler = tick };
	struct itimerspec every = { { 0, 500000 }, { 0, 500000 } };
	timer_t timer;
	int wrong = 0;

	sigaction(SIGALRM, &act, NULL);
	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	timer_settime(timer, 0, &every, NULL);
	for (uint32_t i = 0; i < 1000; i++) {
		device[300] = i;
		wrong |= device[300] != i;
	}
	timer_delete(timer);
	printf("signals: %s, some came: %d\n", wrong ? "wrong" : "right", ticks > 0);
}

static void refused(void)
{
	struct sigaction act = { .sa_handler = bus }, old;

	sigaction(SIGBUS, &act, &old);
	int sig = sigsetjmp(escape, 1);
	if (sig == 0)
		device[LAST] = 1;
	printf("refused: signal %d\n", sig);
	sigaction(SIGBUS, &old, NULL);
}

static void children(char **argv)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		device[500] = 77;
		_exit(device[500] == 77 ? 5 : 6);
	}
	waitpid(pid, &status, 0);
	printf("fork: exit %d, the parent sees %u\n", WEXITSTATUS(status), device[500]);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execl(argv[0], argv[0], argv[1], "again", NULL);
		_exit(9);
	}
	waitpid(pid, &status, 0);
	printf("exec: exit %d\n", WEXITSTATUS(status));
	pid = fork();
	if (pid == 0) {
		for (;;)
			device[600]++;
	}
	int stopped = 0;
	kill(pid, SIGSTOP);
	if (waitpid(pid, &status, WUNTRACED) == pid)
		stopped = WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
	uint32_t before = device[600];
	struct timespec nap = { 0, 20000000 };
	nanosleep(&nap, NULL);
	int still = device[600] == before;
	kill(pid, SIGCONT);
	int continued = waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status);
	for (int i = 0; i < 500 && device[600] == before; i++)
		nanosleep(&(struct timespec){ 0, 2000000 }, NULL);
	int goes_on = device[600] != before;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	printf("stop: stopped %d still %d continued %d goes on %d killed by %d\n", stopped, still, continued, goes_on,
	       WTERMSIG(status));
}

int main(int argc, char **argv)
{
	device = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
	if (device == MAP_FAILED)
		return 2;
	if (argc > 2) {
		device[700] = 12;
		return device[700] == 12 && device[500] == 77 ? 4 : 3;
	}
	getchar();
	threads();
	signals();
	refused();
	children(argv);
	fflush(stdout);
	device[LAST] = 1;            /* nobody catches this one */
	return 0;
}
