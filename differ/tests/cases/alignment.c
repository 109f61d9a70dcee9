// Alignment that the source asks for, of variables and of types: all of one size and content.
// data raised changed alignment 64 instead of that of its type
// data lowered changed alignment that of its type instead of 64
// data wider changed alignment 64 instead of 32
// data buffer.N changed alignment 64 instead of that of its type
// data of_type changed alignment 64 instead of that of its type
// data in_array changed alignment 64 instead of that of its type
// data of_typedef changed alignment 4 instead of that of its type
// layout typedef compat_u64 added
// retyped of_typedef static long long unsigned int → compat_u64
// data constant changed alignment 64 instead of that of its type
// data of_assembly changed alignment 32 instead of 8
// data declared changed alignment 64 instead of 8
// data table changed alignment 64 instead of that of its type
// layout struct line changed alignment None → Some(64)
// layout struct holder changed alignment None → Some(64)
// layout struct loose changed alignment Some(64) → None
// layout struct by_member changed alignment None → Some(64)
// layout typedef unnamed changed alignment None → Some(64)
// instance struct line in_array static struct line[1]
// instance struct line of_type static struct line
// embeds struct line holder
#ifdef V2
#define NEW __attribute__((aligned(64)))
#define OLD
#define BYTES 64
#define ALIGN "32"
typedef unsigned long long __attribute__((aligned(4))) compat_u64;
#else
#define NEW
#define OLD __attribute__((aligned(64)))
#define BYTES 32
#define ALIGN "8"
#define compat_u64 unsigned long long
#endif
typedef unsigned long long u64;
struct line { u64 a[8]; } NEW;
struct loose { u64 a[8]; } OLD;
struct holder { struct line line; };
struct by_member { u64 a[8] NEW; };
typedef struct { u64 a[8]; } NEW unnamed;
static struct { u64 a, b; } raised NEW;
static struct { u64 a, b; } lowered OLD;
static struct { u64 a, b; } wider __attribute__((aligned(BYTES)));
static struct { u64 a, b; } same __attribute__((aligned(64)));
struct line of_type, in_array[1];
compat_u64 of_typedef = 5;
const u64 constant NEW = 7;
extern u64 declared;
u64 declared NEW = 3;
char large[4096]; u64 natural;
int f(int);
int (*table[])(int) NEW = { f };
asm(".pushsection .data.of_assembly,\"aw\"\n.balign " ALIGN "\n.type of_assembly,@object\n.size of_assembly,8\nof_assembly: .quad 1\n.popsection");
void *p(int i)
{
  static char buffer[8] NEW;
  struct loose *l = 0; struct holder *h = 0; struct by_member *m = 0; unnamed *u = 0;
  same.a = i;
  return i == 1 ? (void *)&raised : i == 2 ? (void *)&lowered : i == 3 ? (void *)&wider : i ? (void *)&same : buffer;
}
