//! A recursion that stands among names: of its directory, its program's, its task.

use std::{fs, path::Path};

use anyhow::Result;

use super::Workload;

/// Runs itself again, 20 times a second.
const AGAIN: &str = "
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    usleep(50000);
    pid_t child = fork();
    if (child == 0) { execv(argv[0], argv); _exit(1); }
    waitpid(child, 0, 0);
    return argc != 1;
}
";

/// Runs in a directory of the one name; its program has the other in a directory of the third.
pub fn among(cwd: &str, program: &str, programs: &str) -> Result<Workload> {
    let mut work = Workload::new()?;
    let file = work.compile(&format!("{programs}/{program}"), AGAIN, &[])?;
    work.cwd = work.path().join(cwd);
    fs::create_dir(&work.cwd)?;
    Ok(work.runs([file]))
}

impl Workload {
    /// Runs it in this group, a cgroup v2 directory below that of its cage.
    #[must_use]
    pub fn in_group(mut self, group: &Path) -> Self {
        let enter = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
        let before = ["sh".into(), "-c".into(), enter.into(), group.into()];
        self.argv.splice(0..0, before);
        self
    }
}
