// A string that is reached from before its start, or from within, counts whole.
// function before changed string "abd" instead of "abc"
// function within changed string "+x" instead of "-x"
// function further changed
char before_same(long i) { return "same text"[i - 1]; }
char further(long i);
#ifdef V2
char before(long i) { return "abd"[i - 1]; }
char within(long i) { return "+x"[i + 1]; }
char further(long i) { return "constant"[i - 2]; }
#else
char before(long i) { return "abc"[i - 1]; }
char within(long i) { return "-x"[i + 1]; }
char further(long i) { return "constant"[i - 1]; }
#endif
