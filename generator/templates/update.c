// SPDX-License-Identifier: GPL-2.0
/*
 * Made by dynamos-diff. The update's code is in clones-*.bin, its record in record.bin; this file only
 * hands both to dynamos.ko.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>
#include "dynamos.h"

/* Read by the transition handlers; written by dynamos.ko. */
u8 dynamos_active;

extern const u8 dynamos_record[], dynamos_record_end[];

/* Defined by dynamos.lds in the last link; weak, so that modpost does not ask for them before. */
extern const u64 __weak dynamos_addrs[], __weak dynamos_addrs_end[];
extern u8 __weak dynamos_jump_table[], __weak dynamos_jump_table_end[];
extern u8 __weak dynamos_static_calls[], __weak dynamos_static_calls_end[];

/* Both tables are there in memory also where they are empty: their symbols need an address. */
asm(".pushsection .dynamos.jump_table, \"aw\"; .popsection");
asm(".pushsection .dynamos.static_call_sites, \"aw\"; .popsection");

static uint default_edition = 1;
module_param_named(default, default_edition, uint, 0);
MODULE_PARM_DESC(default, "edition that calls take until there is a policy: 0 or 1");

static char options[128];
module_param_string(options, options, sizeof(options), 0);
MODULE_PARM_DESC(options, "scope=function|task|object|system,wait_ms=N,on_timeout=roll-back|hold|force-new-calls,signal");

static struct dynamos_update_desc desc = {
	.abi = DYNAMOS_DESC_ABI,
	.size = sizeof(desc),
	.module = THIS_MODULE,
	.active = &dynamos_active,
	.proposed_scope = DYNAMOS_PROPOSED_SCOPE,
	.options = options,
	.options_size = sizeof(options),
};

static int __init update_init(void)
{
	desc.record = dynamos_record;
	desc.record_len = dynamos_record_end - dynamos_record;
	desc.addrs = dynamos_addrs;
	desc.addrs_count = dynamos_addrs_end - dynamos_addrs;
	desc.jump_table = dynamos_jump_table;
	desc.jump_table_end = dynamos_jump_table_end;
	desc.static_calls = dynamos_static_calls;
	desc.static_calls_end = dynamos_static_calls_end;
	desc.default_edition = default_edition;
	return dynamos_register(&desc);
}

static void __exit update_exit(void)
{
	dynamos_unregister(&desc);
}

module_init(update_init);
module_exit(update_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("DynAMOS update");
