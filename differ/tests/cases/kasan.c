// flags: -O2 -g -ffunction-sections -fdata-sections -fno-pie -mcmodel=kernel -mno-red-zone -pg -mrecord-mcount -mfentry -fno-asynchronous-unwind-tables -mno-sse -fno-common -fcf-protection=none -fsanitize=kernel-address -fasan-shadow-offset=0xdffffc0000000000 --param asan-globals=1 --param asan-instrumentation-with-call-threshold=0
// function limit changed
//
// KASAN's constructor of an object refers to a table of its variables, which has no name.

extern int use(const char *text, int *value);
static int counter = 3;
const char *name = "a name";

int limit(void)
{
#ifdef V2
	return counter + 5;
#else
	return counter + 4;
#endif
}

int bump(void)
{
	return use("bump", &counter);
}
