// Strings count by content, not by place.
// function message changed string "hello world" instead of "hello"
// function added changed
void print(const char *);
#ifdef V2
void added(void) { print("something quite new"); print("before"); }
#else
void added(void) { print("before"); }
#endif
void moved(void) { print("the same old story"); print("before"); }
#ifdef V2
void message(void) { print("hello world"); }
#else
void message(void) { print("hello"); }
#endif
const char *name(void) { return __func__; }
const char *name2(void) { return __func__; }
