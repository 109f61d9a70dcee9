// Every kind of special section: what follows the code, what is compared, what is refused by name.
// Written by objtool from the code that is compared, so no change by itself: retpolines, returns, calls, seals, the
// unwinder's tables. Compared:
// function static_call_key changed entry of .static_call_sites: at 0x4: refers to key_b instead of key_a
// function static_call_more changed 2 entries in .static_call_sites instead of 1
// function injected changed entry of _error_injection_whitelist: byte 0x8 is 0x02 instead of 0x01
// function injectable changed 1 entries in _error_injection_whitelist instead of 0
// function probed changed 0 entries in _kprobe_blacklist instead of 1
// function kcfi changed 1 entries in .kcfi_traps instead of 0
// function paravirt changed entry of .parainstructions: byte 0x8 is 0x02 instead of 0x01
// function paravirt_length changed entry of .parainstructions: byte 0x9 is 0x03 instead of 0x02
// Refused:
// function runtime refused it uses a run-time constant (runtime_ptr_table), which the kernel patches only at boot; changed: instruction
// function runtime_shift refused it uses a run-time constant (runtime_shift_bits), which
// function runtime_symbol refused it uses a run-time constant (runtime_ptr_table), which the kernel patches only at boot; changed: 
// function runtime_new refused new, but it uses a run-time constant (runtime_ptr_table)
// function misfit refused section .cfi_sites refers to it and is not known; changed: instruction
// Tables of their own, which the kernel reads by section:
// data _eil_injected changed byte 0x8
// data _eil_injectable new
// data _kbl_addr_probed removed
// data __tracepoint_retouched changed string
// data __tracepoint_fresh new
// data __bpf_trace_tp_map_one changed at 0x8: refers to probe_b instead of probe_a
// data __BTF_ID__func__fresh__1 new
// section __tracepoints_ptrs 8 bytes instead of 4
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define SECTION(name) __attribute__((used, section(name)))
#ifdef V2
#define SEL(a, b) b
#else
#define SEL(a, b) a
#endif
int out(int);
#define PUSH(section, ...) ".pushsection " section ",\"a\"\n" __VA_ARGS__ "\n.popsection\n"
#define AT(section) PUSH(section, ".long 1b - .")

// V1 has no entry where V2 has one: the code is the same.
int retpoline(int x) { asm volatile("1: call __x86_indirect_thunk_rax\n" SEL("", AT(".retpoline_sites"))); return x; }
int returns(int x) { asm volatile("1: jmp __x86_return_thunk\n" SEL("", AT(".return_sites"))); return x; }
int calls(int x) { asm volatile("1: call callee\n" SEL(AT(".call_sites"), "")); return x; }
int sealed(int x) { asm volatile("1: endbr64\n" SEL("", AT(".ibt_endbr_seal"))); return x; }
int unwound(int x) { asm volatile("1: nop\n" SEL("", PUSH(".orc_unwind_ip", ".long 1b - .")) PUSH(".orc_unwind", ".short " SEL("8", "16") ", 0\n.byte 1, " SEL("2", "5"))); return x; }
// What objtool notes does not hide that the code goes elsewhere.
// function retpoline_other changed calls __x86_indirect_thunk_rcx instead of __x86_indirect_thunk_rax
int retpoline_other(int x) { asm volatile("1: call __x86_indirect_thunk_" SEL("rax", "rcx") "\n" AT(".retpoline_sites")); return x; }
// Nor do annotations for objtool, which the linker drops.
int annotated(int x) { asm volatile("1: nop\n" SEL("", PUSH(".discard.annotate", ".long 1b - .\n.long 3"))); return x; }

