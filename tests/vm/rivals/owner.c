// SPDX-License-Identifier: GPL-2.0
/* A kprobe with a post handler: the kernel lets it own the entry of the function, as livepatch does. */
#include <linux/kprobes.h>
#include <linux/module.h>

static void post_handler(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "pipe_fcntl",
	.post_handler = post_handler,
};

static int __init owner_init(void)
{
	return register_kprobe(&probe);
}

static void __exit owner_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(owner_init);
module_exit(owner_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A kprobe of pipe_fcntl() that owns its entry");
