// Jump tables of one section: where each lies in it is no change, what is in it is one of its function only.
// flags: -O2 -g -fno-pie -mcmodel=kernel -mfentry -pg -mrecord-mcount -fno-asynchronous-unwind-tables -fcf-protection=none -fno-toplevel-reorder
// function fresh new
// function swapped changed unnamed content of .rodata changed
void a(void); void b(void); void c(void); void d(void); void e(void);
#define TABLE(name, x, y, more) \
	void name(int i) { switch (i) { case x: a(); break; case y: b(); break; case 2: c(); break; case 3: d(); break; case 4: e(); break; case 5: a(); b(); break; more } }
#define FIRST TABLE(first, 0, 1, )
#define SECOND TABLE(second, 1, 0, case 6: c(); d(); break;)
#ifdef V2
TABLE(fresh, 0, 1, case 6: e(); d(); break; case 7: c(); e(); break;)
SECOND
TABLE(swapped, 1, 0, )
FIRST
#else
FIRST
TABLE(swapped, 0, 1, )
SECOND
#endif
TABLE(last, 0, 1, case 6: b(); c(); break; case 7: d(); c(); break; case 8: e(); a(); break;)
