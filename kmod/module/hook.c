// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hooks of updates: each runs in a thread of its own, so that one that never returns holds up nobody. See shim.h.
 */
#include <linux/error-injection.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "shim.h"

struct dynamos_hook {
	struct work_struct begin;
	struct wait_queue_head returns;
	struct task_struct *thread;
	int (*function)(void);
	bool returned;
	int result;
};

static int run_hook(void *data)
{
	struct dynamos_hook *hook = data;

	hook->result = hook->function();
	/* Pairs with the acquire in the waits: the result is there. */
	smp_store_release(&hook->returned, true);
	wake_up_all(&hook->returns);
	return 0;
}

/* By a worker: a task that is being killed cannot make a thread, and may have to take something back. */
static void begin_hook(struct work_struct *work)
{
	struct dynamos_hook *hook = container_of(work, struct dynamos_hook, begin);

	hook->thread = kthread_create(run_hook, hook, "dynamos_hook");
	if (IS_ERR(hook->thread))
		return;
	/* It may end before anybody asks for that. */
	get_task_struct(hook->thread);
	wake_up_process(hook->thread);
}

int dynamos_shim_hook_begin(unsigned long function, struct dynamos_hook **result)
{
	struct dynamos_hook *hook = kzalloc(sizeof(*hook), GFP_KERNEL);
	int err;

	if (!hook)
		return -ENOMEM;
	init_waitqueue_head(&hook->returns);
	hook->function = (int (*)(void))function;
	INIT_WORK(&hook->begin, begin_hook);
	queue_work(system_long_wq, &hook->begin);
	flush_work(&hook->begin);
	if (IS_ERR(hook->thread)) {
		err = PTR_ERR(hook->thread);
		kfree(hook);
		return err;
	}
	*result = hook;
	return 0;
}
#ifdef CONFIG_FAIL_FUNCTION
ALLOW_ERROR_INJECTION(dynamos_shim_hook_begin, ERRNO);
#endif

/* 1: it has returned. "Unsafe" as in dynamos_shim_sleep_killable. */
int dynamos_shim_hook_wait(struct dynamos_hook *hook, u32 milliseconds, bool patient)
{
	int state = (patient ? TASK_UNINTERRUPTIBLE : TASK_KILLABLE) | TASK_FREEZABLE_UNSAFE;
	long left;

	left = ___wait_event(hook->returns,
			     ___wait_cond_timeout(smp_load_acquire(&hook->returned)), state, 0,
			     msecs_to_jiffies(milliseconds), __ret = schedule_timeout(__ret));
	if (smp_load_acquire(&hook->returned))
		return 1;
	return left < 0 ? -EINTR : 0;
}

/* Waits until it has returned, and its thread has left the code of this module too. */
int dynamos_shim_hook_end(struct dynamos_hook *hook)
{
	int result;

	/* Only then: a hook may be one that ends when it is asked to. */
	wait_event(hook->returns, smp_load_acquire(&hook->returned));
	kthread_stop(hook->thread);
	put_task_struct(hook->thread);
	result = hook->result;
	kfree(hook);
	return result;
}
