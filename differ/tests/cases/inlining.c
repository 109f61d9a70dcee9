// A change in an inlined function is named.
// function caller changed (in helper, inlined)
// function caller2 changed (in helper, inlined)
#ifdef V2
#define N 41
#else
#define N 40
#endif
int out(int);
static inline __attribute__((always_inline)) int helper(int x) { return out(x * N); }
int caller(int x) { return helper(x) + 1; }
int caller2(int x) { return helper(x) - 1; }
int bystander(int x) { return out(x * 3) - 1; }
