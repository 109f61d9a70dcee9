// Functions that cannot be redirected.
// function start refused .init.text
// function stop refused .exit.text
// function untraced refused notrace
// function traced changed
// function promoted refused is in .init.text in v1 and in .text.promoted in v2: the running kernel frees it
// function promoted_too refused the running kernel frees it
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
#ifdef V2
int promoted(int x) { return x + 6; }
int promoted_too(int x) { return x + 7; }
int __attribute__((section(".init.text"))) demoted(int x) { return x + 8; }
#else
int __attribute__((section(".init.text"))) promoted(int x) { return x + 6; }
int __attribute__((section(".init.text"))) promoted_too(int x) { return x + 6; }
int demoted(int x) { return x + 8; }
#endif
int traced(int x) { return x + N; }
