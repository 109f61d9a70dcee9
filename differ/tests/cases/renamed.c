// Clones of functions: another number or suffix is no change, and static becoming global neither.
// function linkage renamed static in V1, global in V2
// function demoted renamed global in V1, static in V2
// function both_ways changed ; entry
// function piece.part.N renamed was piece.part.N
// function private.lto_priv.N renamed was private.lto_priv.N
// function plain renamed was plain.lto_priv.N
// function thin.llvm.N renamed was thin.llvm.N
// function differs.part.N changed ; entry
// function differs.lto_priv.N changed ; entry
// function differs.llvm.N changed ; entry
// map private.lto_priv.3 private.lto_priv.0
// function worker.isra.0 renamed was worker.constprop.7
int out(int);
#ifdef V2
#define STATIC
#define DEMOTED static
#define N 2
#define NAME(v1, v2) v2
#define CLONE "worker.isra.0"
#else
#define STATIC static
#define DEMOTED
#define N 1
#define NAME(v1, v2) v1
#define CLONE "worker.constprop.7"
#endif
STATIC __attribute__((noinline)) int linkage(int x) { return out(x) * 3; }
int linkage_user(int x) { return linkage(x) + 1; }
int worker(int x) asm(CLONE);
__attribute__((noinline)) int worker(int x) { return out(x) * 5; }
int worker_user(int x) { return worker(x) + 2; }
DEMOTED __attribute__((noinline)) int demoted(int x) { return out(x) * 7; }
int demoted_user(int x) { return demoted(x) + 3; }
STATIC __attribute__((noinline)) int both_ways(int x) { return out(x) * 9 + N; }
int both_ways_user(int x) { return both_ways(x) + 4; }
#define FUNCTION(name, v1, v2, n) int name(int) asm(NAME(v1, v2)); \
  __attribute__((noinline)) int name(int x) { return out(x) * n; } int name##_user(int x) { return name(x) + 5; }
FUNCTION(piece, "piece.part.0", "piece.part.4", 11)
FUNCTION(private, "private.lto_priv.0", "private.lto_priv.3", 13)
FUNCTION(plain, "plain.lto_priv.5", "plain", 17)
FUNCTION(thin, "thin.llvm.1234567890", "thin.llvm.987654321", 19)
FUNCTION(differs_part, "differs.part.0", "differs.part.1", 20 + N)
FUNCTION(differs_private, "differs.lto_priv.0", "differs.lto_priv.1", 23 + N)
FUNCTION(differs_thin, "differs.llvm.12", "differs.llvm.34", 26 + N)
