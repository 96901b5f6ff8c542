// The kernel's walk over all tasks with a program that does nothing (iter/task): what a look at all of them cannot be
// below. Arguments: how often, and ms in which nothing happens before each. Prints ns, a line each.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int bpf(int command, union bpf_attr *attributes)
{
    return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static int failed(const char *what)
{
    perror(what);
    return 1;
}

// Bytes behind a type's record, by its kind (Documentation/bpf/btf.rst).
static size_t tail(const struct btf_type *type)
{
    size_t count = BTF_INFO_VLEN(type->info);

    switch (BTF_INFO_KIND(type->info)) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case 17: // BTF_KIND_DECL_TAG, since 5.16
        return 4;
    case BTF_KIND_ARRAY:
        return sizeof(struct btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
        return count * sizeof(struct btf_member);
    case BTF_KIND_ENUM:
    case BTF_KIND_FUNC_PROTO:
        return count * 8;
    case BTF_KIND_DATASEC:
    case 19: // BTF_KIND_ENUM64, since 6.0
        return count * 12;
    default:
        return 0;
    }
}

// Number of the function that stands for the iterator; 0: this kernel has none.
static uint32_t target(void)
{
    static char all[32 << 20];
    int file = open("/sys/kernel/btf/vmlinux", O_RDONLY);
    size_t length = 0;
    ssize_t got;

    while (file >= 0 && (got = read(file, all + length, sizeof all - length)) > 0)
        length += got;
    if (length < sizeof(struct btf_header))
        return 0;
    const struct btf_header *header = (void *)all;
    const char *at = all + header->hdr_len + header->type_off, *end = at + header->type_len;
    const char *names = all + header->hdr_len + header->str_off;

    for (uint32_t id = 1; at < end; id++) {
        const struct btf_type *type = (void *)at;

        if (BTF_INFO_KIND(type->info) == BTF_KIND_FUNC &&
            !strcmp(names + type->name_off, "bpf_iter_task"))
            return id;
        at += sizeof *type + tail(type);
    }
    return 0;
}

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    const struct bpf_insn nothing[] = {
        { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
        { .code = BPF_JMP | BPF_EXIT },
    };
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_TRACING,
        .expected_attach_type = BPF_TRACE_ITER,
        .insns = (uintptr_t)nothing,
        .insn_cnt = 2,
        .license = (uintptr_t)"GPL",
        .attach_btf_id = target(),
    };
    int program = bpf(BPF_PROG_LOAD, &load);

    if (program < 0)
        return failed("cannot load the program");
    union bpf_attr attach = {
        .link_create = { .prog_fd = program, .attach_type = BPF_TRACE_ITER },
    };
    int link = bpf(BPF_LINK_CREATE, &attach);

    if (link < 0)
        return failed("cannot attach it");
    for (int round = atoi(arguments[1]); round > 0; round--) {
        char byte;

        usleep(atoi(arguments[2]) * 1000);
        union bpf_attr create = { .iter_create = { .link_fd = link } };
        uint64_t begin = now();
        int walk = bpf(BPF_ITER_CREATE, &create);

        if (walk < 0 || read(walk, &byte, 1) < 0)
            return failed("cannot walk");
        printf("%llu\n", (unsigned long long)(now() - begin));
        close(walk);
    }
    return 0;
}
