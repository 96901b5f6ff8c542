// What a shell or a build does all day, and nothing else: `spawn WHAT MILLISECONDS` repeats it for
// so long and prints how often, and how many nanoseconds it took in all.
//   exec   vfork, exec of this program with `end`, exit, wait
//   vfork  vfork, exit, wait
//   fork   fork, exit, wait
//   touch  map 16 MiB, touch each page, unmap
// Static and small: the cost of a fork is the size of who forks. On one CPU, the last, so that no
// block pays for a migration that another does not.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// A fault for each page, also where larger ones could be had.
static int touch(void)
{
    enum { BYTES = 16 << 20, PAGE = 4096 };
    char *pages = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return 1;
    (void)madvise(pages, BYTES, MADV_NOHUGEPAGE);
    for (long at = 0; at < BYTES; at += PAGE)
        ((volatile char *)pages)[at] = 1;
    return munmap(pages, BYTES);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "end"))
        return 0;
    if (argc != 3)
        return 2;
    cpu_set_t last_cpu;
    CPU_ZERO(&last_cpu);
    CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &last_cpu);
    // Where that CPU is not ours, any will do.
    (void)sched_setaffinity(0, sizeof last_cpu, &last_cpu);
    int exec = !strcmp(argv[1], "exec"), touches = !strcmp(argv[1], "touch"), with_vfork = strcmp(argv[1], "fork");
    char *child_argv[] = {argv[0], "end", NULL}, *environment[] = {NULL};
    long long begin = now(), end = begin + atoll(argv[2]) * 1000000LL, last;
    // The child of a vfork shares our stack.
    volatile long count = 0;
    do {
        if (touches) {
            if (touch() != 0)
                return 1;
            count++;
            last = now();
            continue;
        }
        // Called in place: a vfork must not return from a function.
        pid_t child = with_vfork ? vfork() : fork();
        if (child < 0)
            return 1;
        if (child == 0) {
            if (exec)
                execve("/proc/self/exe", child_argv, environment);
            _exit(exec);
        }
        int status;
        if (waitpid(child, &status, 0) != child || status != 0)
            return 1;
        count++;
        last = now();
    } while (last < end);
    printf("%ld %lld\n", count, last - begin);
    return 0;
}
