// SPDX-License-Identifier: GPL-2.0-only
/*
 * Scope `task`: which tasks there are at an instant, a look at each while it does not go on, and one at each border to
 * user space. See shim.h.
 */
#include <linux/cpu.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/tracepoint.h>

#include "internal.h"

static rwlock_t *list_lock;
static struct tracepoint *call_enters, *call_leaves;

static void find_tracepoint(struct tracepoint *tracepoint, void *unused)
{
	if (!strcmp(tracepoint->name, "sys_enter"))
		call_enters = tracepoint;
	else if (!strcmp(tracepoint->name, "sys_exit"))
		call_leaves = tracepoint;
}

int dynamos_shim_tasks_ready(void)
{
	if (!list_lock)
		list_lock = (rwlock_t *)dynamos_lookup("tasklist_lock");
	for_each_kernel_tracepoint(find_tracepoint, NULL);
	return list_lock && call_enters && call_leaves ? 0 : -EOPNOTSUPP;
}
MAY_FAIL(dynamos_shim_tasks_ready);

void dynamos_shim_task_put(struct task_struct *task)
{
	put_task_struct(task);
}

static DEFINE_MUTEX(turn_lock);

static int note_one(struct task_struct *task, dynamos_note_fn note, void *context)
{
	int ret;

	if (dynamos_shim_task_is_dead(task))
		return 0;
	ret = note(context, (unsigned long)task);
	if (ret > 0)
		get_task_struct(task);
	return min(ret, 0);
}

struct noting {
	dynamos_note_fn note;
	void *context;
};

static int note_ending(struct task_struct *task, void *data)
{
	struct noting *noting = data;

	return note_one(task, noting->note, noting->context);
}

/* With the lock held for which whoever comes to the list or leaves it waits. */
static int note_all(dynamos_note_fn note, void *context)
{
	struct noting noting = { note, context };
	struct task_struct *process, *task;
	unsigned int cpu;
	int err;

	for_each_process_thread(process, task) {
		err = note_one(task, note, context);
		if (err)
			return err;
	}
	for_each_online_cpu(cpu) {
		err = note_one(dynamos_idle_task(cpu), note, context);
		if (err)
			return err;
	}
	return dynamos_each_ending(note_ending, &noting);
}

/*
 * Every task that has run and will run is noted, in this order:
 * - Whoever is on its way out, and may have left the list, is noted (ending.c).
 * - With the list's lock held nobody comes or goes. Who is not on the list then has not run yet: a new task is run after it
 *   has been put on it.
 */
int dynamos_shim_turn_tasks(dynamos_note_fn note, dynamos_flip_fn flip, void *context)
{
	int err;

	mutex_lock(&turn_lock);
	cpus_read_lock();	/* an idle task that begins later begins anew */
	read_lock(list_lock);
	err = note_all(note, context);
	if (!err)
		flip(context);
	read_unlock(list_lock);
	cpus_read_unlock();

	mutex_unlock(&turn_lock);
	return err;
}
MAY_FAIL(dynamos_shim_turn_tasks);

u32 dynamos_shim_count_tasks(void)
{
	struct task_struct *process, *task;
	u32 count = num_possible_cpus();

	rcu_read_lock();
	for_each_process_thread(process, task)
		count++;
	rcu_read_unlock();
	return count;
}

struct look {
	unsigned long *entries;
	u32 size;
	dynamos_task_fn visit;
	void *context;
	int result;
};

static void tell(struct look *look, struct task_struct *task, int entries)
{
	struct dynamos_task info = dynamos_describe(task);

	info.trace = look->entries;
	info.entries = entries;
	look->result = look->visit(look->context, &info);
}

static void tell_held(struct task_struct *task, void *data)
{
	struct look *look = data;

	tell(look, task, dynamos_stack_of(task, look->entries, look->size));
}

static void look_at(struct look *look, struct task_struct *task)
{
	/* It may be on another CPU whenever we look. */
	if (!dynamos_while_held(task, tell_held, look))
		tell(look, task, -EAGAIN);
}

void dynamos_shim_look_at(struct task_struct *task, unsigned long *entries, u32 size,
			  dynamos_task_fn visit, void *context)
{
	struct look look = { entries, size, visit, context };

	if (is_idle_task(task)) {
		cpus_read_lock();
		/* That of a CPU that is away begins anew when the CPU comes back: nothing is on its stack. */
		if (cpu_online(task_cpu(task)))
			look_at(&look, task);
		else
			tell(&look, task, 0);
		cpus_read_unlock();
	} else {
		look_at(&look, task);
	}
	if (look.result == DYNAMOS_WAKE)
		dynamos_wake(task);
	cond_resched();
}

struct dynamos_mover {
	dynamos_wants_fn wants;
	dynamos_task_fn visit;
	void *context;
};

/* Nothing but this and the way in is on the stack. */
#define ENTRIES_AT_BORDER 32

static void at_border(void *data, struct pt_regs *regs, long number)
{
	struct dynamos_mover *mover = data;
	unsigned long entries[ENTRIES_AT_BORDER];
	struct look look = { entries, ENTRIES_AT_BORDER, mover->visit, mover->context };

	if (mover->wants(mover->context, (unsigned long)current))
		tell_held(current, &look);
}

int dynamos_shim_mover_begin(dynamos_wants_fn wants, dynamos_task_fn visit, void *context,
			     struct dynamos_mover **result)
{
	struct dynamos_mover *mover = kmalloc(sizeof(*mover), GFP_KERNEL);
	int err;

	if (!mover)
		return -ENOMEM;
	*mover = (struct dynamos_mover){ wants, visit, context };
	err = tracepoint_probe_register(call_leaves, at_border, mover);
	if (err)
		goto no_leaves;
	err = tracepoint_probe_register(call_enters, at_border, mover);
	if (err)
		goto no_enters;
	*result = mover;
	return 0;

no_enters:
	tracepoint_probe_unregister(call_leaves, at_border, mover);
	tracepoint_synchronize_unregister();
no_leaves:
	kfree(mover);
	return err;
}
MAY_FAIL(dynamos_shim_mover_begin);

/* Nobody is in the functions after this. */
void dynamos_shim_mover_end(struct dynamos_mover *mover)
{
	tracepoint_probe_unregister(call_enters, at_border, mover);
	tracepoint_probe_unregister(call_leaves, at_border, mover);
	tracepoint_synchronize_unregister();
	kfree(mover);
}
