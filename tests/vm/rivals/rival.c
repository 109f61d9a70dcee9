// SPDX-License-Identifier: GPL-2.0
/* Kernel livepatch of a function that a test's update replaces too. It answers a number that no edition does. */
#include <linux/fs.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static long patched_pipe_fcntl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return PAGE_SIZE + 2;
}

static struct klp_func funcs[] = {
	{ .old_name = "pipe_fcntl", .new_func = patched_pipe_fcntl },
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

static int __init rival_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit rival_exit(void)
{
}

module_init(rival_init);
module_exit(rival_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Kernel livepatch of pipe_fcntl()");
MODULE_INFO(livepatch, "Y");
