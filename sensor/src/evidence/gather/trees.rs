//! What trees are called, and how much they hold: for lists that are made again every second.

use super::Gatherer;
use crate::{lineage::ProcessKey, proto::LiveTree};

/// Longest name of a task, bytes.
const COMM_MAX: usize = 15;

impl Gatherer {
    /// Name of the program that a process runs, escaped. `argv`: what the kernel side has of it, asked for
    /// where the process is gone.
    pub fn name(&self, key: ProcessKey, argv: impl FnOnce() -> Vec<Vec<u8>>) -> String {
        match self.proc.open(key) {
            Some(opened) => self.redactor.name(&opened.stat.comm),
            None => self.program_name(&argv()),
        }
    }

    /// As the kernel would call it.
    fn program_name(&self, argv: &[Vec<u8>]) -> String {
        let path = argv.first().map(Vec::as_slice).unwrap_or_default();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.redactor.name(&name[..name.len().min(COMM_MAX)])
    }

    /// The root of a tree as people know it; its numbers are for others to fill in.
    pub fn root(&self, key: ProcessKey, argv: impl FnOnce() -> Vec<Vec<u8>>) -> LiveTree {
        let mut argv = argv();
        let mut root = LiveTree { comm: self.program_name(&argv), ..LiveTree::default() };
        if let Some(opened) = self.proc.open(key) {
            root.comm = self.redactor.name(&opened.stat.comm);
            root.cgroup = self.cgroup(&opened);
            root.uid = Some(opened.status().uid);
            // Was there before the sensor.
            if argv.is_empty() {
                argv = opened.argv(self.limits.argv).0;
            }
        }
        root.argv = self.redactor.argv(&argv).0;
        root
    }

    /// Threads and anonymous memory, bytes, of these processes together; `None` where there was no time for
    /// all of them.
    pub fn totals(
        &self,
        processes: impl Iterator<Item = ProcessKey>,
        in_time: impl Fn() -> bool,
    ) -> Option<(u32, u64)> {
        let (mut threads, mut anon) = (0, 0);
        for key in processes {
            if !in_time() {
                return None;
            }
            // Who has gone meanwhile has neither.
            if let Some(opened) = self.proc.open(key) {
                threads += opened.stat.threads;
                anon += opened.status().anon;
            }
        }
        Some((threads, anon))
    }
}
