//! Memory that goes and is in no process (M6): files in memory (tmpfs), what the kernel holds, drivers. Told
//! of the host, without a culprit: that it goes can be seen, who has it cannot.

use super::{
    Limits,
    measures::{self, measure},
    rings::Point,
    room::Room,
    series::{Growth, Series, Window},
};
use crate::proto::{HostMemory, Measure};

/// Of what went so many percent have to be in no process.
const OUTSIDE_PERCENT: u64 = 50;

/// A host as the rings keep it: `bytes` what is not available, `root_bytes` what processes have of their
/// own and what is swapped out, `limit_used` shared memory and tmpfs.
pub fn point(host: &HostMemory) -> Point {
    let total = host.total_bytes.unwrap_or(0);
    Point {
        bytes: total.saturating_sub(host.available_bytes.unwrap_or(total)),
        root_bytes: host.anon_bytes.unwrap_or(0).saturating_add(swapped(host)),
        limit_used: host.shmem_bytes.unwrap_or(0),
        ..Point::default()
    }
}

fn swapped(host: &HostMemory) -> u64 {
    host.swap_total_bytes.unwrap_or(0).saturating_sub(host.swap_free_bytes.unwrap_or(0))
}

/// What trees hold of a host, as their growth is compared with it: their own, swapped out or not, and what
/// they share.
pub fn in_processes(point: &Point) -> u64 {
    point.root_bytes.saturating_add(point.limit_used)
}

/// What is not available and in no process.
pub fn outside(point: &Point) -> u64 {
    point.bytes.saturating_sub(point.root_bytes)
}

/// Growth of a host that is mostly outside of processes.
pub fn found(
    host: &Series,
    growth: &Growth,
    room: &Room,
    now: &HostMemory,
    limits: &Limits,
) -> Option<Vec<Measure>> {
    let own = host.grown(growth.window, |point| point.root_bytes);
    let outside = growth.grown.saturating_sub(own);
    let share = u128::from(outside) * 100 / u128::from(growth.grown.max(1));
    if share < u128::from(OUTSIDE_PERCENT) || matches!(growth.window, Window::Fast) {
        return None;
    }
    let horizon = Some(limits.slow_s as f64);
    let least = room.notable(limits);
    let share = (share as u64, OUTSIDE_PERCENT as u32);
    let mut told = measures::of_growth(growth, room, (least, horizon), share, 0);
    let tmpfs = host.grown(growth.window, |point| point.limit_used);
    told.push(measure(measures::TMPFS, tmpfs as f64, None, "bytes"));
    told.push(measure(measures::ANON, own as f64, None, "bytes"));
    told.push(measure(measures::SWAP, swapped(now) as f64, None, "bytes"));
    Some(told)
}
