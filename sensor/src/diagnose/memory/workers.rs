//! Workers that pile up: who spawns them, what they run, how often, and that none ends.

use super::{Claim, Told};
use crate::present::time::seconds;
use crate::{
    detect::memory::measures::{BORN, HOLDS, MORE, OVER, WORKERS},
    present::text,
};

/// The growth of a tree is one of workers if so many more of them are there, ...
const FEWEST: f64 = 8.0;

/// ... and if the process itself has less than this part of it, percent.
const OWN_AT_MOST: f64 = 50.0;

/// A command below that is so often there is what piles up.
const ALIKE: usize = 4;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    let more = told.value(MORE)?;
    let by_count = told.finding.rule == "R4";
    let own = told.value(crate::detect::memory::measures::OWN).unwrap_or(0.0);
    if !by_count && (told.value(WORKERS)? < FEWEST || own > OWN_AT_MOST) {
        return None;
    }
    let over = told.value(OVER)?;
    let who = told.who();
    let pace = if over > 0.0 { more / over } else { 0.0 };
    let pace = match pace {
        often if often * 60.0 >= 1.0 => format!("{:.1} a minute", often * 60.0),
        seldom => format!("{:.1} an hour", seldom * 3600.0),
    };
    let workers = told.held.below.first().filter(|one| one.count >= ALIKE);
    let what = workers.map_or(String::new(), |one| {
        let command = match one.argv.as_slice() {
            [] => "processes without a command of their own".to_owned(),
            argv => told.words.command(argv),
        };
        let orphans = match one.orphans {
            0 => String::new(),
            all if all >= one.count => {
                ", all of them orphans that left their session or lost their parent".to_owned()
            }
            some => format!(", {some} of them orphans"),
        };
        format!(
            " {} of its processes are {command}{orphans}; they hold {}.",
            one.count,
            text::bytes(one.bytes)
        )
    });
    let ended = told.value(BORN).map_or(String::new(), |born| {
        let gone = (born - more).max(0.0);
        if gone < 1.0 {
            " None of those that were started ended.".to_owned()
        } else {
            format!(" Of {born:.0} that were started {gone:.0} ended.")
        }
    });
    let cause = format!(
        "{who} starts processes that stay: {more:.0} more in {} ({pace}).{ended}{what} Its tree holds {} now.{}",
        seconds(over),
        told.bytes(HOLDS),
        told.forecast()
    );
    let remedy = format!(
        "Let {who} end and wait for its workers when their work is done, or reuse them; a restart of it{} frees \
         them only if it ends them, orphans have to be ended by themselves.",
        told.pid()
    );
    let confidence = if workers.is_some() { 0.8 } else { 0.7 };
    Some(Claim { by: "worker_leak", cause, remedy, confidence, evidence: Vec::new() })
}
