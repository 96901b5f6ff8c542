//! What this kernel and this user can do: every capability is tried, never inferred from a version.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    process::{Pid, PidfdFlags},
};
use serde::Serialize;

use super::{Brake, Gear, Kernel, LoadError, LoadOptions, btf::Btf, oom::Kills, reader};
use crate::{
    cgroup::Hierarchies, core::survival, evidence::stacks::sample, vitals::pressure::try_trigger,
};

/// How well something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Working {
    Ok,
    /// Something else stands in for it.
    Degraded,
    Missing,
}

/// One thing that the sensor would like to be able to do.
#[derive(Clone, Debug, Serialize)]
pub struct Capability {
    pub name: &'static str,
    pub state: Working,
    /// What the sensor does with it.
    pub used_for: &'static str,
    /// What was found; for what does not work, why.
    pub why: String,
    /// What one can do about it; empty when nothing is to be done.
    pub remedy: &'static str,
}

/// Tries everything. Loads the programs a second time where a daemon runs already, and takes them
/// away again.
pub fn doctor(options: &LoadOptions) -> Vec<Capability> {
    let mut found = vec![type_information()];
    found.extend(programs(options));
    found.extend([
        realtime(),
        locked_memory(),
        oom_score(),
        pidfds(),
        hierarchy(),
        group_kill(),
        pressure(),
        triggers(),
        kernel_log(),
        perf_events(),
        beneath(),
    ]);
    found
}

