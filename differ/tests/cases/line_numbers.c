// Line numbers are no change: as arguments, in the bug table, in dynamic debug.
// shift
// function real changed instruction
// function near_miss changed instruction 2: mov $0x1e,%edi vs mov $0x23,%edi
#define BUG_FLAGS(flags) \
	asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n2: .long 1b - .\n.long %c0 - .\n" \
		     ".word %c1\n.word %c2\n.org 2b+12\n.popsection" \
		     : : "i"(__FILE__), "i"(__LINE__), "i"(flags))
struct ddebug {
	const char *modname, *function, *filename, *format;
	unsigned int lineno : 18, class_id : 6, flags : 8;
	unsigned long key;
} __attribute__((aligned(8)));
void sleepy(const char *file, int line);
void debug(struct ddebug *d, const char *fmt);
int number(int);

void might_sleep(void) { sleepy(__FILE__, __LINE__); }
int warn(int x) { if (x) BUG_FLAGS(1); return x; }
void dyndbg(void)
{
	static struct ddebug __attribute__((section("__dyndbg"), used)) descriptor = {
		"mod", __func__, __FILE__, "fmt", __LINE__, 63, 0, 0 };
	debug(&descriptor, "fmt");
}
#ifdef V2


int real(int x) { return number(31); }
int near_miss(int x) { return number(35); }
#else
int real(int x) { return number(30); }
int near_miss(int x) { return number(30); }
#endif
int line_after(int x) { return number(__LINE__); }
