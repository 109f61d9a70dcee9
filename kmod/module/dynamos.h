/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What an update module and dynamos.ko know of each other at the level of C.
 *
 * Everything else is in the record (crate dynamos-abi), which both sides read by its own version.
 */
#ifndef DYNAMOS_H
#define DYNAMOS_H

#include <linux/types.h>

struct module;

/* Raised when struct dynamos_update_desc changes; dynamos.ko refuses any other. */
#define DYNAMOS_DESC_ABI 3

enum dynamos_scope {
	DYNAMOS_SCOPE_SYSTEM,		/* at one instant no task is in any of the functions */
	DYNAMOS_SCOPE_FUNCTION,		/* each call for itself */
	DYNAMOS_SCOPE_TASK,		/* each task for itself, when it is in none of the functions */
	DYNAMOS_SCOPE_OBJECT,		/* each object for itself, when no call of the functions works on it */
};

struct dynamos_update_desc {
	u32 abi;			/* DYNAMOS_DESC_ABI */
	u32 size;			/* sizeof(struct dynamos_update_desc) */
	struct module *module;		/* THIS_MODULE */
	const u8 *record;		/* what to match, resolve and redirect */
	u64 record_len;
	const u64 *addrs;		/* addresses in the update that the record refers to by index */
	u64 addrs_count;
	u8 *active;			/* read by the transition handlers: 0 is edition 0 */
	void *jump_table;		/* the update's jump entries, withheld from the loader */
	void *jump_table_end;
	void *static_calls;		/* the update's static call sites, withheld likewise */
	void *static_calls_end;
	u64 default_edition;		/* which one calls take until there is a policy: 0 or 1 */
	u64 proposed_scope;		/* the weakest that the plan calls safe; enum dynamos_scope */
	const char *options;		/* how to switch, as docs/scopes.md has it; in the module */
	u64 options_size;		/* of the array, with the NUL */
};

/*
 * Called from the update module's init function, whose return value this is: 0, or a negative errno
 * when the update is refused. The reason is in the kernel log and in /sys/kernel/dynamos/refusals.
 * The descriptor must stay valid until dynamos_unregister().
 */
int dynamos_register(const struct dynamos_update_desc *desc);

/* Called from the update module's exit function. */
void dynamos_unregister(const struct dynamos_update_desc *desc);

#endif