fn capability(
    name: &'static str,
    used_for: &'static str,
    (bad, remedy): (Working, &'static str),
    result: Result<String, String>,
) -> Capability {
    match result {
        Ok(why) => Capability { name, state: Working::Ok, used_for, why, remedy: "" },
        Err(why) => Capability { name, state: bad, used_for, why, remedy },
    }
}

fn type_information() -> Capability {
    let result = Btf::of_kernel().and_then(|btf| btf.offsets());
    capability(
        "type information (BTF)",
        "where the kernel keeps what is read",
        (Working::Missing, "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions do"),
        result
            .map(|offsets| format!("{} fields found", offsets.len()))
            .map_err(|error| error.to_string()),
    )
}

/// Programs, baseline and self-test: what `run` itself does at start.
fn programs(options: &LoadOptions) -> Vec<Capability> {
    const TRACING: (&str, &str) = ("tracing programs", "seeing every fork, exec and exit");
    const UNDERSTUDIES: (&str, &str) =
        ("understudies", "seeing also what happens while a tracing program stands interrupted");
    const STALLS: (&str, &str) = ("reclaim tracepoints", "knowing who waits for memory");
    const BASELINE: (&str, &str) = ("task iterator", "knowing the processes from before the start");
    const MEMORY: (&str, &str) = ("memory sampling", "knowing whose memory grows");
    const SELF_TEST: (&str, &str) = ("self-test", "trusting what is read from kernel structures");
    let missing = (
        Working::Missing,
        "run as root; check `dmesg` and whether lockdown or seccomp forbids bpf()",
    );
    let baseline =
        (Working::Degraded, "processes from before the start are taken in when they next fork");
    let memory = (
        Working::Degraded,
        "nothing needs to be done: /proc tells the same, at 15 times the cost and without children that \
         nobody waits for",
    );
    let stalls = (
        Working::Degraded,
        "use a kernel with CONFIG_MEMCG=y; until then pressure is judged without the time in reclaim",
    );
    let understudies = (
        Working::Degraded,
        "allow perf_event_open(2) and fsopen(2) of tracefs; until then the kernel's list of tasks makes up for it, within a second",
    );
    match Kernel::start(options) {
        Ok(kernel) => {
            let bytes = kernel.programs.map_bytes();
            let tables =
                format!("loaded and attached; tables take {:.1} MiB", bytes as f64 / 1_048_576.0);
            let known = match &kernel.programs.no_baseline {
                None => Ok(format!("{} processes entered", kernel.baseline_processes)),
                Some(why) => Err(why.clone()),
            };
            let stand_in = kernel.programs.understudies.clone().map(|any| {
                let why =
                    if any { "attached" } else { "not needed: none is ever interrupted here" };
                why.to_string()
            });
            let mut found = vec![
                capability(TRACING.0, TRACING.1, missing, Ok(tables)),
                capability(UNDERSTUDIES.0, UNDERSTUDIES.1, understudies, stand_in),
                brake(&kernel.brake),
                capability(
                    STALLS.0,
                    STALLS.1,
                    stalls,
                    kernel.programs.stalls.clone().map(|()| "attached".into()),
                ),
                capability(BASELINE.0, BASELINE.1, baseline, known),
                capability(MEMORY.0, MEMORY.1, memory, measured(&kernel)),
                capability(
                    SELF_TEST.0,
                    SELF_TEST.1,
                    missing,
                    Ok("a child's fork, exec and exit were read right".into()),
                ),
            ];
            found.extend(kills(&kernel.programs.kills));
            found
        }
        Err(error @ LoadError::SelfTest(_)) => {
            vec![capability(SELF_TEST.0, SELF_TEST.1, missing, Err(error.to_string()))]
        }
        Err(error) => vec![capability(TRACING.0, TRACING.1, missing, Err(error.to_string()))],
    }
}

/// One look at who holds memory.
fn measured(kernel: &Kernel) -> Result<String, String> {
    let memory = kernel.programs.memory();
    if let Some(why) = memory.refused() {
        return Err(format!("from /proc: {why}"));
    }
    let failed = |error| format!("the look fails: {error}");
    // The first one is a walk, whatever comes later.
    drop(memory.look(&kernel.lineage).map_err(failed)?);
    let began = Instant::now();
    memory.look(&kernel.lineage).map_err(failed)?;
    let took = began.elapsed().as_secs_f64() * 1_000.0;
    let (by, processes) = (memory.by(), kernel.lineage.living_count());
    let not = memory.no_table().map(|why| format!("; not by table: {why}")).unwrap_or_default();
    Ok(format!("by {by}, {took:.2} ms for {processes} processes{not}"))
}

/// What of kills is seen.
fn kills(kills: &Kills) -> [Capability; 2] {
    let numbers = |()| match &kills.numbers {
        Ok(()) => "oom:mark_victim".to_owned(),
        Err(why) => format!("oom:mark_victim; some numbers are unknown: {why}"),
    };
    [
        capability(
            "OOM kills",
            "who was killed, who asked for memory, and which limit was met",
            (Working::Missing, "none: a kernel with the tracepoint oom:mark_victim is needed"),
            kills.victims.clone().map(numbers),
        ),
        capability(
            "senders of SIGKILL",
            "telling exit 137 from an OOM kill, and by whom it was",
            (
                Working::Degraded,
                "none: needs the tracepoint signal:signal_generate; until then a kill has no sender",
            ),
            kills.senders.clone().map(|()| "signal:signal_generate".into()),
        ),
    ]
}

/// The gear that passed its trial, and what is wrong with better ones.
fn brake(brake: &Brake) -> Capability {
    let better: Vec<String> =
        brake.refused().iter().map(|(gear, why)| format!("not \"{gear}\": {why}")).collect();
    let mut found = vec![brake.gear().to_string()];
    found.extend(better);
    let found = found.join("; ");
    let pauses = brake.gear() != Gear::Signals;
    capability(
        "pausing forks",
        "the brake: a tree stands before it has one process more",
        (
            Working::Degraded,
            "boot with `bpf` in lsm=, or leave kernel.brake at its default; until then each process \
             of a tree may have one child more before it stands",
        ),
        if pauses { Ok(found) } else { Err(found) },
    )
}

fn realtime() -> Capability {
    let result = thread::spawn(|| reader::become_realtime(reader::PRIORITY))
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the trial thread died")));
    capability(
        "real-time scheduling",
        "reacting within 1 ms under a fork bomb",
        (Working::Degraded, "give the service LimitRTPRIO=40 and CAP_SYS_NICE"),
        result.map(|()| "SCHED_FIFO granted".into()).map_err(|error| error.to_string()),
    )
}

fn locked_memory() -> Capability {
    let result = survival::lock_memory();
    if result.is_ok() {
        // SAFETY: changes how the kernel keeps our pages, nothing that a program could notice.
        unsafe { libc::munlockall() };
    }
    capability(
        "locked memory",
        "reacting while the host has no memory left",
        (Working::Degraded, "give the service CAP_IPC_LOCK"),
        result.map(|()| "granted".into()).map_err(|error| error.to_string()),
    )
}

fn oom_score() -> Capability {
    let result = survival::outlive().and_then(|()| survival::be_ordinary());
    capability(
        "OOM score",
        "living on when the kernel looks for somebody to kill",
        (Working::Degraded, "give the service OOMScoreAdjust=-900, or CAP_SYS_RESOURCE"),
        result.map(|()| "granted".into()).map_err(|error| error.to_string()),
    )
}

fn pidfds() -> Capability {
    let own = rustix::process::getpid();
    let result = rustix::process::pidfd_open(own, PidfdFlags::empty());
    let _: Pid = own;
    capability(
        "pidfds",
        "signalling exactly the process that is meant",
        (Working::Missing, "use Linux 5.10 or later; a seccomp filter may forbid pidfd_open"),
        result.map(|_| "granted".into()).map_err(|error| error.to_string()),
    )
}

fn hierarchy() -> Capability {
    let result = unified().and_then(|root| {
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))
            .map_err(|error| error.to_string())?;
        let controllers = controllers.trim();
        let controllers = if controllers.is_empty() { "no controllers" } else { controllers };
        Ok(format!("{} ({controllers})", root.display()))
    });
    capability(
        "cgroup v2",
        "scope, and freezing a tree that owns its cgroup as a whole",
        (Working::Degraded, "mount cgroup2; until then trees are stopped process by process"),
        result,
    )
}

