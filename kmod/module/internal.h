/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the C files share among themselves: how functions are called that the kernel does not export, and what tests make
 * fail.
 */
#ifndef DYNAMOS_INTERNAL_H
#define DYNAMOS_INTERNAL_H

#include <linux/error-injection.h>
#include <linux/static_call.h>

#include "shim.h"

/*
 * What tests make fail, in kernels for tests: registrations, lookups and waits. Allocations fail by
 * failslab and fail_page_alloc. In all other kernels the module is the same without it.
 */
#ifdef CONFIG_FAIL_FUNCTION
#define MAY_FAIL(name) ALLOW_ERROR_INJECTION(name, ERRNO)
#else
#define MAY_FAIL(name)
#endif

/*
 * Functions the kernel does not export.
 *
 * They are called through static calls, not through pointers: on a CPU with IBT the kernel has
 * overwritten the ENDBR of every function whose address it does not take itself, and an indirect call
 * would trap. typeof() makes a prototype that changed fail here.
 */
#define HIDDEN(name) static_call(dynamos_##name)
#define DEFINE_HIDDEN(name) DEFINE_STATIC_CALL_NULL(dynamos_##name, name);

/* In a function that has a variable `address`; it returns -ENOENT where there is none. */
#define LOOK_UP(name)								\
	address = dynamos_lookup(#name);						\
	if (!address)								\
		return -ENOENT;							\
	static_call_update(dynamos_##name, (typeof(&name))address);

/* Tasks on their way out (ending.c). */
int dynamos_each_ending(int (*visit)(struct task_struct *task, void *data), void *data);

/* Finds the hidden functions of stacks.c. */
int dynamos_lookup_stacks(void);

#endif
