// What compilers and macros number is told apart without the number: V2 has more of each before.
// renumbered CSWTCH
// renumbered __func__
// renumbered __UNIQUE_ID_license
// renumbered __UNIQUE_ID___addressable_exported
// renumbered __UNIQUE_ID_counter
// function fresh_switch new
// function fresh_name new
// function fresh_name_too new
// function fresh_unique new
// function other_switch changed read-only data "CSWTCH" changed
// data CSWTCH.N new
// data CSWTCH.N changed
// data __func__.N new
// data __UNIQUE_ID_author0 changed
// data __UNIQUE_ID_counter3 new
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define UNIQUE(name) PASTE(__UNIQUE_ID_##name, __COUNTER__)
#define MODINFO(name, text) \
	static const char UNIQUE(name)[] __attribute__((used, section(".modinfo"), aligned(1))) = #name "=" text
int out(const char *, int);
int count(int *);
#ifdef V2
#define AUTHOR "Y"
#define LAST 9
#else
#define AUTHOR "X"
#define LAST 8
#endif
MODINFO(author, AUTHOR);
#ifdef V2
int fresh_switch(int x) { switch (x) { case 0: return 31; case 1: return 57; case 2: return 3; case 3: return 1; case 4: return 19; case 5: return 2; } return 0; }
int fresh_name(int x) { return out(__func__, x); }
enum { skipped = __COUNTER__ + __COUNTER__ };
// V1's variable of this name is another one.
static int UNIQUE(counter);
int fresh_unique(void) { return count(&__UNIQUE_ID_counter3) - 1; }
#endif
MODINFO(license, "GPL");
int exported(int x) { return x; }
static void *UNIQUE(__addressable_exported) __attribute__((used, section(".discard.addressable"))) = exported;
int converted(int x) { switch (x) { case 0: return 10; case 1: return 77; case 2: return 4; case 3: return 7; case 4: return 12; case 5: return 1; } return 0; }
int converted_too(int x) { switch (x) { case 0: return 11; case 1: return 78; case 2: return 5; case 3: return 8; case 4: return 13; case 5: return 2; } return 0; }
int other_switch(int x) { switch (x) { case 0: return 21; case 1: return 71; case 2: return 45; case 3: return 6; case 4: return 33; case 5: return LAST; } return 0; }
int named(int x) { return out(__func__, x); }
int named_too(int x) { return out(__func__, x) + 1; }
#define COUNTS(name, function) static int name; int function(void) { return count(&name); }
COUNTS(UNIQUE(counter), counts)
#ifdef V2
// gcc numbers names of functions from the last.
int fresh_name_too(int x) { return out(__func__, x) + 2; }
#endif
