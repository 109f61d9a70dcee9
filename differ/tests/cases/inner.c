// A function is part of others' calls if all who call it are replaced with it, in both versions.
// function helper changed ; inner
// function deeper changed ; inner
// function recursive changed ; inner
// function entry changed ; entry
// function shared changed ; entry
// function pointed changed ; entry
// function public changed ; entry
// function new_caller changed ; entry
#ifdef V2
#define N 2
#else
#define N 1
#endif
#define own static __attribute__((noinline, noclone))
extern int ext(int), sink(void *);
own int deeper(int x) { return ext(x + 1) + N; }
own int helper(int x) { return deeper(x) * 3 + ext(N); }
own int recursive(int x) { return x > 9 ? ext(x + N) : recursive(x * 3) + 1; }
own int shared(int x) { return ext(x + 2) - N; }
own int pointed(int x) { return ext(x + 3) ^ N; }
__attribute__((noinline, noclone)) int public(int x) { return ext(x + 4) | N; }
int entry(int x) { return helper(x) + recursive(x) + shared(x) + pointed(x) + public(x) + N; }
int same(int x) { return shared(x + 5) + sink(pointed); }
int new_caller(int x) { return ext(x + N); }
