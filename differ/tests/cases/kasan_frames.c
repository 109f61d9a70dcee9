// flags: -O2 -g -ffunction-sections -fdata-sections -fno-pie -mcmodel=kernel -mno-red-zone -pg -mrecord-mcount -mfentry -fno-asynchronous-unwind-tables -mno-sse -fno-common -fcf-protection=none -fsanitize=kernel-address -fasan-shadow-offset=0xdffffc0000000000 --param asan-stack=1 --param asan-globals=1 --param asan-instrumentation-with-call-threshold=0
// function renamed changed
// function text changed
//
// KASAN's descriptions of stack frames hold the lines of the variables.

extern int use(void *value);
extern int show(const char *text);

#ifdef V2
#line 995
#endif

int shifted(void)
{
	int value = 1;
	long others[4] = { 0 };

	return use(&value) + use(others);
}

int renamed(void)
{
#ifdef V2
	int worth = 1;

	return use(&worth);
#else
	int value = 1;

	return use(&value);
#endif
}

int text(void)
{
#ifdef V2
	return show("1 32 4 7 value:9x");
#else
	return show("1 32 4 7 value:8x");
#endif
}
