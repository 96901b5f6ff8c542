//! Memory that goes and is in no process: said plainly, because nobody can be named.

use super::{Claim, Told};
use crate::present::time::seconds;
use crate::{
    detect::memory::measures::{ANON, GROWN, OVER, TMPFS},
    present::text,
};

/// So much of what went has to be of a kind to be called that.
const MOST: f64 = 0.5;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    if told.finding.culprit.is_some() {
        return None;
    }
    let (grown, tmpfs) = (told.value(GROWN)?, told.value(TMPFS)?);
    let anon = told.bytes(ANON);
    let over = seconds(told.value(OVER)?);
    let start = format!(
        "{} of the host's memory have gone in {over}, of which processes took {anon}",
        told.bytes(GROWN)
    );
    let (cause, remedy) = if tmpfs >= grown * MOST {
        (
            format!(
                "{start} and files in memory (tmpfs, shared memory) {}. No process holds those: they stay \
                 when whoever wrote them ends.{}",
                told.bytes(TMPFS),
                told.forecast()
            ),
            "See what `df -t tmpfs` and `ls -lS /dev/shm /tmp /run` show, and remove what nobody needs; give \
             the tmpfs a size limit."
                .to_owned(),
        )
    } else {
        let rest = (grown - tmpfs).max(0.0) - told.value(ANON).unwrap_or(0.0);
        (
            format!(
                "{start} and tmpfs {}; {} are in no process and no file: the kernel or a driver holds \
                 them. Page cache is not among it: that counts as available.{}",
                told.bytes(TMPFS),
                text::bytes(rest.max(0.0) as u64),
                told.forecast()
            ),
            "Compare Slab, SUnreclaim, Percpu and VmallocUsed in /proc/meminfo with a host that is well, and \
             see `slabtop`: memory of graphics cards and other devices appears nowhere else."
                .to_owned(),
        )
    };
    Some(Claim { by: "host_memory", cause, remedy, confidence: 0.6, evidence: Vec::new() })
}
