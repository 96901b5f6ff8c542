// A crowd: `crowd N` makes N children that wait for ever, prints "ready N" with the number that it
// could make, and waits for them. The children die with it.
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    long wanted = argc > 1 ? atol(argv[1]) : 0, made = 0;
    for (; made < wanted; made++) {
        pid_t child = fork();
        if (child < 0)
            break;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                pause();
        }
    }
    printf("ready %ld\n", made);
    fflush(stdout);
    while (wait(NULL) > 0)
        ;
    return 0;
}
