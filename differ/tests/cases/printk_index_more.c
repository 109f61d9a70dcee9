// printk's index of formats (include/linux/printk.h, CONFIG_PRINTK_INDEX).
// One more, with the text of another one: what was there is told apart.
// data _entry.N new
// data _entry_ptr.N new
// data __func__.N new
// function more new
struct pi_entry { const char *fmt, *func, *file; unsigned line; const char *level, *prefix; } __attribute__((packed));
int print(const char *, ...);
#define printk(fmt) ({ \
	static const struct pi_entry __attribute__((used)) _entry = { fmt, __func__, __FILE__, __LINE__, 0, 0 }; \
	static const struct pi_entry *__attribute__((used, section(".printk_index"))) _entry_ptr = &_entry; \
	print(fmt); })
#ifdef V2
// Names of functions are all called `__func__`.
int more(int x) { return printk("no memory\n") * x; }
#endif
int kept(int x) { return printk("kept\n") + x; }
int failed(int x) { return printk("no memory\n") - x; }
