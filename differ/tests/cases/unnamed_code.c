// Code that no symbol names, and data that becomes read-only.
// retyped constant static int → const int
// section .text.hidden code that no symbol names changed
// data constant changed moved from .data.constant to .rodata.constant
#ifdef V2
#define N "2"
#define CONST const
#else
#define N "1"
#define CONST
#endif
asm(".pushsection .text.hidden,\"ax\"\n mov $" N ",%eax\n ret\n .globl shown\n.type shown,@function\nshown: ret\n.size shown,.-shown\n.popsection");
asm(".pushsection .text.hidden_same,\"ax\"\n mov $1,%eax\n ret\n .globl shown2\n.type shown2,@function\nshown2: ret\n.size shown2,.-shown2\n.popsection");
CONST int constant = 5;
int user(void) { return 1; }
// Several sections of one name: each counts, and so does their number.
// section foo is 0x02 instead of 0x01
// section foo_more 3 sections of this name instead of 2
#define SECTION(name, n, value) asm(".pushsection " name ",\"a\",@progbits,unique," #n "\n .byte " value "\n.popsection");
SECTION("foo", 1, N) SECTION("foo", 2, "3")
SECTION("foo_same", 1, "3") SECTION("foo_same", 2, "4")
SECTION("foo_more", 1, "5") SECTION("foo_more", 2, "5")
#ifdef V2
SECTION("foo_more", 3, "5")
#endif
