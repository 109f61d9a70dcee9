// Jump tables compare by where their entries lead.
// flags: -O2 -g -ffunction-sections -fdata-sections -fno-pie -mcmodel=kernel -mfentry -pg -mrecord-mcount -fno-asynchronous-unwind-tables -fcf-protection=none
// function swapped changed unnamed content of .rodata.swapped
void a(void); void b(void); void c(void); void d(void); void e(void);
void steady(int x) { switch (x) { case 0: a(); break; case 1: b(); break; case 2: c(); break; case 3: d(); break; case 4: e(); break; case 5: a(); b(); break; } }
#ifdef V2
#define X 1
#define Y 0
#else
#define X 0
#define Y 1
#endif
void swapped(int x) { switch (x) { case X: a(); break; case Y: b(); break; case 2: c(); break; case 3: d(); break; case 4: e(); break; case 5: a(); b(); break; } }
