// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Rust cannot call by itself: macros, inline functions, functions the kernel does not export,
 * and what differs between kernel versions. No decision is made here. See shim.h.
 */
#include <linux/cgroup-defs.h>
#include <linux/cpu.h>
#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/error-injection.h>
#include <linux/fault-inject.h>
#include <linux/ftrace.h>
#include <linux/jiffies.h>
#include <linux/jump_label.h>
#include <linux/kallsyms.h>
#include <linux/kernfs.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/static_call.h>
#include <linux/stop_machine.h>
#include <linux/uaccess.h>
#include <linux/utsname.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <asm/text-patching.h>

#include "internal.h"

#ifdef CONFIG_FAIL_FUNCTION
/* The kernel learns of MAY_FAIL when this module is loaded: what its init function calls asks by itself. */
static struct fault_attr init_fault = {
	.interval = 1,
	.times = ATOMIC_INIT(-1),
	.require_end = ULONG_MAX,
};
#define FAILS_AT_INIT() should_fail(&init_fault, 1)
#else
#define FAILS_AT_INIT() false
#endif

/* The direct-call API without "_multi" and symbol search by module name: both came by 6.4. */
#define BEFORE_6_4 (LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0))

void *dynamos_shim_alloc(size_t size)
{
	return kvmalloc(size, GFP_KERNEL);
}

void dynamos_shim_free(const void *pointer)
{
	kvfree(pointer);
}

void dynamos_shim_log(int error, const char *text, size_t length)
{
	if (error)
		printk(KERN_ERR "dynamos: %.*s\n", (int)length, text);
	else
		printk(KERN_INFO "dynamos: %.*s\n", (int)length, text);
}

void dynamos_shim_bug(const char *text, size_t length)
{
	dynamos_shim_log(1, text, length);
	BUG();
}

typedef int module_notify(struct notifier_block *self, unsigned long state, void *module);
extern module_notify jump_label_module_notify, static_call_module_notify;

#define FOR_EACH_FUNCTION(DO)			\
	DO(kallsyms_on_each_match_symbol)	\
	DO(module_kallsyms_on_each_symbol)	\
	DO(kallsyms_lookup)			\
	DO(find_module)				\
	DO(text_poke_copy)			\
	DO(ftrace_location)			\
	DO(jump_label_module_notify)		\
	DO(static_call_module_notify)

DEFINE_HIDDEN(kallsyms_lookup_name)
FOR_EACH_FUNCTION(DEFINE_HIDDEN)

static int *ftrace_enabled_address;

/*
 * A kprobe gives the address of kallsyms_lookup_name. It is never armed: nothing is patched, and
 * nothing of it can stay behind. With IBT it sits behind the ENDBR; the symbol's own name says how far.
 */
static unsigned long address_of_kallsyms_lookup_name(void)
{
	struct kprobe probe = {
		.symbol_name = "kallsyms_lookup_name",
		.flags = KPROBE_FLAG_DISABLED,
	};
	char symbol[KSYM_SYMBOL_LEN];
	unsigned long address, offset;

	if (register_kprobe(&probe))
		return 0;
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	sprint_symbol(symbol, address);
	if (sscanf(symbol, "kallsyms_lookup_name+0x%lx/", &offset) != 1)
		return 0;
	return address - offset;
}

unsigned long dynamos_lookup(const char *name)
{
	unsigned long address = HIDDEN(kallsyms_lookup_name)(name);

	if (!address)
		printk(KERN_ERR "dynamos: this kernel has no symbol %s, which is needed\n", name);
	return address;
}

int dynamos_shim_lookup_all(void)
{
	unsigned long address;

	if (FAILS_AT_INIT())
		return -ENOENT;
	address = address_of_kallsyms_lookup_name();
	if (!address) {
		printk(KERN_ERR "dynamos: no kprobe on kallsyms_lookup_name to learn its address\n");
		return -ENOENT;
	}
	static_call_update(dynamos_kallsyms_lookup_name, (typeof(&kallsyms_lookup_name))address);
	FOR_EACH_FUNCTION(LOOK_UP)
	if (dynamos_lookup_stacks())
		return -ENOENT;
	ftrace_enabled_address = (int *)dynamos_lookup("ftrace_enabled");
	return ftrace_enabled_address ? 0 : -ENOENT;
}

