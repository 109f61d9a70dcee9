// A static key's default is its initial value, and the code at its branches: a jump or a no-operation.
// data flipped changed byte 0x0 is 0x01 instead of 0x00
// function flipped_user changed
// data typed changed byte 0x0 is 0x01 instead of 0x00
// data old_style changed byte 0x0 is 0x01 instead of 0x00 users ["old_style_user"]
// data private.N changed byte 0x0 is 0x01 instead of 0x00
// function private_user changed
// function outer_user changed instruction
// function likely_user changed entry of __jump_table
// include/linux/jump_label.h
struct static_key { int enabled; unsigned long type; };
#define TRUE { 1, 1 }
#define FALSE { 0, 0 }
// arch_static_branch and arch_static_branch_jump of arch/x86/include/asm/jump_label.h
#define NOP "1: .byte 0x0f,0x1f,0x44,0,0\n"
#define JMP "1: jmp %l[yes]\n"
#define BRANCH(code, key, branch) \
	asm goto(code ".pushsection __jump_table,\"aw\"\n.balign 8\n.long 1b - .\n.long %l[yes] - .\n.quad %c0 + %c1 - .\n.popsection" : : "i"(key), "i"(branch) : : yes)
#ifdef V2
#define DEFAULT TRUE
#define UNLIKELY(key) BRANCH(JMP, key, 0)
#define LIKELY 1
#else
#define DEFAULT FALSE
#define UNLIKELY(key) BRANCH(NOP, key, 0)
#define LIKELY 0
#endif
struct static_key flipped = DEFAULT, same_false = FALSE, same_true = TRUE;
struct static_key __attribute__((section(".data..ro_after_init"))) typed = DEFAULT;
extern struct static_key outer;
int flipped_user(int x) { UNLIKELY(&flipped); return 1; yes: return x; }
int false_user(int x) { BRANCH(NOP, &same_false, 0); return 1; yes: return x; }
int true_user(int x) { BRANCH(JMP, &same_true, 0); return 1; yes: return x; }
// The key is another object's: its new type is seen in the code.
int outer_user(int x) { UNLIKELY(&outer); return 1; yes: return x; }
int outer_same(int x) { BRANCH(NOP, &outer, 0); return 1; yes: return x; }
// static_branch_likely() instead of unlikely: the branch bit.
int likely_user(int x) { BRANCH(NOP, &same_false, LIKELY); return 1; yes: return x; }
// A key of the function's own.
int private_user(int x) { static struct static_key private = DEFAULT; UNLIKELY(&private); return 1; yes: return x; }
// `static_key_false(&key)` is a no-operation, whatever the default is.
struct static_key old_style = DEFAULT;
int old_style_user(int x) { BRANCH(NOP, &old_style, 1); return 1; yes: return x; }
