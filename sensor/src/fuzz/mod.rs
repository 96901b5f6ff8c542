//! Fuzz targets: each does with foreign bytes what production does with them, and checks what must hold
//! of the result. `cargo xtask fuzz` runs them for as long as one likes, the tests here for a moment.

mod agents;
mod files;
mod findings;
mod frames;
mod kernel;
mod log;
mod parse;
mod project;
mod records;
mod text;

/// One decoder, or a few that read the same kind of bytes.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// What it decodes.
    pub about: &'static str,
    /// Panics if something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input, bytes.
    pub max_len: usize,
}

const fn target(
    name: &'static str,
    about: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    max_len: usize,
) -> Target {
    Target { name, about, run, seeds, max_len }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("config", "the configuration", files::config, files::configs, 4096),
    target("export", "an exported incident", files::export, files::exports, 4096),
    target("trace", "a lifecycle trace, and its replay", files::trace, files::traces, 4096),
    target(
        "observations",
        "observations of a log, and their replay",
        files::observations,
        files::many_observations,
        4096,
    ),
    target("numbers", "the file of reserved numbers", files::numbers, files::number_lines, 128),
    target("certificate", "a client's certificate, and PEM files", files::tls, files::pems, 4096),
    target("log", "the log's file, damaged", log::run, log::seeds, 256),
    target("record", "a stored record, as text and JSON", records::record, records::records, 4096),
    target("incident", "an incident, its story", records::incident, records::incidents, 4096),
    target("serve_frames", "what core and serve say", frames::serve, frames::asks, 4096),
    target("guardian_frames", "what core and guardian say", frames::guardian, frames::orders, 4096),
    target("event", "what the kernel side says", kernel::event, kernel::events, 1024),
    target("btf", "the kernel's type information", kernel::btf, kernel::btfs, 4096),
    target("proc", "files of /proc/PID, and socket tables", kernel::proc, kernel::procs, 1024),
    target("cgroup", "mounts, memberships and names", kernel::cgroup, kernel::cgroups, 1024),
    target("vitals", "pressure, load and memory", kernel::vitals, kernel::vital_files, 1024),
    target("kmsg", "lines of the kernel's log", kernel::kmsg, kernel::kernel_lines, 8192),
    target("oom_report", "the kernel's report of an OOM kill", kernel::oom, kernel::ooms, 8192),
    target("redaction", "text and arguments with secrets", text::redaction, text::secrets, 2048),
    target("rendering", "text for a model", text::rendering, text::renderings, 1024),
    target("agent", "what an agent writes", text::agent, text::agent_lines, 4096),
    target("agent_events", "events of agents' programs", agents::run, agents::seeds, 2048),
    target("elf", "symbols of an executable", parse::elf, parse::elfs, 16_384),
    target("stack", "maps, stacks and samples", parse::stack, parse::stacks, 2048),
    target("log_lines", "logs, the journal, a perf map", parse::lines, parse::texts, 4096),
    target("git", "git's index, HEAD and branches", parse::git, parse::repositories, 2048),
    target("parse_answers", "what sensor parse says", project::answer, project::answers, 2048),
    target("findings", "what an agent submits", findings::run, findings::seeds, 2048),
    target("project", "a culprit's files, as rules read them", project::run, project::seeds, 2048),
];

/// The first byte, which chooses among what a target can do, and the rest.
fn choice(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::TestRunner};

    use super::*;

    #[test]
    fn every_target_takes_its_seeds_whole_and_damaged() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            if target.name == "log" {
                // Damage is found by a thread, sooner or later: for the fuzzer, not for a test.
                (target.run)(b"");
                continue;
            }
            for seed in &seeds {
                assert!(seed.len() <= target.max_len, "{}: {}", target.name, seed.len());
                (target.run)(seed);
            }
            (target.run)(b"");
            let damage = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
            let config =
                ProptestConfig { cases: 20, failure_persistence: None, ..Default::default() };
            TestRunner::new(config)
                .run(&(prop::sample::select(seeds), damage), |(mut seed, (at, cut, byte))| {
                    if !seed.is_empty() {
                        let at = at.index(seed.len());
                        seed[at] = byte;
                        seed.truncate(cut.index(seed.len()) + 1);
                    }
                    (target.run)(&seed);
                    Ok(())
                })
                .unwrap_or_else(|error| panic!("{}: {error}", target.name));
        }
    }
}
