// Constants, flags, operands, conditions, and inserted code.
// function constant changed cmp
// function flag changed or
// function condition changed
// function member changed
// function inserted changed instruction 3: added test %edi,%edi
// function width changed
struct s { int a, b; long c; };
void extra(void); void other(void);
#ifdef V2
#define N 32
#define FLAG 0x80
int condition(int x, int y) { return x <= y ? 5 : y; }
int member(struct s *s) { return s->b; }
int inserted(int x) { if (x) { extra(); } other(); return x; }
unsigned width(unsigned char *p) { return *p; }
#else
#define N 16
#define FLAG 0x40
int condition(int x, int y) { return x < y ? 5 : y; }
int member(struct s *s) { return s->a; }
int inserted(int x) { other(); return x; }
unsigned width(unsigned char *p) { return *(unsigned short *)p; }
#endif
int constant(int x) { return x < N ? 1 : 2 * x; }
int flag(int x) { return x | FLAG; }
int same(int x) { return x < 16 ? 1 : 2 * x; }
int same_member(struct s *s) { return s->a; }
