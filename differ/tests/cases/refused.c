// Functions that cannot be redirected.
// function start refused .init.text
// function stop refused .exit.text
// function untraced refused notrace
// function traced changed
#ifdef V2
#define N 2
#else
#define N 1
#endif
int __attribute__((section(".init.text"))) start(int x) { return x + N; }
int __attribute__((section(".init.text"))) start_same(int x) { return x + 5; }
int __attribute__((section(".exit.text"))) stop(int x) { return x + N; }
int __attribute__((no_instrument_function)) untraced(int x) { return x + N; }
int __attribute__((no_instrument_function)) untraced_same(int x) { return x + 9; }
int traced(int x) { return x + N; }
