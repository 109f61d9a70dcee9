// flags: -O2 -g -ffunction-sections -fdata-sections -fno-pie -mcmodel=kernel -mno-red-zone -pg -mrecord-mcount -mfentry -fno-common -fno-jump-tables -fno-asynchronous-unwind-tables -mno-sse -fcf-protection=none
// The same where the assembler does not tell where constants begin.
// function walk changed
// function second changed
// function numbers changed
// Where texts with NULs end, only what follows them tells.
// reordered function walk changed unnamed content
// reordered function second changed unnamed content
// reordered function other changed unnamed content
void take(const char *);
void give(int *);
#ifdef V2
#define TEXTS "x\0y\0w"
#define LAST 17
#else
#define TEXTS "x\0y\0z"
#define LAST 16
#endif
void walk(void) { const char *p = TEXTS; while (*p) { take(p); p += 2; } }
const char *second(void) { return &TEXTS[2]; }
void other(void) { const char *p = "p\0q\0r"; while (*p) { take(p); p += 2; } }
void numbers(void) { int a[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, LAST}; give(a); }
void same(void) { int a[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, -1}; give(a); }
