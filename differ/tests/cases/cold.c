// The cold part belongs to its function.
// function fails changed in the cold part
void __attribute__((cold)) complain(const char *, int);
int out(int);
#ifdef V2
#define N 2
#else
#define N 1
#endif
int fails(int x) { if (x < 0) { complain("bad", N); out(x); } return out(x) + 1; }
int steady(int x) { if (x < 0) { complain("bad", 3); out(x); } return out(x) + 2; }