int dynamos_shim_vmlinux_matches(const char *name, dynamos_match_fn visit, void *context)
{
	return HIDDEN(kallsyms_on_each_match_symbol)(visit, name, context);
}
MAY_FAIL(dynamos_shim_vmlinux_matches);

/* Without a name: every module. */
#if BEFORE_6_4
struct module_visit {
	const char *module;
	dynamos_symbol_fn visit;
	void *context;
};

/* Called with module_mutex held, for every symbol of every module. */
static int visit_if_in_module(void *data, const char *name, struct module *module,
			      unsigned long address)
{
	struct module_visit *request = data;

	if (request->module && strcmp(module->name, request->module))
		return 0;
	return request->visit(request->context, name, address);
}

int dynamos_shim_module_symbols(const char *module, dynamos_symbol_fn visit, void *context)
{
	struct module_visit request = { module, visit, context };

	return HIDDEN(module_kallsyms_on_each_symbol)(visit_if_in_module, &request);
}
MAY_FAIL(dynamos_shim_module_symbols);
#else
int dynamos_shim_module_symbols(const char *module, dynamos_symbol_fn visit, void *context)
{
	return HIDDEN(module_kallsyms_on_each_symbol)(module, visit, context);
}
MAY_FAIL(dynamos_shim_module_symbols);
#endif

size_t dynamos_shim_symbol_name_length(void)
{
	return KSYM_NAME_LEN;
}

int dynamos_shim_symbol_at(unsigned long address, char *name, size_t name_size, char *module,
			   size_t module_size, unsigned long *size, unsigned long *offset)
{
	char *modname = NULL;
	int err = -ENOENT;
	const char *found;

	if (name_size < KSYM_NAME_LEN || module_size < MODULE_NAME_LEN)
		return -EINVAL;
	module[0] = '\0';
	/* The module's name is the module's own memory. */
	preempt_disable();
	found = HIDDEN(kallsyms_lookup)(address, size, offset, &modname, name);
	if (found) {
		if (found != name)
			strscpy(name, found, name_size);
		if (modname)
			strscpy(module, modname, module_size);
		err = 0;
	}
	preempt_enable();
	return err;
}

/* -ENOENT: not loaded. -EBUSY: being loaded or unloaded. */
int dynamos_shim_module_find(const char *name, struct module **result)
{
	struct module *module;
	int err = 0;

	/* find_module wants module_mutex, which modules cannot reach, or this. */
	preempt_disable();
	module = HIDDEN(find_module)(name);
	if (!module)
		err = -ENOENT;
	else if (module->state != MODULE_STATE_LIVE || !try_module_get(module))
		err = -EBUSY;
	preempt_enable();
	if (!err)
		*result = module;
	return err;
}
MAY_FAIL(dynamos_shim_module_find);

bool dynamos_shim_module_get(struct module *module)
{
	return try_module_get(module);
}

void dynamos_shim_module_put(struct module *module)
{
	module_put(module);
}

const char *dynamos_shim_module_name(const struct module *module)
{
	return module->name;
}

void dynamos_shim_module_ranges(const struct module *module,
				struct dynamos_range ranges[DYNAMOS_RANGE_KINDS])
{
#if BEFORE_6_4
	const struct module_layout *layout = &module->core_layout;
	u64 start = (u64)layout->base;
	const unsigned int ends[DYNAMOS_RANGE_KINDS] = {
		[DYNAMOS_TEXT] = layout->text_size,
		[DYNAMOS_RODATA] = layout->ro_size,
		[DYNAMOS_RO_AFTER_INIT] = layout->ro_after_init_size,
		[DYNAMOS_DATA] = layout->size,
	};
	unsigned int kind, offset = 0;

	for (kind = 0; kind < DYNAMOS_RANGE_KINDS; kind++) {
		ranges[kind] = (struct dynamos_range){ kind, start + offset, ends[kind] - offset };
		offset = ends[kind];
	}
#else
	static const enum mod_mem_type types[DYNAMOS_RANGE_KINDS] = {
		[DYNAMOS_TEXT] = MOD_TEXT,
		[DYNAMOS_RODATA] = MOD_RODATA,
		[DYNAMOS_RO_AFTER_INIT] = MOD_RO_AFTER_INIT,
		[DYNAMOS_DATA] = MOD_DATA,
	};
	unsigned int kind;

