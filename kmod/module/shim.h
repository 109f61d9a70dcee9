/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The boundary between the C files and the Rust crate: src/ffi/ declares the same things in Rust.
 *
 * Functions return 0 or a negative errno unless they say otherwise. Strings given by Rust end with a
 * zero byte when their length is not given.
 */
#ifndef DYNAMOS_SHIM_H
#define DYNAMOS_SHIM_H

#include <linux/types.h>

#include "dynamos.h"

struct ftrace_ops;
struct module;

/* Entry points in Rust. */
int dynamos_rust_init(void);
void dynamos_rust_exit(void);
int dynamos_rust_register(const struct dynamos_update_desc *desc);
void dynamos_rust_unregister(const struct dynamos_update_desc *desc);
void dynamos_rust_look(void);
void dynamos_rust_module_event(const char *name, bool coming);

/* Memory, log, failure. */
void *dynamos_shim_alloc(size_t size);
void dynamos_shim_free(const void *pointer);
void dynamos_shim_log(int error, const char *text, size_t length);
void dynamos_shim_bug(const char *text, size_t length) __noreturn;

/* Symbols. A visitor returns 0 to go on. */
typedef int (*dynamos_match_fn)(void *context, unsigned long address);
typedef int (*dynamos_symbol_fn)(void *context, const char *name, unsigned long address);
int dynamos_shim_lookup_all(void);
int dynamos_shim_vmlinux_matches(const char *name, dynamos_match_fn visit, void *context);
int dynamos_shim_module_symbols(const char *module, dynamos_symbol_fn visit, void *context);
size_t dynamos_shim_symbol_name_length(void);
int dynamos_shim_symbol_at(unsigned long address, char *name, size_t name_size, char *module,
			   size_t module_size, unsigned long *size, unsigned long *offset);

/* Modules. */
struct dynamos_range {
	u64 kind;	/* enum dynamos_range_kind */
	u64 start;
	u64 size;
};
enum dynamos_range_kind {
	DYNAMOS_TEXT,
	DYNAMOS_RODATA,
	DYNAMOS_RO_AFTER_INIT,
	DYNAMOS_DATA,
	DYNAMOS_RANGE_KINDS,
};
int dynamos_shim_module_find(const char *name, struct module **module);
bool dynamos_shim_module_get(struct module *module);
void dynamos_shim_module_put(struct module *module);
const char *dynamos_shim_module_name(const struct module *module);
void dynamos_shim_module_ranges(const struct module *module,
				struct dynamos_range ranges[DYNAMOS_RANGE_KINDS]);

/* Kernel memory. */
int dynamos_shim_read(void *to, const void *from, size_t size);
int dynamos_shim_write_text(void *to, const void *from, size_t size);

/* A second mapping, which can be written, of a word of 8 bytes in the kernel's or a module's data or constants. */
int dynamos_shim_word_open(const void *word, void **alias);
void dynamos_shim_word_close(void *alias);

/* Redirection. */
unsigned long dynamos_shim_ftrace_location(unsigned long function);
int dynamos_shim_ftrace_enabled(void);
struct ftrace_ops *dynamos_shim_redirect_new(void);
void dynamos_shim_redirect_free(struct ftrace_ops *ops);
int dynamos_shim_redirect_register(struct ftrace_ops *ops, unsigned long function,
				   unsigned long handler);
int dynamos_shim_redirect_modify(struct ftrace_ops *ops, unsigned long handler);
int dynamos_shim_redirect_unregister(struct ftrace_ops *ops, unsigned long handler);

/* All CPUs stopped, stacks. */
struct dynamos_task {
	u64 address;	/* of the task itself: no more than a name */
	const unsigned long *trace;	/* the addresses, where the visitor has no place for them */
	s64 pid;
	const char *comm;
	s64 entries;	/* how many addresses, or a negative errno: the stack is not reliable */
	u64 running;	/* a stopper thread: its stack is not walked */
	u64 ready;	/* would run if it got a CPU: it is not asleep */
};
typedef int (*dynamos_stopped_fn)(void *context);
typedef int (*dynamos_task_fn)(void *context, const struct dynamos_task *task);
int dynamos_shim_stop_machine(dynamos_stopped_fn call, void *context);
int dynamos_shim_each_task(unsigned long *entries, u32 size, dynamos_task_fn visit, void *context);

/*
 * The same without stopping anything; here `visit` may ask for the task to be woken, and goes on. With `pauses` the CPU
 * is let go now and then, and -EAGAIN says that the rest was not found after that.
 */
#define DYNAMOS_WAKE 2
int dynamos_shim_each_live_task(unsigned long *entries, u32 size, bool pauses,
				dynamos_task_fn visit, void *context);

/*
 * Scope `task`. The turn notes every task that has run and will run again, and then calls `flip`, all at an instant at which
 * none comes or goes: `note` gives 1 if a task is new, which is kept then (until dynamos_shim_task_put), 0 if not, or a
 * negative errno. Both run with a spinning lock held.
 */
typedef int (*dynamos_note_fn)(void *context, unsigned long task);
typedef void (*dynamos_flip_fn)(void *context);
/* Tasks on their way out, which leave every list before they have left the kernel: noted from here on. */
int dynamos_shim_note_ending(void);
void dynamos_shim_note_no_more(void);

