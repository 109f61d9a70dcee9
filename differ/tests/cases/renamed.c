// Clones of functions: another number or suffix is no change, and static becoming global neither.
// function worker.isra.0 renamed was worker.constprop.7
int out(int);
#ifdef V2
#define STATIC
#define CLONE "worker.isra.0"
#else
#define STATIC static
#define CLONE "worker.constprop.7"
#endif
STATIC __attribute__((noinline)) int linkage(int x) { return out(x) * 3; }
int linkage_user(int x) { return linkage(x) + 1; }
int worker(int x) asm(CLONE);
__attribute__((noinline)) int worker(int x) { return out(x) * 5; }
int worker_user(int x) { return worker(x) + 2; }
