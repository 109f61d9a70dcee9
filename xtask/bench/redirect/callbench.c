// SPDX-License-Identifier: GPL-2.0
/*
 * Counts what a call of jiffies_to_msecs() costs, a function of two instructions, by the time stamp counter.
 * Under QEMU's -icount that counts instructions, and every run gives the same.
 */
#include <linux/jiffies.h>
#include <linux/module.h>
#include <asm/msr.h>

#define CALLS 1000

static char *label = "plain";
module_param(label, charp, 0);

static noinline u64 measure(void)
{
	unsigned long flags;
	u64 start, end;
	unsigned int sum = 0;
	int i;

	local_irq_save(flags);
	start = rdtsc_ordered();
	for (i = 0; i < CALLS; i++)
		sum += jiffies_to_msecs(i);
	end = rdtsc_ordered();
	local_irq_restore(flags);
	OPTIMIZER_HIDE_VAR(sum);
	return end - start;
}

static int __init callbench_init(void)
{
	u64 cost = measure();
	int round;

	/* The first rounds pay for translations and caches. */
	for (round = 0; round < 8; round++)
		cost = min(cost, measure());
	pr_info("callbench: %s %llu per %d calls, jiffies_to_msecs(1000) is %u\n",
		label, cost, CALLS, jiffies_to_msecs(1000));
	return 0;
}

static void __exit callbench_exit(void)
{
}

module_init(callbench_init);
module_exit(callbench_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Cost of a call");
