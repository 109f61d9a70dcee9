// A changed function without an ftrace site goes along with its callers, if all of them can be replaced.
// function plain changed add
// function plain_user_a changed calls plain, which changed and has no ftrace site
// function plain_user_b changed calls plain, which changed and has no ftrace site
// function inner changed add
// function outer changed calls inner, which changed and has no ftrace site
// function outer_user changed calls inner, which changed and has no ftrace site
// function taken refused has no ftrace site
// function global refused has no ftrace site
// function from_noinstr refused has no ftrace site
// function with_init changed add
// function with_init_user changed calls with_init
#ifdef V2
#define N 2
#else
#define N 1
#endif
#define inline_not_inlined static __attribute__((noinline, noclone, no_instrument_function))
extern int ext(int), sink(void *);
inline_not_inlined int plain(int x) { return ext(x) + N; }
int plain_user_a(int x) { return plain(x) * 3; }
int plain_user_b(int x) { if (ext(x)) return plain(x + 1); return 7; }
inline_not_inlined int inner(int x) { return ext(x + 5) + N; }
inline_not_inlined int outer(int x) { return inner(x) + ext(x + 1); }
int outer_user(int x) { return outer(x) + 4; }
inline_not_inlined int taken(int x) { return ext(x + 6) + N; }
int taken_user(int x) { return taken(x) + sink(taken); }
__attribute__((noinline, no_instrument_function)) int global(int x) { return ext(x + 7) + N; }
int global_user(int x) { return global(x) + 1; }
inline_not_inlined int from_noinstr(int x) { return ext(x + 8) + N; }
__attribute__((section(".noinstr.text"))) int noinstr_user(int x) { return from_noinstr(x) + 1; }
inline_not_inlined int with_init(int x) { return ext(x + 9) + N; }
int with_init_user(int x) { return with_init(x) + 1; }
__attribute__((section(".init.text"))) int starts(int x) { return with_init(x) + 2; }
int same(int x) { return ext(x); }
