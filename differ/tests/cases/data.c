// Data: initialisers, sizes, kinds.
// data value changed byte 0x0 is 0x02 instead of 0x01
// data buffer resized 16 bytes instead of 8
// retyped buffer static char[8] → char[16]
// function reader changed
// data added_data new
// data dropped removed
// data table changed refers to two instead of one
// data limit changed
// data zeroed changed byte
int one(int x) { return x; }
int two(int x) { return x + 1; }
#ifdef V2
int value = 2; char buffer[16]; int added_data = 4; int (*table[])(int) = { two }; int zeroed = 7;
#else
int value = 1; char buffer[8]; int dropped = 4; int (*table[])(int) = { one }; int zeroed;
#endif
int steady = 3;
int *pointer_same = &steady;
#ifdef V2
const int limit = 11;
#else
const int limit = 10;
#endif
int reader(int i) { return ((volatile const int *)&limit)[0]; }
int value_reader(int i) { return value + buffer[i]; }
