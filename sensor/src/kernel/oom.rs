//! The programs that see OOM kills, and who sends SIGKILL: attached as far as this kernel lets them, because the
//! rest does without.

use std::os::fd::OwnedFd;

use aya::{Ebpf, maps::Array};
use sensor_common::{layout::ABSENT, oom::Layout};

use super::{btf::Btf, load::attach_tracepoint};

/// What of it works; an error says why not.
#[derive(Clone, Debug)]
pub struct Kills {
    /// OOM kills are seen.
    pub victims: Result<(), String>,
    /// Who sends SIGKILL is seen.
    pub senders: Result<(), String>,
    /// What a victim held, and which limit was met, can be read; an error names what cannot.
    pub numbers: Result<(), String>,
}

/// Where this kernel keeps what is read of a victim, and what of it is nowhere.
pub fn layout(btf: &Btf) -> (Layout, Result<(), String>) {
    let mut missing = Vec::new();
    let (mm_rss, rss_step) = btf.counters().unwrap_or_else(|| {
        missing.push("mm_struct.rss_stat in a known form".to_owned());
        (ABSENT, ABSENT)
    });
    let mut offset = |structure: &str, member: &str| {
        btf.offset(structure, member).unwrap_or_else(|| {
            missing.push(format!("{structure}.{member}"));
            ABSENT
        })
    };
    let memory = btf.enumerator("memory_cgrp_id").map(u64::from);
    let subsystems = offset("css_set", "subsys");
    let layout = Layout {
        by_pid: u64::from(btf.is_pointer("mark_victim", 0) == Some(false)),
        task_comm: offset("task_struct", "comm"),
        task_cred: offset("task_struct", "cred"),
        cred_uid: offset("cred", "uid"),
        mm_rss,
        rss_step,
        signal_oom_score_adj: offset("signal_struct", "oom_score_adj"),
        // An array of pointers, by the controller's number.
        set_memory: memory.map_or(ABSENT, |number| subsystems.saturating_add(8 * number)),
        css_cgroup: offset("cgroup_subsys_state", "cgroup"),
        memcg_css: offset("mem_cgroup", "css"),
        memcg_counter: offset("mem_cgroup", "memory"),
        counter_usage: offset("page_counter", "usage"),
        counter_max: offset("page_counter", "max"),
        counter_parent: offset("page_counter", "parent"),
        siginfo_code: offset("kernel_siginfo", "si_code"),
    };
    if memory.is_none() {
        missing.push("memory_cgrp_id".into());
    }
    let all = missing.is_empty();
    (layout, if all { Ok(()) } else { Err(format!("this kernel has no {}", missing.join(", "))) })
}

/// Attaches them. Who sends comes first: of the OOM killer's own signal the mark after it makes use.
pub fn load_kills(
    ebpf: &mut Ebpf,
    btf: &aya::Btf,
    numbers: Result<(), String>,
) -> (Vec<OwnedFd>, Kills) {
    let mut links = Vec::new();
    let mut each = |ebpf: &mut Ebpf, name, tracepoint| {
        attach_tracepoint(ebpf, btf, name, tracepoint).map(|link| links.push(link))
    };
    let senders = each(ebpf, "sensor_signal", "signal_generate").and_then(|()| {
        // From here on a victim without a signal of the OOM killer's was ending already.
        let map = ebpf.map_mut("SENDERS").ok_or("the object has no map SENDERS")?;
        let mut seen = Array::<_, u32>::try_from(map).map_err(|error| error.to_string())?;
        seen.set(0, 1, 0).map_err(|error| error.to_string())
    });
    let victims = each(ebpf, "sensor_victim", "mark_victim");
    (links, Kills { victims, senders, numbers })
}
