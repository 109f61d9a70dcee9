/* SPDX-License-Identifier: GPL-2.0 */
	.section .dynamos.record, "a"
	.balign 8
	.globl dynamos_record, dynamos_record_end
dynamos_record:
	.incbin DYNAMOS_RECORD_FILE
dynamos_record_end:
	.section .note.GNU-stack, "", @progbits
