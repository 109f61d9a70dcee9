// SPDX-License-Identifier: GPL-2.0-only
/*
 * probe KIND FUNCTION COMMAND…: watches a function of the kernel as perf and BPF do while COMMAND runs, and
 * prints how often it was seen. Ends with 1 if the kernel does not attach it, and says why.
 *
 *   fentry, fexit                a BPF program at its entry or exit, through a BPF trampoline
 *   perf-kprobe, perf-kretprobe  a counter at its entry or exit
 *   perf-callchain               how many samples of the CPUs' clock show it among the callers
 *
 * probe kexec KERNEL INITRD CMDLINE: begins another kernel.
 *
 * In C because these are system calls with structures of the kernel's own headers, and nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/perf_event.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CPUS 2
#define RING_PAGES 256

static void fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static char *whole_file(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY);
	size_t room = 0;
	char *text = NULL;
	ssize_t got;

	if (fd < 0)
		fail(path);
	*size = 0;
	do {
		if (room - *size < 4096) {
			room = room ? room * 2 : 1 << 20;
			text = realloc(text, room);
			if (!text)
				fail("memory");
		}
		got = read(fd, text + *size, room - *size - 1);
		if (got < 0)
			fail(path);
		*size += got;
	} while (got);
	text[*size] = '\0';
	close(fd);
	return text;
}

static void run(char **command)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail("fork");
	if (!child) {
		execvp(command[0], command);
		fail(command[0]);
	}
	waitpid(child, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("%s ended with status %#x\n", command[0], status);
		exit(2);
	}
}

/* Bytes that follow a type of BTF, by its kind. */
static size_t extra(const struct btf_type *type)
{
	size_t count = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return count * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return count * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return count * 12;
	case BTF_KIND_FUNC_PROTO:
		return count * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return count * sizeof(struct btf_var_secinfo);
	default:
		return 0;
	}
}

static unsigned int btf_id(const char *function)
{
	size_t size;
	char *btf = whole_file("/sys/kernel/btf/vmlinux", &size);
	struct btf_header *header = (void *)btf;
	char *types = btf + header->hdr_len + header->type_off;
	char *strings = btf + header->hdr_len + header->str_off;
	unsigned int id = 1;
	char *at;

	for (at = types; at < types + header->type_len; id++) {
		struct btf_type *type = (void *)at;

		if (BTF_INFO_KIND(type->info) == BTF_KIND_FUNC &&
		    !strcmp(strings + type->name_off, function))
			return id;
		at += sizeof(*type) + extra(type);
	}
	errno = ENOENT;
	fail("BTF");
	return 0;
}

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static unsigned long long trampoline(int exit, const char *function, char **command)
{
	struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = exit ? BPF_TRACE_FEXIT : BPF_TRACE_FENTRY,
		.attach_btf_id = btf_id(function),
		.insns = (unsigned long)code,
		.insn_cnt = 2,
		.license = (unsigned long)"GPL",
	};
	union bpf_attr stats = { .enable_stats.type = BPF_STATS_RUN_TIME };
	struct bpf_prog_info info = {};
	union bpf_attr attach = {}, ask = {};
	int program = bpf(BPF_PROG_LOAD, &load);

	if (program < 0)
		fail("BPF_PROG_LOAD");
	if (bpf(BPF_ENABLE_STATS, &stats) < 0)
		fail("BPF_ENABLE_STATS");
	attach.raw_tracepoint.prog_fd = program;
	if (bpf(BPF_RAW_TRACEPOINT_OPEN, &attach) < 0)
		fail("BPF_RAW_TRACEPOINT_OPEN");
	run(command);
	ask.info.bpf_fd = program;
	ask.info.info_len = sizeof(info);
	ask.info.info = (unsigned long)&info;
	if (bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) < 0)
		fail("BPF_OBJ_GET_INFO_BY_FD");
	return info.run_cnt;
}