#define STATIC_CALL(n, key) #n ": call trampoline\n" PUSH(".static_call_sites", ".long " #n "b - .\n.long " key " - .")
int static_call_key(int x) { asm volatile(STATIC_CALL(1, SEL("key_a", "key_b"))); return x; }
int static_call_more(int x) { asm volatile(STATIC_CALL(1, "key_a") SEL("2: call trampoline", STATIC_CALL(2, "key_a"))); return x; }
int static_call_same(int x) { asm volatile(STATIC_CALL(1, "key_a")); return x; }
int kcfi(int x) { asm volatile("1: ud2\n" SEL("", AT(".kcfi_traps"))); return x; }
int kcfi_same(int x) { asm volatile("1: ud2\n" AT(".kcfi_traps")); return x; }
#define PARA(type, len) "1: call *pv_ops\n" PUSH(".parainstructions", ".balign 8\n.quad 1b\n.byte " type ", " len "\n.short 0\n.long 0")
int paravirt(int x) { asm volatile(PARA(SEL("1", "2"), "7")); return x; }
int paravirt_length(int x) { asm volatile(PARA("1", SEL("2", "3"))); return x; }
int paravirt_same(int x) { asm volatile(PARA("1", "7")); return x; }
#define RUNTIME(section) asm volatile("mov $0x12345678, %%eax\n1:\n" PUSH(section, ".long 1b - 4 - .") : : : "rax")
int runtime(int x) { RUNTIME("runtime_ptr_table"); return x + SEL(1, 2); }
int runtime_shift(int x) { RUNTIME("runtime_shift_bits"); return x + SEL(1, 2); }
int runtime_symbol(int x) { if (SEL(0, 1)) RUNTIME("runtime_ptr_table"); return x; }
int runtime_same(int x) { RUNTIME("runtime_ptr_table"); return x; }
#ifdef V2
int runtime_new(int x) { RUNTIME("runtime_ptr_table"); return x; }
#endif
// A table whose entries are not where they should be is not guessed at.
int misfit(int x) { asm volatile("1: nop\n" PUSH(".cfi_sites", ".long 0\n.long 1b - .")); return x + SEL(1, 2); }

// Tables that the macros of the kernel make as C objects.
struct error_injection_entry { unsigned long addr; int etype; };
#define ALLOW_ERROR_INJECTION(fname, type) \
	static struct error_injection_entry SECTION("_error_injection_whitelist") _eil_##fname = { (unsigned long)fname, type }
int injected(int x) { return out(x) + 1; }
int injectable(int x) { return out(x) + 2; }
int injected_same(int x) { return out(x) + 3; }
int one(int x), two(int x);
ALLOW_ERROR_INJECTION(injected, SEL(1, 2));
ALLOW_ERROR_INJECTION(injected_same, 1);
#ifdef V2
ALLOW_ERROR_INJECTION(injectable, 1);
#endif
#define NOKPROBE_SYMBOL(fname) static unsigned long SECTION("_kprobe_blacklist") _kbl_addr_##fname = (unsigned long)fname
int probed(int x) { return out(x) + 4; }
int probed_same(int x) { return out(x) + 5; }
#ifndef V2
NOKPROBE_SYMBOL(probed);
#endif
NOKPROBE_SYMBOL(probed_same);

// include/linux/tracepoint.h, include/trace/bpf_probe.h
struct tracepoint { const char *name; int key[4]; };
#define TRACEPOINT(tp) \
	struct tracepoint SECTION("__tracepoints") __tracepoint_##tp = { TEXT(tp) }; \
	asm(PUSH("__tracepoints_ptrs", ".balign 4\n.long __tracepoint_" #tp " - ."))
struct tracepoint SECTION("__tracepoints") __tracepoint_retouched = { SEL("old", "renamed") };
TRACEPOINT(steady);
#ifdef V2
TRACEPOINT(fresh);
#endif
struct map { struct tracepoint *tp; int (*probe)(int); };
int probe_a(int), probe_b(int);
struct map SECTION("__bpf_raw_tp_map") __bpf_trace_tp_map_one = { &__tracepoint_steady, SEL(probe_a, probe_b) };
struct map SECTION("__bpf_raw_tp_map") __bpf_trace_tp_map_same = { &__tracepoint_steady, probe_a };

// include/linux/btf_ids.h: the number in the name is the preprocessor's, the build fills the value in.
#define BTF_ID(name, n) asm(PUSH(".BTF_ids", ".local __BTF_ID__func__" name "__" n "\n.type __BTF_ID__func__" name "__" n ",@object\n.size __BTF_ID__func__" name "__" n ",4\n__BTF_ID__func__" name "__" n ":.zero 4"))
BTF_ID("steady", SEL("5", "6"));
#ifdef V2
BTF_ID("fresh", "1");
#endif
