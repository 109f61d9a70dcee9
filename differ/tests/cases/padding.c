// Where functions and loops start, what fills the space between them, and objtool's names for it are no change.
// flags: -O2 -g -fno-pie -mcmodel=kernel -mno-red-zone -pg -mrecord-mcount -mfentry -fno-jump-tables -fno-asynchronous-unwind-tables -fcf-protection=none -falign-functions=1 -falign-loops=1
// flags-v2: -falign-functions=64 -falign-loops=32 -fpatchable-function-entry=16,16
// function worker changed
// function behind refused has no ftrace site (notrace); changed: instruction 0: mov $0x1234,%eax vs mov $0x5678,%eax
// section .text.hash code that no symbol names changed
int out(int);
#ifdef V2
#define N 2
#define PAD(name) ".p2align 4\n.type __pfx_" name ",@function\n__pfx_" name ": .fill 16,1,0x90\n.size __pfx_" name ",16\n"
#define NOPS ".nops 9\n"
#define FILL ".p2align 6, 0xcc\n" NOPS
#define HASH "0x5678"
#else
#define N 1
#define PAD(name) ""
#define NOPS ""
#define FILL ""
#define HASH "0x1234"
#endif
int first(int x) { return out(x) + 1; }
int second(int *p, int n) { int sum = 0; for (int i = 0; i < n; i++) sum += out(p[i]); return sum; }
int third(int x) { return out(x) + 3; }
int worker(int x) { return out(x) + 10 * N; }
int last(int x) { return out(x) + 5; }
#define FUNCTION(name, body) PAD(name) ".globl " name "\n.type " name ",@function\n" name ": " body "\n ret\n.size " name ",.-" name "\n"
asm(".pushsection .text.padded,\"ax\"\n" FUNCTION("padded", "mov $1,%eax") FILL FUNCTION("padded_too", "mov $2,%eax") FILL ".popsection");
// A jump across padding still goes to the same place; a symbol of padding makes no function of it.
asm(".pushsection .text.jumps,\"ax\"\n" FUNCTION("jumper", "test %edi,%edi\n je 1f\n inc %eax\n" NOPS "1: nop") ".popsection");
// The name of its padding does not hide that what follows changed. (It has no ftrace site.)
asm(".pushsection .text.behind,\"ax\"\n" FUNCTION("behind", "mov $" HASH ",%eax") FUNCTION("untouched", "mov $4,%eax") ".popsection");
// kCFI's hash of a prototype is an instruction in the padding.
asm(".pushsection .text.hash,\"ax\"\n__cfi_hashed: mov $" HASH ",%eax\n.globl hashed\n.type hashed,@function\nhashed: ret\n.size hashed,.-hashed\n.popsection");