static int perf_open(struct perf_event_attr *attr, pid_t pid, int cpu)
{
	int fd = syscall(SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		fail("perf_event_open");
	return fd;
}

/* One counter for each CPU: inherited, it would have children read the function's name from the memory of their own. */
static unsigned long long perf_probe(int exit, const char *function, char **command)
{
	size_t size;
	unsigned long long count, sum = 0;
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = atoi(whole_file("/sys/bus/event_source/devices/kprobe/type", &size)),
		.config = exit,
		.kprobe_func = (unsigned long)function,
	};
	int fds[CPUS], cpu;

	for (cpu = 0; cpu < CPUS; cpu++)
		fds[cpu] = perf_open(&attr, -1, cpu);
	run(command);
	for (cpu = 0; cpu < CPUS; cpu++) {
		if (read(fds[cpu], &count, sizeof(count)) != sizeof(count))
			fail("the counter");
		sum += count;
	}
	return sum;
}

/* From where to where a function is, by the symbol that follows. */
static void place(const char *function, unsigned long *start, unsigned long *end)
{
	size_t size;
	char *at = whole_file("/proc/kallsyms", &size), name[256];
	unsigned long address;

	*start = 0;
	*end = -1UL;
	for (char *line = strtok(strdup(at), "\n"); line; line = strtok(NULL, "\n"))
		if (sscanf(line, "%lx %*c %255s", &address, name) == 2 && !strcmp(name, function))
			*start = address;
	for (char *line = strtok(at, "\n"); line; line = strtok(NULL, "\n"))
		if (sscanf(line, "%lx", &address) == 1 && address > *start && address < *end)
			*end = address;
	if (!*start) {
		errno = ENOENT;
		fail(function);
	}
}

static unsigned long long perf_callchain(const char *function, char **command)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = 100000,
		.sample_type = PERF_SAMPLE_CALLCHAIN,
		.exclude_callchain_user = 1,
	};
	size_t page = getpagesize(), room = RING_PAGES * page;
	struct perf_event_mmap_page *rings[CPUS];
	unsigned long long seen = 0;
	unsigned long start, end;
	int cpu;

	for (cpu = 0; cpu < CPUS; cpu++) {
		int fd = perf_open(&attr, -1, cpu);

		rings[cpu] = mmap(NULL, page + room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (rings[cpu] == MAP_FAILED)
			fail("mmap");
	}
	run(command);
	place(function, &start, &end);
	for (cpu = 0; cpu < CPUS; cpu++) {
		unsigned long long at = 0, head = rings[cpu]->data_head;
		char *data = (char *)rings[cpu] + page;

		/* What does not fit is lost, and nothing is overwritten. */
		while (at < head) {
			struct perf_event_header *header = (void *)(data + at % room);
			unsigned long long *chain = (void *)(header + 1), i;

			if (header->type == PERF_RECORD_SAMPLE) {
				for (i = 1; i <= chain[0]; i++)
					if (chain[i] >= start && chain[i] < end)
						break;
				seen += i <= chain[0];
			}
			at += header->size;
		}
	}
	return seen;
}

static void begin_kernel(const char *kernel, const char *initrd, const char *cmdline)
{
	int kernel_fd = open(kernel, O_RDONLY), initrd_fd = open(initrd, O_RDONLY);

	if (kernel_fd < 0 || initrd_fd < 0)
		fail("kernel or initrd");
	if (syscall(SYS_kexec_file_load, kernel_fd, initrd_fd, strlen(cmdline) + 1, cmdline, 0))
		fail("kexec_file_load");
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	fail("reboot");
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	unsigned long long seen;

	if (argc == 5 && !strcmp(kind, "kexec"))
		begin_kernel(argv[2], argv[3], argv[4]);
	if (argc < 4) {
		fprintf(stderr, "usage: probe KIND FUNCTION COMMAND…\n");
		return 2;
	}
	setbuf(stdout, NULL);
	if (!strcmp(kind, "fentry") || !strcmp(kind, "fexit"))
		seen = trampoline(!strcmp(kind, "fexit"), argv[2], argv + 3);
	else if (!strcmp(kind, "perf-kprobe") || !strcmp(kind, "perf-kretprobe"))
		seen = perf_probe(!strcmp(kind, "perf-kretprobe"), argv[2], argv + 3);
	else if (!strcmp(kind, "perf-callchain"))
		seen = perf_callchain(argv[2], argv + 3);
	else
		return 2;
	printf("seen %llu\n", seen);
	return 0;
}
