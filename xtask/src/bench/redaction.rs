//! How fast secrets are found in what is gathered, and what memory that takes.

use std::path::Path;

use anyhow::Result;

use super::{
    Effort,
    black_box::{of, samples},
    row::Row,
    stats::{bootstrap, median},
};

/// MB a second of one core: a tool's largest result within 3 ms.
const TEXT: f64 = 100.0;

/// MiB beyond the text that was redacted before all others: an incident comes when there is none to spare.
const MEMORY: f64 = 1.0;

pub fn measure(_sensor: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    let rows = samples("redaction", effort.rounds)?;
    let (text, argv) = (of(&rows, "text")?, of(&rows, "argv")?);
    print(Row::at_least("redaction: of a text", bootstrap(text, median), "MB/s", Some(TEXT)));
    print(Row::new("redaction: of command lines", bootstrap(argv, median), "MB/s", None));
    let memory = bootstrap(of(&rows, "memory")?, median);
    print(Row::new("redaction: memory that it takes besides", memory, "MiB", Some(MEMORY)));
    Ok(())
}
