//! `docs/kernels.md`: what the sensor can do on each kernel, as `sensor doctor` found there.

use std::fmt::Write as _;

use serde::Deserialize;

/// What one kernel can do.
pub struct Able {
    kernel: String,
    capabilities: Vec<Capability>,
}

/// One line of `sensor doctor --json`.
#[derive(Deserialize)]
struct Capability {
    name: String,
    state: String,
    used_for: String,
    why: String,
    remedy: String,
}

impl Able {
    /// `None`: the doctor did not get that far.
    pub fn parse(kernel: &str, json: &str) -> Option<Self> {
        let capabilities = serde_json::from_str(json.trim()).ok()?;
        Some(Self { kernel: kernel.to_owned(), capabilities })
    }

    fn of(&self, name: &str) -> Option<&Capability> {
        self.capabilities.iter().find(|one| one.name == name)
    }
}

/// The page. Equal input makes an equal page.
pub fn markdown(kernels: &[Able]) -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask vm 5.10 6.1 6.12 7.2 --page`. Changes by hand are lost: change \
         xtask/src/vm/page.rs. -->\n\
         # Kernels\n\n\
         What the sensor can do on Debian's cloud kernels, each booted in an emulated machine, as root and with `bpf` among its \
         security modules. Each capability was tried there by `sensor doctor`, which tells the same about your own kernel.\n\n\
         | capability | used for |",
    );
    // Writing to a String cannot fail.
    for able in kernels {
        let _ = write!(page, " {} |", able.kernel);
    }
    let _ = writeln!(page, "\n|---|---|{}", "---|".repeat(kernels.len()));
    let Some(first) = kernels.first() else { return page };
    for capability in &first.capabilities {
        let _ = write!(page, "| {} | {} |", cell(&capability.name), cell(&capability.used_for));
        for able in kernels {
            let state = able.of(&capability.name).map_or("–", |one| one.state.as_str());
            let _ = write!(page, " {state} |");
        }
        page.push('\n');
    }
    page.push_str("\n## What was found\n\n");
    for able in kernels {
        let _ = writeln!(page, "**{}**\n", able.kernel);
        for one in &able.capabilities {
            let remedy = if one.remedy.is_empty() {
                String::new()
            } else {
                format!(". What to do: {}", one.remedy)
            };
            let _ = writeln!(page, "- {}: {}{remedy}", one.name, one.why);
        }
        page.push('\n');
    }
    format!("{}\n", page.trim_end())
}

/// Text within a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_a_row_and_each_kernel_a_column() {
        let doctor = |state: &str| {
            format!(
                r#"[{{"name":"a|b","state":"{state}","used_for":"x|y","why":"found","remedy":"do"}}]"#
            )
        };
        let kernels = [("5.10", "ok"), ("7.2", "degraded")]
            .map(|(name, state)| Able::parse(name, &doctor(state)));
        let page = markdown(&kernels.map(Option::unwrap));
        assert!(page.contains("| capability | used for | 5.10 | 7.2 |"), "{page}");
        assert!(page.contains("| x\\|y | ok | degraded |"), "{page}");
        assert!(page.contains("**7.2**") && page.contains("found. What to do: do"), "{page}");
        assert!(Able::parse("6.1", "sensor: no").is_none());
    }
}
