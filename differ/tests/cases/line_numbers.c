// Line numbers are no change: as arguments, in the bug table, in dynamic debug.
// shift
// function real changed instruction
// function near_miss changed instruction 2: mov $0x1e,%edi vs mov $0x23,%edi
// function text_not_line changed string
// function text_reworded changed string
// function text_elsewhere changed string
// reordered function text_elsewhere changed string "line 50
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
#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)
#define FILE_LINE __FILE__ ":" STRINGIFY(__LINE__)
// include/linux/fortify-string.h, __fortify_memcpy_chk
#define fortified(p, size) \
	((size) > sizeof(*p) ? (warn_once("memcpy: field-spanning write of single %s (size %zu)", \
					  "field \"" #p "\" at " FILE_LINE, sizeof(*p)), 0) : (size))
void warn_once(const char *fmt, const char *field, unsigned long size);

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
void text_not_line(int *p) { warn_once("%s", "field \"p\" at line_numbers.c:7", 4); }
void text_reworded(int *p) { warn_once("%s", "array \"p\" at " FILE_LINE, 4); }
#else
int real(int x) { return number(30); }
int near_miss(int x) { return number(30); }
void text_not_line(int *p) { warn_once("%s", "field \"p\" at line_numbers.c:5", 4); }
void text_reworded(int *p) { warn_once("%s", "field \"p\" at " FILE_LINE, 4); }
#endif
unsigned long spanning(int *destination, unsigned long size)
{
	return fortified(destination, size);
}
unsigned long spanning_lines(int *destination, unsigned long size)
{
	size += number(1);
	return fortified(destination,
			 size);
}
// include/linux/lockdep.h and rcupdate.h: an address in the function itself, a key and a flag of its own, a line.
#define THIS_IP ({ __label__ here; here: (unsigned long)&&here; })
struct map { const char *name; void *key; };
void lock_acquire(struct map *map, unsigned long ip);
void lock_init(struct map *map, const char *name, void *key);
void rcu_suspicious(const char *file, int line, const char *text);
int lockdep_on(void);
void acquire(struct map *map) { lock_acquire(map, THIS_IP); number(1); lock_acquire(map + 1, THIS_IP); }
void init(struct map *map) { static struct { } __key; lock_init(map, "&map", &__key); }
int dereference(int *p)
{
	static _Bool __attribute__((section(".data.once"))) __warned;
	if (lockdep_on() && !__warned) {
		__warned = 1;
		rcu_suspicious(__FILE__, __LINE__, "suspicious rcu_dereference_check() usage");
	}
	return *p;
}
int line_after(int x) { return number(__LINE__); }
// The number is the line, but nothing says that it is meant as one. (These lines do not move.)
#ifdef V2
#line 510
#else
#line 500
#endif
void text_elsewhere(void) { warn_once("%s", "line " STRINGIFY(__LINE__), 4); }
