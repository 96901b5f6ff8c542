//! Nobody grew by as much as was short: tmpfs, the kernel itself, a driver, or too many that are all honest.

use super::{Case, Claim, Words, size, span};
use crate::{
    detect::oom::culprit::{HALF, lost},
    proto::{HostMemory, OomScope},
};

pub(super) fn explain(case: &Case<'_>, _: &Words<'_>) -> Option<Claim> {
    if case.culprit.is_some() || case.oom.scope() == OomScope::Cgroup {
        return None;
    }
    let (before, after, ns) = case.host?;
    let grown = |field: fn(&HostMemory) -> Option<u64>| {
        field(&after)?.checked_sub(field(&before)?).filter(|bytes| *bytes > 0)
    };
    let fallen = before.available_bytes?.saturating_sub(after.available_bytes?);
    let most = case.oom.holders.iter().map(|holder| holder.grown_bytes).max().unwrap_or_default();
    if most >= lost(&before, &after)? / HALF {
        return None;
    }
    let mut parts = Vec::new();
    for (what, bytes) in [
        ("shared memory with tmpfs", grown(|host| host.shmem_bytes)),
        ("the kernel's own memory", grown(|host| host.unreclaimable_bytes)),
        ("the memory of all processes together", grown(|host| host.anon_bytes)),
    ] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes >= fallen / 10) {
            parts.push(format!("{what} grew by {}", size(bytes)));
        }
    }
    let what = if parts.is_empty() {
        "nothing that the kernel counts grew by as much, so that a driver may hold it".to_owned()
    } else {
        super::super::words::list(&parts)
    };
    Some(Claim {
        by: "oom_unattributed",
        cause: format!(
            " No tree of processes carries it: in the {} before, available memory fell by {}, and {what}.",
            span(ns),
            size(fallen),
        ),
        remedy: "Look for files in tmpfs (`df -t tmpfs`), for slabs that grow (`slabtop`), and for drivers that \
                 allocate memory on behalf of programs."
            .into(),
        confidence: 0.5,
        evidence: Vec::new(),
    })
}
