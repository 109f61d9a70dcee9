// flags: -O2 -g -fno-pie -mcmodel=kernel -mno-red-zone -pg -mrecord-mcount -mfentry -fno-common -fno-jump-tables -fno-asynchronous-unwind-tables -mno-sse -fcf-protection=none -Wno-unused
// Without a section for each table `table[m - 1]` is an address in the one before.
// function month changed
// data days changed
static const long others[4] = {7, 7, 7, 7};
#ifdef V2
static const int days[12] = {31, 28, 31, 29, 31, 30, 31, 31, 30, 31, 30, 31};
#else
static const int days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
#endif
int month(long m) { return days[m - 1]; }
long other(long i) { return others[i]; }
