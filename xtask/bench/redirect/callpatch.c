// SPDX-License-Identifier: GPL-2.0
/* The rival: the same function replaced by kernel livepatch. */
#include <linux/jiffies.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static unsigned int patched_jiffies_to_msecs(const unsigned long j)
{
	return (MSEC_PER_SEC / HZ) * j + 1;
}

static struct klp_func funcs[] = {
	{ .old_name = "jiffies_to_msecs", .new_func = patched_jiffies_to_msecs },
	{ }
};

static struct klp_object objects[] = {
	{ .funcs = funcs },
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
};

static int __init callpatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit callpatch_exit(void)
{
}

module_init(callpatch_init);
module_exit(callpatch_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Kernel livepatch of jiffies_to_msecs()");
MODULE_INFO(livepatch, "Y");
