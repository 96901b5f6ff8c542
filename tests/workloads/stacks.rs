//! Programs whose stacks should name the function that is to blame.

use anyhow::Result;

use super::Workload;

const SPINNING: &str = r"
#include <unistd.h>
volatile unsigned long turns;
__attribute__((noinline)) void parse_forever(void) { for (;;) turns++; }
int main(void) { parse_forever(); return 0; }
";

/// Keeps what it makes, 20 KB a turn, up to some 100 MB.
const NODE: &str = "const kept = [];
function hoardSessions() { for (let i = 0; i < 200; i++) kept.push(new Array(10).fill(i));
    if (kept.length > 1e6) kept.length = 0; }
for (;;) hoardSessions();
";

const PYTHON: &str = "import time
kept = []
class Cache:
    def remember_all(self):
        while True:
            kept.append(bytearray(4096))
            if len(kept) > 20000: kept.clear()
            time.sleep(0.0005)
Cache().remember_all()
";

/// A process with a page above its stack that nobody ever fills: whoever reads on to there waits.
const UNREADABLE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
__attribute__((noinline)) int hide(uintptr_t at, long page) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = { .api = UFFD_API };
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) { puts("none"); fflush(stdout); pause(); }
    /* All of the stack: a part of it would be a mapping of its own. What is there stays there. */
    unsigned long from = 0, to = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, "[stack]")) sscanf(line, "%lx-%lx", &from, &to);
    if (madvise((void *)at, page, MADV_DONTNEED)) return 1;
    struct uffdio_register it = { .range = { from, to - from }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    if (ioctl(fd, UFFDIO_REGISTER, &it)) return 2;
    write(1, "ready\n", 6);
    for (;;) pause();
}
int main(int argc, char **argv) {
    /* Its own frames are two pages further down. */
    volatile char apart[8192 + 4096];
    apart[0] = apart[sizeof apart - 1] = 0;
    long page = sysconf(_SC_PAGESIZE);
    return hide((uintptr_t)argv[argc - 1] & ~(page - 1), page);
}
"#;

/// Holds two thirds of what its group may have, and reads a file of twice the limit for ever: the group is at
/// its limit, and every page comes out of another's.
const THRASHING: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
volatile unsigned long turns;
__attribute__((noinline)) void read_again(int fd, char *piece, size_t size) {
    for (;;) { if (pread(fd, piece, size, (turns++ * size) % (200UL << 20)) < 0) _exit(1); }
}
int main(int argc, char **argv) {
    size_t size = 64UL << 20;
    char *held = malloc(size), *piece = malloc(1 << 20);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (argc < 2 || !held || !piece || fd < 0 || ftruncate(fd, 200L << 20)) return 1;
    memset(held, 1, size);
    for (int at = 0; at < 100; at++) if (pread(fd, piece, 1 << 20, (long)at << 20) < 0) return 1;
    write(1, "full\n", 5);
    read_again(fd, piece, 1 << 20);
    return held[0];
}
"#;

fn compiled(name: &str, source: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let program = work.compile(name, source, &["-O0"])?;
    Ok(work.runs([program]))
}

/// Spins in `parse_forever`.
pub fn spinning() -> Result<Workload> {
    compiled("spinning", SPINNING)
}

/// Leaks in `hoardSessions`.
pub fn node() -> Result<Workload> {
    let work = Workload::new()?;
    let file = work.write("leak.js", NODE)?;
    Ok(work.runs(["node".into(), "--perf-basic-prof".into(), file.into_os_string()]))
}

/// Leaks in `remember_all`.
pub fn python() -> Result<Workload> {
    let work = Workload::new()?;
    let file = work.write("leak.py", PYTHON)?;
    Ok(work.runs(["python3".into(), file.into_os_string()]))
}

/// Says `ready` when its stack cannot be read any more, `none` where the kernel has no such thing.
pub fn unreadable() -> Result<Workload> {
    compiled("unreadable", UNREADABLE)
}

/// What [`thrashing`] is made for, bytes.
pub const TIGHT: u64 = 96 << 20;

/// Keeps a group of [`TIGHT`] at its limit, and says `full` once it is.
pub fn thrashing() -> Result<Workload> {
    let mut work = compiled("thrashing", THRASHING)?;
    let file = work.path().join("read");
    work.argv.push(file.into_os_string());
    Ok(work)
}
