//! What did not fit, by reason. Counted per CPU in the kernel, shown as `Lost` records.

/// Why something is missing. The number is the index of the counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No free slot for a new process: it and its descendants start as adopted, or not at all.
    TableFull = 0,
    /// The index of living processes took no more.
    IndexFull = 1,
    /// An exec record could not be kept.
    ExecFull = 2,
    /// The ring had no room for an event.
    RingFull = 3,
    /// An exit of a process that was not known.
    UnknownExit = 4,
    /// A brake's signal could not be sent.
    SignalRefused = 5,
    /// A dead node could not be queued for freeing.
    Unfreed = 6,
    /// The OOM killer took somebody of whom nobody knows who it was.
    VictimUnknown = 7,
}

/// What one CPU has lost, by reason: one value, which user space reads in one go.
pub type Losses = [u64; Reason::ALL.len()];

impl Reason {
    pub const ALL: [Self; 8] = [
        Self::TableFull,
        Self::IndexFull,
        Self::ExecFull,
        Self::RingFull,
        Self::UnknownExit,
        Self::SignalRefused,
        Self::Unfreed,
        Self::VictimUnknown,
    ];

    /// The word in `Lost` records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::TableFull => "table_full",
            Self::IndexFull => "index_full",
            Self::ExecFull => "exec_full",
            Self::RingFull => "ring_full",
            Self::UnknownExit => "unknown_exit",
            Self::SignalRefused => "signal_refused",
            Self::Unfreed => "unfreed",
            Self::VictimUnknown => "victim_unknown",
        }
    }
}
