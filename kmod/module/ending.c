// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tasks on their way out. release_task() takes a task off every list while it runs on in the kernel, and there it may even
 * sleep (proc_flush_pid). RCU-tasks of 6.12 waits for those that run, not for those that sleep (rcu_tasks_postscan,
 * rcu_tasks_is_holdout). So whoever comes to its end while this module is there is noted before it leaves the list
 * (sched_process_exit) and until it never runs again. Those that had left it before can be in no update.
 */
#include <linux/hash.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/tracepoint.h>

#include "internal.h"

#define BUCKET_BITS 6

struct ending {
	struct list_head list;
	struct task_struct *task;
	u64 number;	/* grows along a bucket's list */
	bool spare;
};

static struct list_head buckets[1 << BUCKET_BITS];
/* For when there is no memory: that is when many tasks end. */
static struct ending spares[1024];
static LIST_HEAD(free_spares);
static u64 last_number;
/* Somebody ended unseen: from then on nobody can be said to be out of an update's code. */
static bool missed;
/* For all of these. A tracepoint is called with preemption off. */
static DEFINE_RAW_SPINLOCK(lock);

static struct tracepoint *task_exits;

static void find_tracepoint(struct tracepoint *tracepoint, void *unused)
{
	if (!strcmp(tracepoint->name, "sched_process_exit"))
		task_exits = tracepoint;
}

/* It never runs again. The acquire pairs with the release by which the scheduler says that it has left its stack. */
bool dynamos_shim_task_is_dead(struct task_struct *task)
{
	return READ_ONCE(task->__state) == TASK_DEAD && !smp_load_acquire(&task->on_cpu);
}

/* Lets go what was taken out of the buckets. */
static void release(struct list_head *gone)
{
	struct ending *ending, *next;
	unsigned long flags;

	list_for_each_entry_safe(ending, next, gone, list) {
		put_task_struct(ending->task);
		if (!ending->spare) {
			list_del(&ending->list);
			kfree(ending);
		}
	}
	raw_spin_lock_irqsave(&lock, flags);
	list_for_each_entry_safe(ending, next, gone, list)
		list_move(&ending->list, &free_spares);
	raw_spin_unlock_irqrestore(&lock, flags);
}

static void note_ending(void *data, struct task_struct *task)
{
	struct list_head *bucket = &buckets[hash_ptr(task, BUCKET_BITS)];
	struct ending *ending, *next, *node = kmalloc(sizeof(*node), GFP_ATOMIC | __GFP_NOWARN);
	unsigned long flags;
	LIST_HEAD(gone);

	raw_spin_lock_irqsave(&lock, flags);
	/* Those of before are mostly dead, so a bucket's list stays short. */
	list_for_each_entry_safe(ending, next, bucket, list)
		if (dynamos_shim_task_is_dead(ending->task))
			list_move(&ending->list, &gone);
	if (node) {
		node->spare = false;
	} else {
		node = list_first_entry_or_null(&free_spares, struct ending, list);
		if (node)
			list_del(&node->list);
	}
	if (node) {
		node->task = get_task_struct(task);
		node->number = ++last_number;
		list_add_tail(&node->list, bucket);
	} else {
		missed = true;
	}
	raw_spin_unlock_irqrestore(&lock, flags);
	release(&gone);
}

static struct task_struct *next_in(struct list_head *bucket, u64 *number)
{
	struct task_struct *task = NULL;
	struct ending *ending;
	unsigned long flags;

	raw_spin_lock_irqsave(&lock, flags);
	list_for_each_entry(ending, bucket, list) {
		if (ending->number > *number && !dynamos_shim_task_is_dead(ending->task)) {
			*number = ending->number;
			task = get_task_struct(ending->task);
			break;
		}
	}
	raw_spin_unlock_irqrestore(&lock, flags);
	return task;
}

/*
 * Calls `visit` for every task that is on its way out and may run again, those that are still on the list too, until it
 * gives something else than 0. The task is kept meanwhile. -ENOMEM: somebody was not noted.
 */
int dynamos_each_ending(int (*visit)(struct task_struct *task, void *data), void *data)
{
	struct task_struct *task;
	unsigned int at;
	u64 number;
	int ret;

	for (at = 0; at < ARRAY_SIZE(buckets); at++) {
		number = 0;
		while ((task = next_in(&buckets[at], &number))) {
			ret = visit(task, data);
			put_task_struct(task);
			if (ret)
				return ret;
		}
	}
	return READ_ONCE(missed) ? -ENOMEM : 0;
}

int dynamos_shim_note_ending(void)
{
	struct task_struct *process, *task;
	unsigned int at;
	int err;

	for (at = 0; at < ARRAY_SIZE(buckets); at++)
		INIT_LIST_HEAD(&buckets[at]);
	for (at = 0; at < ARRAY_SIZE(spares); at++) {
		spares[at].spare = true;
		list_add(&spares[at].list, &free_spares);
	}
	for_each_kernel_tracepoint(find_tracepoint, NULL);
	if (!task_exits)
		return -EOPNOTSUPP;
	err = tracepoint_probe_register(task_exits, note_ending, NULL);
	if (err)
		return err;
	/* Who has passed there already and is still on the list. */
	rcu_read_lock();
	for_each_process_thread(process, task)
		if (READ_ONCE(task->flags) & PF_EXITING && !dynamos_shim_task_is_dead(task))
			note_ending(NULL, task);
	rcu_read_unlock();
	return 0;
}

void dynamos_shim_note_no_more(void)
{
	LIST_HEAD(gone);
	unsigned int at;

	tracepoint_probe_unregister(task_exits, note_ending, NULL);
	tracepoint_synchronize_unregister();
	for (at = 0; at < ARRAY_SIZE(buckets); at++)
		list_splice_init(&buckets[at], &gone);
	release(&gone);
}
