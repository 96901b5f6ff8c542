//! What all gates say: which rule was crossed, and how far.

/// How far a gate has been crossed. Ordered.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Calm = 0,
    /// Worth looking at: the tree's execs are recorded.
    Watch = 1,
    /// Worth an incident.
    Open = 2,
    /// Worth stopping.
    Contain = 3,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Calm, Self::Watch, Self::Open, Self::Contain];

    /// The level that an event names.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u16 == number)
    }
}

/// Which gate. The numbers stand in events and traces.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Recursion: same executable, argv and cwd among the living ancestors.
    #[default]
    R1 = 0,
    /// Recursion: same executable and argv, in ever new directories.
    R1b = 1,
    /// Recursion: same executable, argv growing from generation to generation.
    R1c = 2,
    /// Function bomb: a tree grows by processes that fork and never execute anything.
    R2 = 3,
    /// Explosion: a tree grows and nothing in it ends.
    R3 = 4,
    /// Respawn loop: a parent starts the same command again and again, and it fails at once.
    R6 = 5,
}

impl Rule {
    pub const ALL: [Self; 6] = [Self::R1, Self::R1b, Self::R1c, Self::R2, Self::R3, Self::R6];

    /// The rule that an event names.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u16 == number)
    }

    /// Its name in findings, policy and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::R1 => "R1",
            Self::R1b => "R1b",
            Self::R1c => "R1c",
            Self::R2 => "R2",
            Self::R3 => "R3",
            Self::R6 => "R6",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_events_and_traces_hold() {
        assert_eq!(Rule::ALL.map(|rule| rule as u16), [0, 1, 2, 3, 4, 5]);
        assert_eq!(Rule::ALL.map(|rule| Rule::of(rule as u16)), Rule::ALL.map(Some));
        assert_eq!(Level::ALL.map(|level| Level::of(level as u16)), Level::ALL.map(Some));
        assert_eq!((Rule::of(6), Level::of(4)), (None, None));
    }
}
