// Takes memory until there is none, while another process that has the same memory, and is no thread, sleeps; with
// an argument it is busy instead.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int sleeps(void *unused)
{
    (void)unused;
    for (;;)
        pause();
}

static int is_busy(void *unused)
{
    (void)unused;
    for (volatile unsigned long rounds = 0;; rounds++)
        ;
}

int main(int count, char **words)
{
    (void)words;
    enum { STACK = 64 << 10, PIECE = 1 << 20 };
    char *stack = malloc(STACK);
    if (!stack || clone(count > 1 ? is_busy : sleeps, stack + STACK, CLONE_VM | SIGCHLD, NULL) < 0)
        return 1;
    sleep(1);
    for (;;) {
        char *piece = malloc(PIECE);
        if (piece)
            memset(piece, 1, PIECE);
    }
}
