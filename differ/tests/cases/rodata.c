// Read-only tables: switch conversions and const arrays, also behind pointers.
// function table changed read-only data "primes" changed
// data primes changed byte
// function nested changed string "dos"
// data names changed string
// function converted changed read-only data "CSWTCH" changed
// function ops_user changed read-only data
// data CSWTCH.N changed
// data ops changed refers to op2 instead of op1
#ifdef V2
#define P 12
#define S "dos"
#define OP op2
#else
#define P 11
#define S "two"
#define OP op1
#endif
static const int primes[] = { 2, 3, 5, 7, P };
static const int evens[] = { 2, 4, 6, 8, 10 };
static const char *const names[] = { "one", S, "three" };
static const char *const same_names[] = { "one", "two", "four" };
int table(int i) { return primes[i]; }
int steady_table(int i) { return evens[i]; }
const char *nested(int i) { return names[i]; }
const char *steady_nested(int i) { return same_names[i]; }
int converted(int x) { switch (x) { case 0: return 10; case 1: return 77; case 2: return 4; case 3: return P; case 4: return 12; case 5: return 1; } return 0; }
int steady_converted(int x) { switch (x) { case 0: return 11; case 1: return 77; case 2: return 4; case 3: return 9; case 4: return 12; case 5: return 1; } return 0; }
void op1(void) { } 
void op2(void) { asm volatile("pause"); }
struct ops { void (*op)(void); };
static const struct ops ops = { OP };
void call(const struct ops *);
void ops_user(void) { call(&ops); }
