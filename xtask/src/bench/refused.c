// A process with much memory that forks: `refused MIB ATTEMPTS` says `ready`, waits for a line, tries so
// often, and prints how many forks were refused and how much CPU time all of them took, ns.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long spent(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t bytes = strtoull(argv[1], NULL, 10) << 20;
    char *memory = malloc(bytes);
    if (!memory)
        return 1;
    memset(memory, 1, bytes);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    long attempts = atol(argv[2]), refused = 0;
    long long begin = spent();
    for (long i = 0; i < attempts; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        if (child > 0)
            waitpid(child, NULL, 0);
        else if (errno == EAGAIN)
            refused++;
        else
            return 1;
    }
    printf("%ld %lld\n", refused, spent() - begin);
    return memory[bytes - 1] != 1;
}