fn unified() -> Result<PathBuf, String> {
    let hierarchies = Hierarchies::discover().map_err(|error| error.to_string())?;
    hierarchies.unified().map(Path::to_owned).ok_or_else(|| "cgroup2 is not mounted".to_owned())
}

/// `cgroup.kill` exists in every group but the root.
fn group_kill() -> Capability {
    let result = unified().and_then(|root| {
        let mut groups = fs::read_dir(root).map_err(|error| error.to_string())?;
        let group = groups
            .find_map(|entry| entry.ok().map(|entry| entry.path()).filter(|path| path.is_dir()))
            .ok_or("there is no cgroup below the root to look at")?;
        if group.join("cgroup.kill").exists() {
            Ok("cgroup.kill is there".into())
        } else {
            Err("this kernel has no cgroup.kill (Linux 5.14)".to_owned())
        }
    });
    capability(
        "killing a cgroup at once",
        "`sensor kill`, and ending investigations",
        (Working::Degraded, "processes are killed one by one until none is left"),
        result,
    )
}

fn pressure() -> Capability {
    readable(
        "pressure stall information",
        "how the host was doing at the moment of an incident",
        "/proc/pressure/memory",
        "boot with psi=1",
    )
}

fn triggers() -> Capability {
    capability(
        "PSI triggers",
        "being woken as soon as processes wait for memory",
        (
            Working::Degraded,
            "give the service CAP_SYS_RESOURCE, or use Linux 5.2 or newer with psi=1; until then waiting is \
             seen a second or two later",
        ),
        try_trigger(Path::new("/proc")),
    )
}

fn kernel_log() -> Capability {
    readable(
        "kernel log",
        "what the kernel said around an incident",
        "/dev/kmsg",
        "give the service CAP_SYSLOG and access to /dev/kmsg",
    )
}

fn perf_events() -> Capability {
    capability(
        "perf events",
        "what a culprit's running threads do",
        (Working::Degraded, "give the service CAP_PERFMON, or CAP_SYS_ADMIN before Linux 5.8"),
        sample::probe()
            .map(|()| "every CPU can be sampled".to_owned())
            .map_err(|error| format!("{error}; only threads that wait are shown")),
    )
}

fn readable(
    name: &'static str,
    used_for: &'static str,
    path: &str,
    remedy: &'static str,
) -> Capability {
    let result =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| {
                let mut buffer = [0; 1024];
                match rustix::io::read(&file, &mut buffer) {
                    // An empty log is a readable one.
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::PIPE) => Ok(0),
                    other => other,
                }
            });
    capability(
        name,
        used_for,
        (Working::Degraded, remedy),
        result.map(|_| format!("{path} can be read")).map_err(|error| format!("{path}: {error}")),
    )
}

/// `openat2` with `RESOLVE_BENEATH`.
fn beneath() -> Capability {
    let result = rustix::fs::openat2(
        rustix::fs::CWD,
        Path::new("."),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    );
    capability(
        "openat2",
        "reading a culprit's files without being led astray",
        (Working::Degraded, "without it no files are read and diagnoses are less exact"),
        result.map(|_| "granted".into()).map_err(|error| error.to_string()),
    )
}
