// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is on the stacks of tasks: of all at an instant with all CPUs stopped, and of one after the other while none is. See
 * shim.h.
 */
#include <linux/cpu.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/stacktrace.h>

#include "internal.h"

#define FOR_EACH_FUNCTION(DO)			\
	DO(stack_trace_save_tsk_reliable)	\
	DO(idle_task)				\
	DO(task_call_func)			\
	DO(wake_up_state)

FOR_EACH_FUNCTION(DEFINE_HIDDEN)

int dynamos_lookup_stacks(void)
{
	unsigned long address;

	FOR_EACH_FUNCTION(LOOK_UP)
	return 0;
}

int dynamos_stack_of(struct task_struct *task, unsigned long *entries, u32 size)
{
	return HIDDEN(stack_trace_save_tsk_reliable)(task, entries, size);
}

/* All but what is on its stack. */
struct dynamos_task dynamos_describe(struct task_struct *task)
{
	return (struct dynamos_task){
		.address = (unsigned long)task,
		.pid = task_pid_nr(task),
		.comm = task->comm,
		.ready = READ_ONCE(task->__state) == TASK_RUNNING,
	};
}

static int visit_task(struct task_struct *task, unsigned long *entries, u32 size,
		      dynamos_task_fn visit, void *context)
{
	struct dynamos_task info = dynamos_describe(task);

	/* With all CPUs stopped only the stopper threads are on one. */
	info.running = READ_ONCE(task->on_cpu);
	if (!info.running)
		info.entries = dynamos_stack_of(task, entries, size);
	return visit(context, &info);
}

struct stack_visit {
	unsigned long *entries;
	u32 size;
	dynamos_task_fn visit;
	void *context;
};

/* Those that are on the list are visited there. */
static int visit_ending(struct task_struct *task, void *data)
{
	struct stack_visit *to = data;

	return pid_alive(task) ? 0 : visit_task(task, to->entries, to->size, to->visit, to->context);
}

/* Somebody has ended unseen, and may be anywhere. */
static int visit_missed(dynamos_task_fn visit, void *context)
{
	struct dynamos_task info = { .comm = "ended unseen", .entries = -ENOMEM };

	return visit(context, &info);
}

/* Only with all CPUs stopped: the list of tasks does not change and no stack moves. */
int dynamos_shim_each_task(unsigned long *entries, u32 size, dynamos_task_fn visit, void *context)
{
	struct stack_visit to = { entries, size, visit, context };
	struct task_struct *process, *task;
	unsigned int cpu;
	int ret = 0;

	rcu_read_lock();
	for_each_process_thread(process, task) {
		ret = visit_task(task, entries, size, visit, context);
		if (ret)
			goto out;
	}
	/* Idle tasks are on no list. That of an offline CPU begins anew when the CPU comes back. */
	for_each_online_cpu(cpu) {
		ret = visit_task(HIDDEN(idle_task)(cpu), entries, size, visit, context);
		if (ret)
			goto out;
	}
	/* Nobody holds their lock: who has it cannot be preempted. */
	ret = dynamos_each_ending(visit_ending, &to);
	if (ret == -ENOMEM)
		ret = visit_missed(visit, context);
out:
	rcu_read_unlock();
	return ret;
}

struct task_struct *dynamos_idle_task(unsigned int cpu)
{
	return HIDDEN(idle_task)(cpu);
}

/* Something to be done while a task does not go on. */
struct held {
	struct task_struct *task;
	dynamos_held_fn call;
	void *data;
	bool done;
};

static void call_held(struct held *held)
{
	held->call(held->task, held->data);
	held->done = true;
}

/*
 * With the locks held that keep a task from being run (task_call_func). The acquire pairs with the release by
 * which the scheduler says that it has left the task's stack.
 */
static int call_if_not_running(struct task_struct *task, void *data)
{
	if (!smp_load_acquire(&task->on_cpu))
		call_held(data);
	return 0;
}

/* On the CPU where the task runs, in an interrupt of it. */
static void call_if_current(void *data)
{
	struct held *held = data;

	if (held->task == current)
		call_held(held);
}