int dynamos_shim_tasks_ready(void);
int dynamos_shim_turn_tasks(dynamos_note_fn note, dynamos_flip_fn flip, void *context);
u32 dynamos_shim_count_tasks(void);
bool dynamos_shim_task_is_dead(struct task_struct *task);
void dynamos_shim_task_put(struct task_struct *task);

/* Calls `visit` once with what a task has on its stack, which does not go on meanwhile; interrupts may be off. */
void dynamos_shim_look_at(struct task_struct *task, unsigned long *entries, u32 size,
			  dynamos_task_fn visit, void *context);

/* The same for whoever makes a system call, at its beginning and end, if `wants` says so; by that task itself. */
struct dynamos_mover;
typedef bool (*dynamos_wants_fn)(void *context, unsigned long task);
int dynamos_shim_mover_begin(dynamos_wants_fn wants, dynamos_task_fn visit, void *context,
			     struct dynamos_mover **result);
void dynamos_shim_mover_end(struct dynamos_mover *mover);

/*
 * Of shim.c and stacks.c, for C. dynamos_while_held calls back while the task does not go on: it does not run, or is in an interrupt on
 * its CPU, or is the caller, with interrupts off. False: it was on another CPU at each try.
 */
typedef void (*dynamos_held_fn)(struct task_struct *task, void *data);
bool dynamos_while_held(struct task_struct *task, dynamos_held_fn call, void *data);
struct dynamos_task dynamos_describe(struct task_struct *task);
unsigned long dynamos_lookup(const char *name);
int dynamos_stack_of(struct task_struct *task, unsigned long *entries, u32 size);
struct task_struct *dynamos_idle_task(unsigned int cpu);
void dynamos_wake(struct task_struct *task);

/* Calls dynamos_rust_module_event before a module's init function, and after its exit function. */
int dynamos_shim_follow_modules(void);
void dynamos_shim_follow_no_modules(void);

/* Calls dynamos_rust_look later; once, however often it is asked. */
void dynamos_shim_look_later(u32 milliseconds);
void dynamos_shim_look_no_more(void);

/* Waiting. */
void dynamos_shim_synchronize_rcu(void);
void dynamos_shim_synchronize_rcu_tasks(void);
void dynamos_shim_synchronize_rcu_tasks_rude(void);
int dynamos_shim_sleep_killable(u32 milliseconds);
void dynamos_shim_sleep(u32 milliseconds);
u64 dynamos_shim_now_ns(void);

/* Has the caller run before all others that are not real-time tasks; gives what the other takes. */
int dynamos_shim_hurry(void);
void dynamos_shim_hurry_no_more(int nice);

/*
 * A hook of an update, in a thread of its own. The wait gives 1 if the hook has returned, 0 if it has not in that time,
 * and -EINTR if the caller is being killed and not `patient`. The end waits for it, frees, and gives what it returned.
 */
struct dynamos_hook;
int dynamos_shim_hook_begin(unsigned long function, struct dynamos_hook **hook);
int dynamos_shim_hook_wait(struct dynamos_hook *hook, u32 milliseconds, bool patient);
int dynamos_shim_hook_end(struct dynamos_hook *hook);

/* The update's jump entries and static call sites. */
int dynamos_shim_jump_labels_coming(struct module *module, void *start, void *end);
void dynamos_shim_jump_labels_going(struct module *module);
int dynamos_shim_static_calls_coming(struct module *module, void *start, void *end);
void dynamos_shim_static_calls_going(struct module *module);

/* Where the kernel keeps what policies ask for; see struct Layout in kmod/core/src/policy/native. */
struct dynamos_policy_layout {
	u32 current_task;
	u32 cpu;
	u32 preempt_count;
	u32 pid;
	u32 tgid;
	u32 comm;
	u32 group_leader;
	u32 start_time;
	u32 cred;
	u32 uid;
	u32 cgroups;
	u32 dfl_cgrp;
	u32 kn;
	u32 kn_id;
	u64 jiffies;
	u64 initial_jiffies;
	u64 resched;	/* called where preempt_enable() would reschedule; preserves every register */
	u32 hz;
};
int dynamos_shim_policy_layout(struct dynamos_policy_layout *layout);

/* The kernel's release, and the parameter `wait_ms`. */
const char *dynamos_shim_release(void);
u32 dynamos_shim_wait_ms(void);

/* The module's one lock. */
void dynamos_shim_lock(void);
int dynamos_shim_lock_killable(void);
void dynamos_shim_unlock(void);

/* sysfs. */
struct dynamos_dir;
struct dynamos_attribute {
	const char *name;
	u64 mode;
};
struct dynamos_dir_ops {
	ssize_t (*show)(void *context, u32 attribute, u8 *page, size_t size);
	ssize_t (*store)(void *context, u32 attribute, const u8 *input, size_t length);
};
struct dynamos_dir *dynamos_shim_dir_create(struct dynamos_dir *parent, const char *name,
					    const struct dynamos_attribute *attributes, u32 count,
					    const struct dynamos_dir_ops *ops, void *context,
					    int *error);
void dynamos_shim_dir_remove(struct dynamos_dir *dir);

#endif
