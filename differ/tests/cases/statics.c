// Static locals keep their identity when numbers change, and are not mixed up.
// function uses_other changed refers to
// data fresh.N new
// function noise new
// map count.2 count.1
// map count.3 count.2
// map __already_done.1 __already_done.0
int number(int *);
int counts(void) { static int count = 5; return number(&count); }
int counts2(void) { static int count = 5; return number(&count) + 1; }
int once(void) { static _Bool __already_done; if (!__already_done) { __already_done = 1; return number(0); } return 0; }
static int alpha, beta;
#ifdef V2
int uses_other(void) { return number(&beta); }
#else
int uses_other(void) { return number(&alpha); }
#endif
int both(void) { return number(&alpha) + number(&beta) * 2; }
#ifdef V2
int noise(void) { static int fresh; return number(&fresh); }
#endif
