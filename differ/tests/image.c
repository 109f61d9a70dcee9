/* One function for each table of an image, written as the kernel's macros do; `notrace` has no ftrace site. */
long key_a, key_b;
int out(int);
int notrace(int a) { return a * 3; }
int exception(int *p)
{
    int value = 7;
    asm volatile("1: mov (%1), %0\n2: nop\n3:\n"
        ".pushsection __ex_table, \"a\"\n"
        ".balign 4\n .long 1b - .\n .long 2b - .\n .long 3\n"
        ".popsection" : "+r"(value) : "r"(p));
    return value;
}
int alternative(int a)
{
    asm volatile("1: .nops 5\n2:\n"
        ".pushsection .altinstr_replacement, \"ax\"\n"
        "3: call out\n4:\n"
        ".popsection\n"
        ".pushsection .altinstructions, \"a\"\n"
        ".long 1b - .\n .long 3b - .\n .word 77\n .word 0\n .byte 2b - 1b\n .byte 4b - 3b\n"
        ".popsection" : "+D"(a));
    return a;
}
int branch(int a)
{
    asm goto("1: .nops 5\n"
        ".pushsection __jump_table, \"aw\"\n"
        ".balign 8\n .long 1b - .\n .long %l[likely] - .\n .quad key_a + 1 - .\n"
        ".popsection" : : : : likely);
    return a;
likely:
    return out(a + 1);
}
int bug(int a)
{
    if (a == 3)
        asm volatile("1: ud2\n"
            ".pushsection __bug_table, \"aw\"\n"
            "2: .long 1b - .\n .long .Lfile - .\n .word 100\n .word 0x901\n .org 2b + 12\n"
            ".popsection\n"
            ".pushsection .rodata.str1.1, \"aMS\", @progbits, 1\n"
            ".Lfile: .string \"a.c\"\n"
            ".popsection");
    return a;
}
const unsigned short *wide(void) { return u"SetupMode"; }
int __attribute__((section(".init.text"))) begin(int a) { return a + 5; }
asm(".pushsection __mcount, \"a\"\n .globl __start_mcount_loc, __stop_mcount_loc\n"
    "__start_mcount_loc:\n .quad exception, alternative, branch, bug, begin, wide\n"
    "__stop_mcount_loc:\n .popsection");
int out(int a) { return a ^ 1; }
struct held { int member; };
struct holder { struct held list[2]; };
struct outer { struct { int before; struct holder in; } unnamed; };
struct outer outer_of_all;
extern struct held of_cpu;
__attribute__((section(".percpu"))) struct held of_cpu;
int counted(int a)
{
    static struct holder once;
    once.list[a & 1].member += a;
    return once.list[0].member;
}
