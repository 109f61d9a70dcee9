// Types that hold a changed type by value, to any depth, and variables that hold one of them.
// layout struct changed changed b added
// embeds struct changed array struct array.list[]
// embeds struct changed either union either.c
// embeds struct changed aka aka
// embeds struct changed keeper struct keeper.k aka
// embeds struct changed middle struct middle.unnamed.in
// embeds struct changed outer struct outer.m[] struct middle.unnamed.in
// instance struct changed one static struct changed
// instance struct changed table static struct array[2]
// instance struct changed of_cpu per-cpu struct changed
// instance struct changed elsewhere extern struct changed
// instance struct changed local stack in user struct outer
// instance struct changed by_value stack in take struct changed
// instance struct changed once static in user struct keeper
// data once.N resized
// data table resized
// data of_cpu resized
// data one resized
// function user changed
// layout typedef aka changed
// embeds typedef aka keeper struct keeper.k
// instance typedef aka once static in user struct keeper
// layout struct array changed list resized
// instance struct array table static struct array[2]
// layout struct keeper changed k resized
// instance struct keeper once static in user struct keeper
// layout struct middle changed unnamed.in resized, unnamed resized+retyped
// embeds struct middle outer struct outer.m[]
// instance struct middle local stack in user struct outer
// layout struct outer changed m resized
// instance struct outer local stack in user struct outer
// layout union either changed c resized
struct changed {
	int a;
#ifdef V2
	int b;
#endif
};
typedef struct changed aka;
struct array { struct changed list[3]; };
union either { long l; const volatile struct changed c; };
struct keeper { aka k; };
struct middle { struct { int before; struct changed in; } unnamed; };
struct outer { struct middle m[2]; };
struct pointer { struct changed *p; union either *q; };
struct changed one;
struct array table[2];
struct pointer pointer;
extern struct changed elsewhere;
__attribute__((section(".data..percpu"))) struct changed of_cpu;
void use(void *);
int take(struct changed by_value) { return by_value.a; }
void user(void)
{
	static struct keeper once;
	struct outer local;
	union either *unused = 0;
	use(&local); use(&once); use(&elsewhere); use(&of_cpu); use(unused); use(&pointer);
}