	for (kind = 0; kind < DYNAMOS_RANGE_KINDS; kind++) {
		const struct module_memory *memory = &module->mem[types[kind]];

		ranges[kind] = (struct dynamos_range){ kind, (u64)memory->base, memory->size };
	}
#endif
}

int dynamos_shim_read(void *to, const void *from, size_t size)
{
	return copy_from_kernel_nofault(to, from, size);
}

/* Any mapped page of a module, whatever its protection; never the kernel's own text. */
int dynamos_shim_write_text(void *to, const void *from, size_t size)
{
	return HIDDEN(text_poke_copy)(to, from, size) ? 0 : -EPERM;
}
MAY_FAIL(dynamos_shim_write_text);

int dynamos_shim_word_open(const void *word, void **alias)
{
	unsigned long address = (unsigned long)word;
	bool mapped = is_vmalloc_addr(word) || (address >= MODULES_VADDR && address < MODULES_END);
	struct page *page = NULL;
	void *start;

	if (mapped)
		page = vmalloc_to_page(word);
	else if (virt_addr_valid(word))
		page = virt_to_page(word);
	if (!page)
		return -EFAULT;
	start = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!start)
		return -ENOMEM;
	*alias = start + offset_in_page(word);
	return 0;
}
MAY_FAIL(dynamos_shim_word_open);

void dynamos_shim_word_close(void *alias)
{
	vunmap((void *)((unsigned long)alias & PAGE_MASK));
}

unsigned long dynamos_shim_ftrace_location(unsigned long function)
{
	return HIDDEN(ftrace_location)(function);
}

int dynamos_shim_ftrace_enabled(void)
{
	return READ_ONCE(*ftrace_enabled_address);
}

struct ftrace_ops *dynamos_shim_redirect_new(void)
{
	return kzalloc(sizeof(struct ftrace_ops), GFP_KERNEL);
}

void dynamos_shim_redirect_free(struct ftrace_ops *ops)
{
	ftrace_free_filter(ops);
	kfree(ops);
}

int dynamos_shim_redirect_register(struct ftrace_ops *ops, unsigned long function,
				   unsigned long handler)
{
	int err;

	/* Not only checked below: registering and unregistering in this state confuses ftrace. */
	if (!READ_ONCE(*ftrace_enabled_address))
		return -ENODEV;
	err = ftrace_set_filter_ip(ops, function, 0, 0);
	if (err)
		return err;
#if BEFORE_6_4
	err = register_ftrace_direct_multi(ops, handler);
#else
	err = register_ftrace_direct(ops, handler);
#endif
	if (err) {
		/* It may have been in the list of ops for a moment, and another CPU look at it (ftrace_startup). */
		synchronize_rcu_tasks_rude();
		return err;
	}
	/*
	 * From now on kernel.ftrace_enabled cannot be set to 0, which would silently undo the
	 * redirection. The flag cannot be there earlier: registration overwrites the flags. The core
	 * changes them only in the calls here, which are serialised.
	 */
	ops->flags |= FTRACE_OPS_FL_PERMANENT;
	return 0;
}
MAY_FAIL(dynamos_shim_redirect_register);

int dynamos_shim_redirect_modify(struct ftrace_ops *ops, unsigned long handler)
{
#if BEFORE_6_4
	return modify_ftrace_direct_multi(ops, handler);
#else
	return modify_ftrace_direct(ops, handler);
#endif
}
MAY_FAIL(dynamos_shim_redirect_modify);

/* Waits until no CPU and no task is in the core's code for these ops: they may be freed after. */
int dynamos_shim_redirect_unregister(struct ftrace_ops *ops, unsigned long handler)
{
#if BEFORE_6_4
	return unregister_ftrace_direct_multi(ops, handler);
#else
	return unregister_ftrace_direct(ops, handler, false);
#endif
}
MAY_FAIL(dynamos_shim_redirect_unregister);

int dynamos_shim_stop_machine(dynamos_stopped_fn call, void *context)
{
	return stop_machine(call, context, NULL);
}
MAY_FAIL(dynamos_shim_stop_machine);

