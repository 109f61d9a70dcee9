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
