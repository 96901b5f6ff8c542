//! Many honest trees: none of them leaks, together they are too many.

use super::{Claim, Told};
use crate::{
    detect::{
        group::By,
        memory::measures::{GROWN, HOLDS, LIMIT},
    },
    present::text,
};

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    let group = told.finding.group.as_ref()?;
    let count = group.members.len();
    let user = group.user.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    let trees = match group.by {
        By::Executable => format!("{count} × {}{user}", told.who()),
        By::Session => format!("{count} trees of session {}{user}", group.shared),
        By::User => format!("{count} trees of user {}", group.shared),
        By::Cgroup => format!("{count} trees of one cgroup{user}"),
    };
    let each = match told.held.roots.as_slice() {
        [largest, .., least] => format!(
            " Each has its share, between {} and {} of its own.",
            text::bytes(*least),
            text::bytes(*largest)
        ),
        _ => String::new(),
    };
    let (room, more) = match told.value(LIMIT) {
        Some(_) => {
            ("the limit that they share", ", raise the limit of the cgroup that they share,")
        }
        None => ("this host", ","),
    };
    let cause = format!(
        "{trees} hold {} together, {} more than before ({}), and no single one of them carries that: there \
         are too many for {room}.{each}{}",
        told.bytes(HOLDS),
        told.bytes(GROWN),
        told.pace(),
        told.forecast()
    );
    let remedy = format!(
        "Run fewer of them at a time{more} or give each a limit (`systemd-run --user -p MemoryMax=2G`), so that one \
         that grows is stopped before all are."
    );
    Some(Claim { by: "many_trees", cause, remedy, confidence: 0.7, evidence: Vec::new() })
}