static void look(struct work_struct *work)
{
	dynamos_rust_look();
}

static DECLARE_DELAYED_WORK(look_work, look);

static DEFINE_SPINLOCK(look_lock);
static unsigned long look_due;

/* By then at the latest. */
void dynamos_shim_look_later(u32 milliseconds)
{
	unsigned long delay = msecs_to_jiffies(milliseconds), due = jiffies + delay;

	spin_lock(&look_lock);
	if (!delayed_work_pending(&look_work) || time_before(due, look_due)) {
		look_due = due;
		mod_delayed_work(system_long_wq, &look_work, delay);
	}
	spin_unlock(&look_lock);
}

/* Also if it calls the above itself. */
void dynamos_shim_look_no_more(void)
{
	cancel_delayed_work_sync(&look_work);
}

static int module_event(struct notifier_block *self, unsigned long event, void *data)
{
	const struct module *module = data;

	if (event == MODULE_STATE_COMING || event == MODULE_STATE_GOING)
		dynamos_rust_module_event(module->name, event == MODULE_STATE_COMING);
	return NOTIFY_OK;
}

/*
 * After the notifiers that patch static keys and static calls of a module that is coming, and that register its keys.
 * Ftrace knows its functions before any notifier runs, and forgets them after all have run.
 */
static struct notifier_block module_events = {
	.notifier_call = module_event,
	.priority = INT_MIN,
};

int dynamos_shim_follow_modules(void)
{
	if (FAILS_AT_INIT())
		return -ENOMEM;
	return register_module_notifier(&module_events);
}

void dynamos_shim_follow_no_modules(void)
{
	unregister_module_notifier(&module_events);
}

void dynamos_shim_synchronize_rcu(void)
{
	synchronize_rcu();
}

void dynamos_shim_synchronize_rcu_tasks_rude(void)
{
	synchronize_rcu_tasks_rude();
}

void dynamos_shim_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

/*
 * A command may wait for minutes, and a machine must be able to suspend meanwhile. "Unsafe" says that a lock of the
 * sysfs file that was written to is held: only others who write to it wait for that, and they are frozen too.
 */
int dynamos_shim_sleep_killable(u32 milliseconds)
{
	__set_current_state(TASK_KILLABLE | TASK_FREEZABLE_UNSAFE);
	schedule_timeout(msecs_to_jiffies(milliseconds));
	return fatal_signal_pending(current) ? -EINTR : 0;
}
MAY_FAIL(dynamos_shim_sleep_killable);

void dynamos_shim_sleep(u32 milliseconds)
{
	msleep(milliseconds);
}

int dynamos_shim_hurry(void)
{
	int nice = task_nice(current);

	set_user_nice(current, MIN_NICE);
	return nice;
}

void dynamos_shim_hurry_no_more(int nice)
{
	set_user_nice(current, nice);
}

u64 dynamos_shim_now_ns(void)
{
	return ktime_get_ns();
}

/*
 * The loader has seen none of these entries (see docs/architecture.md). Giving them to the kernel's
 * own notifier late is what the loader would have done; the notifier takes its own locks, and on
 * failure takes back what it did. With their number 0 again its run at unload does nothing.
 */
int dynamos_shim_jump_labels_coming(struct module *module, void *start, void *end)
{
	int ret;

	if (module->num_jump_entries)
		return -EEXIST;
	/* Whoever places a kprobe may read both at any time (__jump_label_mod_text_reserved): never a number without entries. */
	WRITE_ONCE(module->jump_entries, start);
	WRITE_ONCE(module->num_jump_entries, (struct jump_entry *)end - (struct jump_entry *)start);
	ret = HIDDEN(jump_label_module_notify)(NULL, MODULE_STATE_COMING, module);
	ret = notifier_to_errno(ret);
	if (ret)
		WRITE_ONCE(module->num_jump_entries, 0);
	return ret;
}
MAY_FAIL(dynamos_shim_jump_labels_coming);

void dynamos_shim_jump_labels_going(struct module *module)
{
	HIDDEN(jump_label_module_notify)(NULL, MODULE_STATE_GOING, module);
	WRITE_ONCE(module->num_jump_entries, 0);
}

