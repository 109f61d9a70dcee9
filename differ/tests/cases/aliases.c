// Several names of one function that part in v2, or come together: one entry serves them all in the running kernel.
// function split_foo refused split_bar and split_foo are one function in V1 and several in V2
// function split_bar refused
// function parted_foo refused
// function parted_bar refused keep them aliases in V2
// function joined_foo refused joined_bar and joined_foo are several functions in V1 and one in V2
// function joined_bar refused
// function moved_foo refused
// function moved_bar refused
// function together_bar changed ; entry
// function weak_own changed
// function a_second_name changed
// map equal_foo equal_foo
// map equal_bar equal_bar
// map together_foo together_foo
// map united_foo united_foo
int ext(int);
#define FUNCTION(name, n) __attribute__((no_icf, noinline)) int name(int x) { return ext(x) * n + 1; }
#define ALIAS(name, of) int name(int) __attribute__((alias(#of)));
#ifdef V2
// Of two that were one, the one changes; or the other; or none.
FUNCTION(split_foo, 5) FUNCTION(split_bar, 3)
FUNCTION(parted_foo, 3) FUNCTION(parted_bar, 5)
FUNCTION(equal_foo, 7) FUNCTION(equal_bar, 7)
FUNCTION(joined_bar, 3) ALIAS(joined_foo, joined_bar)
FUNCTION(united_bar, 9) ALIAS(united_foo, united_bar)
FUNCTION(together_foo, 5) ALIAS(together_bar, together_foo)
// A name more, the first of all, of a function that is as it was.
FUNCTION(named_bar, 11) ALIAS(named_foo, named_bar) ALIAS(a_name_more, named_bar)
FUNCTION(named_too, 17) ALIAS(a_second_name, named_too)
FUNCTION(moved_one, 13) ALIAS(moved_bar, moved_one) FUNCTION(moved_two, 15) ALIAS(moved_foo, moved_two)
#else
FUNCTION(split_foo, 3) ALIAS(split_bar, split_foo)
FUNCTION(parted_foo, 3) ALIAS(parted_bar, parted_foo)
FUNCTION(equal_foo, 7) ALIAS(equal_bar, equal_foo)
FUNCTION(joined_bar, 3) FUNCTION(joined_foo, 5)
FUNCTION(united_bar, 9) FUNCTION(united_foo, 9)
FUNCTION(together_foo, 3) ALIAS(together_bar, together_foo)
FUNCTION(named_bar, 11) ALIAS(named_foo, named_bar)
FUNCTION(named_too, 19)
FUNCTION(moved_one, 13) ALIAS(moved_foo, moved_one) FUNCTION(moved_two, 15) ALIAS(moved_bar, moved_two)
#endif
#ifdef V2
FUNCTION(weak_own, 21)
#else
FUNCTION(weak_own, 23)
#endif
int weak_name(int) __attribute__((weak, alias("weak_own")));
int calls_equal(int x) { return equal_bar(x) + equal_foo(x); }
int calls_united(int x) { return united_bar(x) + united_foo(x); }
int calls_split(int x) { return split_bar(x) + split_foo(x); }
int (*held[])(int) = { equal_foo, equal_bar, united_foo, split_bar };
// The cold part bears the name of the definition, the function that of the first alias.
void __attribute__((cold)) complain(const char *, int);
int with_cold(int x) { if (x < 0) { complain("bad", 1); ext(x); } return ext(x) + 1; }
ALIAS(a_with_cold, with_cold)
#ifdef V2
#define N 2
#else
#define N 1
#endif
// function a_changes_cold changed in the cold part
int changes_cold(int x) { if (x < 0) { complain("bad", N); ext(x); } return ext(x) + 1; }
ALIAS(a_changes_cold, changes_cold)
// Names of a static function and its global one stay together, as `init_module` does.
static __attribute__((used)) FUNCTION(started, 25)
ALIAS(init_module, started)
