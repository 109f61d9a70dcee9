// Entries of special sections are part of their function.
// function ex_target changed entry of __ex_table
// function ex_type changed entry of __ex_table
// function alternative changed alternative replacement
// function feature changed entry of .altinstructions
// function key changed entry of __jump_table
// function key_branch changed entry of __jump_table
// function bug_flags changed bug table flags
// function locks changed
// function unknown refused section __unheard_of refers to it
// reordered section __unheard_of refers to unknown_same
#ifdef V2
#define SEL(a, b) b
#else
#define SEL(a, b) a
#endif
#define EX(target, type) \
	asm volatile("1: mov (%0), %%rax\n nop\n 2: nop\n inc %%rax\n 3: dec %%rax\n" \
	  ".pushsection __ex_table,\"a\"\n.balign 4\n.long 1b - .\n.long " target " - .\n.long " type "\n.popsection" : : "r"(p) : "rax")
void ex_target(long *p) { EX(SEL("2b", "3b"), "1"); }
void ex_type(long *p) { EX("2b", SEL("1", "3")); }
void ex_same(long *p) { EX("2b", "1"); }
#define ALT(repl, feature) \
	asm volatile("661: nop\n nop\n nop\n nop\n nop\n 662:\n.pushsection .altinstructions,\"a\"\n.long 661b - .\n.long 663f - .\n.word " feature "\n.byte 662b-661b\n.byte 664f-663f\n.popsection\n.pushsection .altinstr_replacement,\"ax\"\n663: " repl "\n664:\n.popsection")
void alternative(void) { ALT(SEL("call extern_a", "call extern_b"), "1"); }
void feature(void) { ALT("call extern_a", SEL("1", "2")); }
void alternative_same(void) { ALT("call extern_a", "3"); }
struct key { int a; void *b; } key_a, key_b;
#define JUMP(key, branch) \
	asm goto("1: .byte 0x0f,0x1f,0x44,0,0\n.pushsection __jump_table,\"aw\"\n.balign 8\n.long 1b - .\n.long %l[yes] - .\n.quad %c0 + %c1 - .\n.popsection" : : "i"(&key), "i"(branch) : : yes)
int key(int x) { JUMP(SEL(key_a, key_b), 0); return 1; yes: return x; }
int key_branch(int x) { JUMP(key_a, SEL(0, 1)); return 1; yes: return x; }
int key_same(int x) { JUMP(key_a, 0); return 1; yes: return x; }
#define BUG(flags) \
	asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n2: .long 1b - .\n.long %c0 - .\n.word %c1\n.word %c2\n.popsection" : : "i"(__FILE__), "i"(__LINE__), "i"(flags))
void bug_flags(int x) { if (x) BUG(SEL(1, 3)); }
void bug_same(int x) { if (x) BUG(1); }
#define LOCK ".pushsection .smp_locks,\"a\"\n.balign 4\n.long 671f - .\n.popsection\n671: lock; "
void locks(long *p) { asm volatile(SEL(LOCK "incq (%0)", "lock; incq (%0)") : : "r"(p)); }
void locks_same(long *p) { asm volatile(LOCK "incq (%0)" : : "r"(p)); }
int unknown(int x) { asm volatile("1: nop\n.pushsection __unheard_of,\"a\"\n.long 1b - .\n.popsection"); return x + SEL(1, 2); }
int unknown_same(int x) { asm volatile("1: nop\n.pushsection __unheard_of,\"a\"\n.long 1b - .\n.popsection"); return x; }
