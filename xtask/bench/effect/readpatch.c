// SPDX-License-Identifier: GPL-2.0
/* The rival: pipe_read() replaced by kernel livepatch, which refuses a read of nothing as the update does. */
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/uio.h>

/* What is before the body of a function: an ENDBR if the kernel has them, and ftrace's call. */
#define ENTRY (IS_ENABLED(CONFIG_X86_KERNEL_IBT) ? 9 : 5)

static ssize_t patched_pipe_read(struct kiocb *iocb, struct iov_iter *to);

static struct klp_func funcs[] = {
	{ .old_name = "pipe_read", .new_func = patched_pipe_read },
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

static ssize_t patched_pipe_read(struct kiocb *iocb, struct iov_iter *to)
{
	/* The same body, without a copy of it here. */
	typeof(&patched_pipe_read) body = funcs[0].old_func + ENTRY;

	if (!iov_iter_count(to))
		return -EINVAL;
	return body(iocb, to);
}

static int __init readpatch_init(void)
{
	pr_info("readpatch: begins at %llu ns\n", ktime_get_ns());
	return klp_enable_patch(&patch);
}

static void __exit readpatch_exit(void)
{
}

module_init(readpatch_init);
module_exit(readpatch_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Kernel livepatch of pipe_read()");
MODULE_INFO(livepatch, "Y");
