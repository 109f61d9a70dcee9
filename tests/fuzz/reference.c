/* The object that fuzz inputs start from and are compared with: a little of everything.
 * gcc -O2 -gdwarf-5 -ffunction-sections -fdata-sections -fno-pie -mcmodel=kernel -mno-red-zone -pg
 *     -mrecord-mcount -mfentry -fno-asynchronous-unwind-tables -mno-sse -fcf-protection=none -c */
struct list { struct list *next; };
struct thing {
	int number : 3, other : 5;
	union { long whole; struct { short a; char b; }; };
	struct list list;
	enum color { RED, GREEN = 7 } color;
	char name[];
};
int shared __attribute__((section(".data..read_mostly"))) = 3;
static const short table[] = { 1, 2, 3, 5, 8 };
static const char *const words[] = { "one", "two" };
int call(const char *text, long value);
static inline int twice(int x) { return 2 * x + table[x & 3]; }
int pick(struct thing *thing, int i)
{
	static int count;
	if (__builtin_expect(i < 0, 0))
		return call("negative at " __FILE__, __LINE__);
	count += twice(i);
	asm volatile("1: nop\n.pushsection __bug_table,\"aw\"\n.long 1b - .\n.long 0\n.word 3\n.word 1\n"
		     ".popsection");
	return thing->other + call(words[i & 1], count + thing->a);
}
__attribute__((cold, noinline)) int rare(struct thing *thing) { return pick(thing, shared); }
int switched(enum color color)
{
	switch (color) {
	case 0: return call("zero", 1);
	case 1: return call("one", 4);
	case 2: return call("two", 9);
	case 3: return call("three", 1);
	case 4: return call("four", 8);
	default: return rare(0);
	}
}
