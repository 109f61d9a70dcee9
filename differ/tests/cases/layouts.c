// Types.
// layout struct grown changed c added
// layout struct moved changed a moved, b moved
// layout struct retyped changed p retyped
// layout struct bits changed y resized
// layout struct nested changed u.b moved+resized+retyped, u resized+retyped
// layout struct inner_anonymous changed q resized+retyped
// layout union u changed b resized+retyped
// layout enum colour changed GREEN enumerator changed, BLUE added
// layout struct fresh added
// layout struct gone removed
// layout struct callback changed fn retyped
// layout struct flexible changed tail moved+retyped
// layout typedef handle changed
// layout struct renamed changed old renamed to new
// layout struct two_alike changed a removed, b removed, c added, d added
// layout struct padded changed y moved+resized
// layout struct signature changed op retyped
// layout struct tail changed list resized+retyped
// layout struct inside changed inner.b renamed to inner.c
// layout enum state changed STOPPED renamed to HALTED, LAST enumerator changed
// layout enum of FIRST changed SECOND enumerator changed
// layout enum of SIGN changed SIGN enumerator changed
// function uses_second changed
// instance enum colour h static enum colour
// instance enum state t static enum state
// retyped i static struct gone * → struct fresh *
// retyped counter static int → unsigned int
// retyped here static long int * → int *
// retyped each_cpu per-cpu long int → long unsigned int
#ifdef V2
struct grown { int a, b, c; };
struct moved { int b, a; };
struct retyped { long *p; };
struct bits { unsigned x : 3, y : 6; };
struct nested { struct { int a; long b; } u; };
struct inner_anonymous { union { long q; int r; }; };
union u { int a; long b; };
enum colour { RED, GREEN = 5, BLUE };
struct fresh { int a; };
struct callback { int (*fn)(int, long); };
struct flexible { int n; long tail[]; };
typedef long handle;
#define OTHER struct fresh
struct renamed { int first; int new; };
struct two_alike { union { int c; int d; }; };
struct padded { unsigned x : 3, : 2, y : 4; };
struct signature { void (**op[2])(const char *, ...); };
struct tail { int n; int list[4]; };
struct inside { struct { int a, c; } inner; };
enum state { RUNNING, HALTED, LAST = 9 };
unsigned counter;
#define HERE int
#define EACH unsigned long
#else
struct grown { int a, b; };
struct moved { int a, b; };
struct retyped { int *p; };
struct bits { unsigned x : 3, y : 5; };
struct nested { struct { int a; int b; } u; };
struct inner_anonymous { union { int q; int r; }; };
union u { int a; int b; };
enum colour { RED, GREEN };
struct gone { int a; };
struct callback { int (*fn)(int, int); };
struct flexible { int n; int tail[]; };
typedef int handle;
#define OTHER struct gone
struct renamed { int first; int old; };
struct two_alike { union { int a; int b; }; };
struct padded { unsigned x : 3, : 1, y : 5; };
struct signature { void (**op[2])(const char *); };
struct tail { int n; int list[]; };
struct inside { struct { int a, b; } inner; };
enum state { RUNNING, STOPPED, LAST };
int counter;
#define HERE long
#define EACH long
#endif
struct steady { int a; struct steady *next; int (*fn)(struct steady *); };
static struct grown *a; static struct moved *b; static struct retyped *c; static struct bits *d;
static struct nested *e; static struct inner_anonymous *f; static union u *g; static enum colour h;
static OTHER *i; static struct callback *j; static struct flexible *k; static handle *l; static struct steady *m;
static struct renamed *n; static struct two_alike *o; static struct padded *p; static struct signature *q;
static struct tail *r; static struct inside *s; static enum state t;
EACH each_cpu __attribute__((section(".data..percpu")));
void use(void *);
void all(void) { use(&a); use(&b); use(&c); use(&d); use(&e); use(&f); use(&g); use(&h); use(&i); use(&j); use(&k); use(&l); use(&m); use(&n); use(&o); use(&p); use(&q); use(&r); use(&s); use(&t); static HERE *here; use(&here); use(&each_cpu); }

#ifdef V2
enum { FIRST, ADDED, SECOND }; enum { SIGN = -1 }; enum { BEFORE, STAYS = 4, MORE };
#else
enum { FIRST, SECOND, }; enum { SIGN = 1 }; enum { STAYS = 4, LESS };
#endif
int uses_second(int x) { return x + SECOND * 3 + SIGN + STAYS; }
