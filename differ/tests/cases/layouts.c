// Types.
// layout struct grown changed c added
// layout struct moved changed a moved, b moved
// layout struct retyped changed p retyped
// layout struct bits changed y resized
// layout struct nested changed u.b moved+resized+retyped, u resized+retyped
// layout struct inner_anonymous changed q resized+retyped
// layout union u changed b resized+retyped
// layout enum colour changed GREEN value, BLUE added
// layout struct fresh added
// layout struct gone removed
// layout struct callback changed fn retyped
// layout struct flexible changed tail moved+retyped
// layout typedef handle changed
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
#endif
struct steady { int a; struct steady *next; int (*fn)(struct steady *); };
static struct grown *a; static struct moved *b; static struct retyped *c; static struct bits *d;
static struct nested *e; static struct inner_anonymous *f; static union u *g; static enum colour h;
static OTHER *i; static struct callback *j; static struct flexible *k; static handle *l; static struct steady *m;
void use(void *);
void all(void) { use(&a); use(&b); use(&c); use(&d); use(&e); use(&f); use(&g); use(&h); use(&i); use(&j); use(&k); use(&l); use(&m); }
