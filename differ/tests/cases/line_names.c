// Constants that a macro names after the line they stand in.
// data changed7 removed
// data changed8 new
// data holder changed refers to
// data state7 removed
// data state8 new
// function uses_state changed refers to
#ifdef V2
#define LINE 8
#else
#define LINE 7
#endif
#define NAME2(n, line) n##line
#define NAME1(n, line) NAME2(n, line)
#define NAME(n) NAME1(n, LINE)
typedef void (*method)(void);
void one(void) { }
void two(void) { asm volatile("pause"); }
static const method NAME(methods)[] = { one, two };
struct tree { const method *methods; };
const struct tree tree = { NAME(methods) };
static const int NAME(changed)[] = { LINE };
const int *const holder = NAME(changed);
static int NAME(state);
int number(int *);
int uses_state(void) { return number(&NAME(state)); }