int dynamos_shim_static_calls_coming(struct module *module, void *start, void *end)
{
	int ret;

	if (module->num_static_call_sites)
		return -EEXIST;
	WRITE_ONCE(module->static_call_sites, start);
	WRITE_ONCE(module->num_static_call_sites,
		   (struct static_call_site *)end - (struct static_call_site *)start);
	ret = HIDDEN(static_call_module_notify)(NULL, MODULE_STATE_COMING, module);
	ret = notifier_to_errno(ret);
	if (ret)
		WRITE_ONCE(module->num_static_call_sites, 0);
	return ret;
}
MAY_FAIL(dynamos_shim_static_calls_coming);

void dynamos_shim_static_calls_going(struct module *module)
{
	HIDDEN(static_call_module_notify)(NULL, MODULE_STATE_GOING, module);
	WRITE_ONCE(module->num_static_call_sites, 0);
}

/* One structure for these variables came by 6.2 and went by 6.15. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
#define HOT(structure, variable) pcpu_hot.structure
#else
#define HOT(structure, variable) variable
#endif
/* The address of a per-CPU variable is its offset from the base of %gs. */
#define OFFSET_FROM_GS(structure, variable) ((u64)(unsigned long)&HOT(structure, variable))

int dynamos_shim_policy_layout(struct dynamos_policy_layout *layout)
{
	*layout = (struct dynamos_policy_layout){
		.current_task = OFFSET_FROM_GS(current_task, current_task),
		.cpu = OFFSET_FROM_GS(cpu_number, cpu_number),
		.preempt_count = OFFSET_FROM_GS(preempt_count, __preempt_count),
		.pid = offsetof(struct task_struct, pid),
		.tgid = offsetof(struct task_struct, tgid),
		.comm = offsetof(struct task_struct, comm),
		.group_leader = offsetof(struct task_struct, group_leader),
		.start_time = offsetof(struct task_struct, start_time),
		.cred = offsetof(struct task_struct, cred),
		.uid = offsetof(struct cred, uid),
		.cgroups = offsetof(struct task_struct, cgroups),
		.dfl_cgrp = offsetof(struct css_set, dfl_cgrp),
		.kn = offsetof(struct cgroup, kn),
		.kn_id = offsetof(struct kernfs_node, id),
		.jiffies = (unsigned long)&jiffies_64,
		.initial_jiffies = INITIAL_JIFFIES,
#ifdef CONFIG_PREEMPT_DYNAMIC
		.resched = dynamos_lookup("__SCT__preempt_schedule_notrace"),
#else
		.resched = dynamos_lookup("preempt_schedule_notrace_thunk"),
#endif
		.hz = HZ,
	};
	return layout->resched ? 0 : -ENOENT;
}

const char *dynamos_shim_release(void)
{
	return init_uts_ns.name.release;
}

static uint wait_ms = 30000;
module_param(wait_ms, uint, 0644);
MODULE_PARM_DESC(wait_ms, "how long a switch may wait for tasks to leave the code (ms)");

u32 dynamos_shim_wait_ms(void)
{
	return READ_ONCE(wait_ms);
}

static DEFINE_MUTEX(dynamos_mutex);

void dynamos_shim_lock(void)
{
	mutex_lock(&dynamos_mutex);
}

int dynamos_shim_lock_killable(void)
{
	return mutex_lock_killable(&dynamos_mutex);
}
MAY_FAIL(dynamos_shim_lock_killable);

void dynamos_shim_unlock(void)
{
	mutex_unlock(&dynamos_mutex);
}

int dynamos_register(const struct dynamos_update_desc *desc)
{
	return dynamos_rust_register(desc);
}
EXPORT_SYMBOL_GPL(dynamos_register);

void dynamos_unregister(const struct dynamos_update_desc *desc)
{
	dynamos_rust_unregister(desc);
}
EXPORT_SYMBOL_GPL(dynamos_unregister);

static int __init dynamos_init(void)
{
	return dynamos_rust_init();
}

static void __exit dynamos_exit(void)
{
	dynamos_rust_exit();
}

module_init(dynamos_init);
module_exit(dynamos_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Editions of kernel functions, switched at run time");
