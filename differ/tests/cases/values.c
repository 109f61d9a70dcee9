// What changed variables hold, old and new, as the source writes it.
// data limit changed values 1000 → 2000
// data below changed values -1 → -2
// data ratio changed values .small: 7 → 9; .big: 100 → 4294967297
// data bits changed values .low: 1 → 3; .high: 2 → 1
// data table changed values [1]: 20 → 21; [3]: 40 → 44
// data grid changed values [4]: 5 → 50
// data deep changed values [1].inner.count: 2 → 3; [1].name: "two" → "second"; [1].on: true → false; [1].mode: SLOW → FAST
// data ops changed values .read: read_one → read_two; .write: NULL → write_one
// data text changed values "before" → "after it"
// data mixed changed values .u: 0x1 → 0x2
// data aliased changed values .flags: 5 → 6
// data pointed changed values .flags: 1 → 2
typedef unsigned int u32;
typedef struct { u32 flags; } aliased_t;
enum mode { SLOW = 1, FAST = -2 };
struct bits { unsigned low : 3, high : 5; };
struct deep { struct { long pad; short count; } inner; char name[8]; _Bool on; enum mode mode; };
struct ops { int (*read)(void); int (*write)(void); };
struct ratio { unsigned char small; unsigned long big; };
struct mixed { int before; union { int a; float b; } u; };
int read_one(void) { return 1; }
int read_two(void) { return 2; }
int write_one(void) { return 3; }
#ifdef V2
#define P(old, new) new
#else
#define P(old, new) old
#endif
u32 limit = P(1000, 2000);
long below = P(-1, -2);
struct ratio ratio = { P(7, 9), P(100, 4294967297) };
struct bits bits = { P(1, 3), P(2, 1) };
const unsigned short table[4] = { 10, P(20, 21), 30, P(40, 44) };
int grid[2][3] = { { 1, 2, 3 }, { 4, P(5, 50), 6 } };
struct deep deep[2] = {
	{ { 0, 1 }, "one", 1, SLOW },
	{ { 0, P(2, 3) }, P("two", "second"), P(1, 0), P(SLOW, FAST) },
};
struct ops ops = { P(read_one, read_two), P(0, write_one) };
const char *text = P("before", "after it");
struct mixed mixed = { 4, { P(1, 2) } };
aliased_t aliased = { P(5, 6) };
/* What is inlined has pointers that are in no memory: their value is the address, and not their place. */
struct pointed { u32 flags; };
struct pointed pointed = { P(1, 2) };
int handed(struct pointed *of, struct pointed *again);
static inline __attribute__((always_inline)) int hand(struct pointed *of)
{
	struct pointed *kept = of;
	return handed(of, kept);
}
int hands(void) { return hand(&pointed); }
