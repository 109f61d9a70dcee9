// printk's index of formats (include/linux/printk.h, CONFIG_PRINTK_INDEX): a line is no change, a format is one.
// shift
// data _entry.N changed at 0x0: string "other\n" instead of "one\n"
// function reworded changed string "other\n" instead of "one\n"
struct pi_entry { const char *fmt, *func, *file; unsigned line; const char *level, *prefix; } __attribute__((packed));
int print(const char *, ...);
#define printk(fmt) ({ \
	static const struct pi_entry __attribute__((used)) _entry = { fmt, __func__, __FILE__, __LINE__, 0, 0 }; \
	static const struct pi_entry *__attribute__((used, section(".printk_index"))) _entry_ptr = &_entry; \
	print(fmt); })
#ifdef V2
#define TEXT "other\n"
#else
#define TEXT "one\n"
#endif
int reworded(int x) { return printk(TEXT) + x; }
int kept(int x) { return printk("kept\n") + x; }
int failed(int x) { return printk("no memory\n") - x; }
