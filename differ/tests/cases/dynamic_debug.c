// Several descriptors in one object, whose lines move (include/linux/dynamic_debug.h): only what else differs is a change.
// shift
// data __UNIQUE_ID_ddebug3.N changed at 0x18: string "four" instead of "three"
// function reworded changed string "four" instead of "three"
struct ddebug {
	const char *modname, *function, *filename, *format;
	unsigned int lineno : 18, class_id : 6, flags : 8;
	unsigned long key[2];
} __attribute__((aligned(8)));
#define DESCRIPTOR(n, fmt) \
	static struct ddebug __attribute__((section("__dyndbg"), used)) __UNIQUE_ID_ddebug##n = { \
		"mod", __func__, __FILE__, fmt, __LINE__, 63, 0 };
#define debug(n, fmt) ({ DESCRIPTOR(n, fmt) print(&__UNIQUE_ID_ddebug##n, fmt); })
int print(struct ddebug *, const char *);
#ifdef V2
#define TEXT "four"


#else
#define TEXT "three"
#endif
int twice(int x) { if (x) debug(1, "one"); return debug(2, "one"); }
int reworded(int x) { return debug(3, TEXT) + x; }
// No code is left that refers to these.
int unused(int x) { DESCRIPTOR(4, "gone") DESCRIPTOR(5, "gone too") return x; }
// Bugs and the name of the function beside each other.
#define BUG(flags) asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n2: .long 1b - .\n.long %c0 - .\n" \
	".word %c1\n.word %c2\n.org 2b+12\n.popsection" : : "i"(__FILE__), "i"(__LINE__), "i"(flags))
int named(const char *);
int bugs(int x) { if (x == 1) BUG(1); if (x == 2) BUG(3); return named(__func__); }
int bugs_too(int x) { if (x == 1) BUG(1); return named(__func__) + 1; }
