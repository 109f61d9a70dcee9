// Two static locals of one name in one function, and one that moves to another function.
// function mixed changed refers to state.N instead of state.N
// function from removed
// function to new
// data moved.N removed
// data moved.N new
int number(int *);
int mixed(void)
{
	static int state = 5;
	int *outer = &state;

	number(outer);
	number(outer);
	{
		static int state = 9;
#ifdef V2
		number(outer);
#else
		number(&state);
#endif
		number(&state);
	}
	return 0;
}
#ifdef V2
int to(void) { static int moved; return number(&moved) + 2; }
#else
int from(void) { static int moved; return number(&moved) - 2; }
#endif
