// Swapped callees of like shape are a change; new numbers of compiler clones are not.
// function swapped changed calls second instead of first
// function pointer changed refers to second instead of first
// function tail changed second
// function fresh new
// function gone removed
void __attribute__((noinline)) first(int *p) { *p = 1; }
void __attribute__((noinline)) second(int *p) { *p = 2; }
#ifdef V2
#define ONE second
int fresh(int x) { return x + 7; }
#else
#define ONE first
int gone(int x) { return x - 7; }
#endif
int swapped(int *p) { ONE(p); return *p; }
void (*pointer(void))(int *) { return ONE; }
void tail(int *p) { p[0] = 3; ONE(p); }
int steady(int *p) { first(p); second(p + 1); return *p; }