bool dynamos_while_held(struct task_struct *task, dynamos_held_fn call, void *data)
{
	struct held held = { task, call, data };
	unsigned long flags;
	int tries;

	if (task == current) {
		local_irq_save(flags);
		call_held(&held);
		local_irq_restore(flags);
	}
	for (tries = 0; tries < 8 && !held.done; tries++) {
		HIDDEN(task_call_func)(task, call_if_not_running, &held);
		if (!held.done)
			smp_call_function_single(task_cpu(task), call_if_current, &held, 1);
	}
	return held.done;
}

struct stack_request {
	unsigned long *entries;
	u32 size;
	int result;
};

static void save_held(struct task_struct *task, void *data)
{
	struct stack_request *request = data;

	request->result = dynamos_stack_of(task, request->entries, request->size);
}

/* -EAGAIN: it was on another CPU whenever we looked. */
static int save_stack(struct task_struct *task, unsigned long *entries, u32 size)
{
	struct stack_request request = { entries, size, -EAGAIN };

	dynamos_while_held(task, save_held, &request);
	return request.result;
}

/* The fake signal: the task leaves an interruptible sleep and comes by the exit to user space, where nothing is found. */
void dynamos_wake(struct task_struct *task)
{
	if (task->flags & PF_KTHREAD)
		HIDDEN(wake_up_state)(task, TASK_INTERRUPTIBLE);
	else if (!test_and_set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL) &&
		 !HIDDEN(wake_up_state)(task, TASK_INTERRUPTIBLE))
		kick_process(task);
}

static int visit_live_task(struct task_struct *task, unsigned long *entries, u32 size,
			   dynamos_task_fn visit, void *context)
{
	struct dynamos_task info = dynamos_describe(task);
	int ret;

	info.entries = save_stack(task, entries, size);
	ret = visit(context, &info);
	if (ret != DYNAMOS_WAKE)
		return ret;
	dynamos_wake(task);
	return 0;
}

/* Lets others have the CPU; false if the walk cannot go on from here, for one of the two has left its list. */
static bool pause_at(struct task_struct *process, struct task_struct *task)
{
	bool there;

	get_task_struct(process);
	get_task_struct(task);
	rcu_read_unlock();
	cond_resched();
	rcu_read_lock();
	there = pid_alive(process) && pid_alive(task);
	put_task_struct(task);
	put_task_struct(process);
	return there;
}

static int visit_live_ending(struct task_struct *task, void *data)
{
	struct stack_visit *to = data;

	return pid_alive(task) ? 0
			       : visit_live_task(task, to->entries, to->size, to->visit, to->context);
}

/* A stack takes some microseconds. */
#define TASKS_BETWEEN_PAUSES 32

/*
 * One task after the other, none is stopped. What is said of a task held at some moment since the call: enough where
 * no task can come to be in what is looked for. A task that is born meanwhile may be missed; it has its own, empty
 * stack. Those that have left the list are looked at last: whoever leaves it meanwhile is found there.
 */
int dynamos_shim_each_live_task(unsigned long *entries, u32 size, bool pauses,
				dynamos_task_fn visit, void *context)
{
	struct stack_visit to = { entries, size, visit, context };
	struct task_struct *process, *task;
	unsigned int cpu, seen = 0;
	int ret = 0;

	cpus_read_lock();	/* the idle tasks below stay those of CPUs that are there */
	rcu_read_lock();	/* no task on the list is freed */
	for_each_process_thread(process, task) {
		ret = visit_live_task(task, entries, size, visit, context);
		if (ret)
			goto out;
		if (pauses && ++seen % TASKS_BETWEEN_PAUSES == 0 && !pause_at(process, task)) {
			ret = -EAGAIN;
			goto out;
		}
	}
	for_each_online_cpu(cpu) {
		ret = visit_live_task(HIDDEN(idle_task)(cpu), entries, size, visit, context);
		if (ret)
			goto out;
	}
	ret = dynamos_each_ending(visit_live_ending, &to);
	if (ret == -ENOMEM)
		ret = visit_missed(visit, context);
	if (ret == DYNAMOS_WAKE)
		ret = 0;	/* of whom nothing is known */
out:
	rcu_read_unlock();
	cpus_read_unlock();
	return ret;
}
