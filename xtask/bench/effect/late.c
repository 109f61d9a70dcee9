// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sleeps for short times at the highest priority until SIGTERM, and prints by how many nanoseconds it came to run too
 * late, at most: for so long something kept the CPU from every task.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#define PERIOD 250000

static volatile sig_atomic_t ended;

static void end(int signal)
{
	(void)signal;
	ended = 1;
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(void)
{
	struct sched_param highest = { .sched_priority = 99 };
	struct timespec period = { .tv_nsec = PERIOD };
	long long start, late, most = 0;

	signal(SIGTERM, end);
	if (mlockall(MCL_CURRENT | MCL_FUTURE) || sched_setscheduler(0, SCHED_FIFO, &highest)) {
		perror("late");
		return 1;
	}
	while (!ended) {
		start = now();
		if (clock_nanosleep(CLOCK_MONOTONIC, 0, &period, NULL))
			break;	/* by the signal */
		late = now() - start - PERIOD;
		if (late > most)
			most = late;
	}
	printf("%lld\n", most);
	return 0;
}
