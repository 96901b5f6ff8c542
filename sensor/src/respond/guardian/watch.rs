//! What the guardian watches over, and what is due. Pure: time comes in.

use sensor_proto::internal::v1::Arm;

/// Something to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// Let it run; the brake stays.
    Thaw(Arm),
    /// The brake has expired.
    Release(Arm),
}

/// The dead-man's timers.
#[derive(Debug, Default)]
pub struct Watch {
    armed: Vec<(Arm, Stage)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Frozen,
    Thawed,
}

impl Watch {
    /// Takes an order in the place of an earlier one for the same mark.
    pub fn arm(&mut self, mut arm: Arm) {
        arm.release_ns = arm.release_ns.max(arm.thaw_ns);
        self.armed.retain(|(other, _)| other.mark != arm.mark);
        self.armed.push((arm, Stage::Frozen));
    }

    pub fn disarm(&mut self, incident: &str) {
        self.armed.retain(|(arm, _)| arm.incident != incident);
    }

    pub fn is_empty(&self) -> bool {
        self.armed.is_empty()
    }

    pub fn armed(&self) -> impl Iterator<Item = &Arm> {
        self.armed.iter().map(|(arm, _)| arm)
    }

    /// Boot clock of what is due next, ns.
    pub fn next(&self) -> Option<u64> {
        let due = |(arm, stage): &(Arm, Stage)| match stage {
            Stage::Frozen => arm.thaw_ns,
            Stage::Thawed => arm.release_ns,
        };
        self.armed.iter().map(due).min()
    }

    /// What is due at `now_ns`, each thing once.
    pub fn due(&mut self, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        for (arm, stage) in &mut self.armed {
            if *stage == Stage::Frozen && now_ns >= arm.thaw_ns {
                *stage = Stage::Thawed;
                due.push(Due::Thaw(arm.clone()));
            }
            if *stage == Stage::Thawed && now_ns >= arm.release_ns {
                due.push(Due::Release(arm.clone()));
            }
        }
        self.armed.retain(|(arm, stage)| *stage == Stage::Frozen || now_ns < arm.release_ns);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(incident: &str, mark: u32, thaw_ns: u64, release_ns: u64) -> Arm {
        Arm { incident: incident.to_owned(), mark, thaw_ns, release_ns, ..Arm::default() }
    }

    #[test]
    fn thaws_then_releases_each_once() {
        let mut watch = Watch::default();
        let order = arm("a", 1, 10, 30);
        watch.arm(order.clone());
        assert_eq!((watch.next(), watch.due(9)), (Some(10), vec![]));
        assert_eq!(watch.due(10), [Due::Thaw(order.clone())]);
        assert_eq!((watch.next(), watch.due(29)), (Some(30), vec![]));
        assert_eq!(watch.due(31), [Due::Release(order)]);
        assert!(watch.is_empty());
        assert_eq!((watch.next(), watch.due(u64::MAX)), (None, vec![]));
    }

    #[test]
    fn after_a_long_sleep_both_are_due() {
        let mut watch = Watch::default();
        let order = arm("a", 1, 10, 30);
        watch.arm(order.clone());
        assert_eq!(watch.due(100), [Due::Thaw(order.clone()), Due::Release(order)]);
    }

    #[test]
    fn a_new_order_replaces_the_old_one_and_starts_anew() {
        let mut watch = Watch::default();
        watch.arm(arm("a", 1, 10, 50));
        assert_eq!(watch.due(10).len(), 1);
        // Frozen again, for twice as long.
        watch.arm(arm("a", 1, 40, 50));
        watch.arm(arm("b", 2, 20, 20));
        assert_eq!(watch.armed().count(), 2);
        assert_eq!(watch.next(), Some(20));
        watch.disarm("b");
        assert_eq!(watch.due(39), []);
        assert!(matches!(watch.due(40).as_slice(), [Due::Thaw(_)]));
    }

    #[test]
    fn a_brake_never_expires_before_the_thaw() {
        let mut watch = Watch::default();
        watch.arm(arm("a", 1, 10, 5));
        assert_eq!(watch.due(9), []);
        assert_eq!(watch.due(10).len(), 2);
    }
}
