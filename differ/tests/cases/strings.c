// Strings count by content, not by place.
// function message changed string "hello world" instead of "hello"
// function added changed
// function wide_name changed
// function wide_longer changed
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
// As EFI has its names (-fshort-wchar, L"SecureBoot"): a character's second byte is 0.
void wide(const unsigned short *);
void wide_same(void) { wide(u"same"); wide(u""); }
#ifdef V2
void wide_name(void) { wide(u"SecureBoot"); }
void wide_longer(void) { wide(u"db1"); }
#else
void wide_name(void) { wide(u"SetupMode"); }
void wide_longer(void) { wide(u"db"); }
#endif
const char *name(void) { return __func__; }
const char *name2(void) { return __func__; }
