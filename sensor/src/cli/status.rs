//! `sensor status`: how the daemon is.

use std::fmt::Write as _;

use clap::Args;
use sensor_proto::v1::{GetStatusRequest, GetStatusResponse, SamplingStatus};

use super::{
    client,
    error::CliError,
    out::{self, View},
    style::Tone,
    table::{Cell, Table},
    text, time,
};

const EXAMPLES: &str = "\
Examples:
  sensor status
  sensor status --json | jq .losses";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// A JSON object (docs/schema/status.json).
    #[arg(long)]
    json: bool,
}

pub async fn run(daemon: &client::Address, args: &StatusArgs) -> Result<(), CliError> {
    let mut client = client::connect(daemon).await?;
    let status = client.get_status(GetStatusRequest {}).await?.into_inner();
    if args.json {
        return out::json(&status);
    }
    out::print(&report(&status, &View::current()))
}

/// Who looks at memory, how often, and what that costs.
fn sampling(sampling: &SamplingStatus) -> Cell {
    let by = if sampling.by == "proc" { " from /proc" } else { "" };
    let told = format!(
        "every {}{by}, {:.1} ms for {}, {:.2} % of a CPU",
        time::duration(u64::from(sampling.every_ms) * 1_000_000),
        sampling.took_ns as f64 / 1e6,
        text::count(sampling.processes, "process", "processes"),
        sampling.cpu_percent,
    );
    if sampling.why.is_empty() {
        return told.into();
    }
    Cell::toned(format!("{told}: {}", text::safe(&sampling.why)), Tone::Warning)
}

fn report(status: &GetStatusResponse, view: &View) -> String {
    let style = &view.style;
    let title = format!("sensor {} on {}", text::safe(&status.version), text::safe(&status.host));
    let since = time::ago(status.started_at, view.now);
    let mut report = format!(
        "{}, kernel {}, started {since}\n\n",
        style.paint(Tone::Strong, &title),
        text::safe(&status.kernel),
    );

    let mut facts = Table::headless().wrapped();
    facts.push([
        "automatic action".into(),
        if status.paused {
            Cell::toned("off: nothing is stopped until `sensor resume`", Tone::Bad)
        } else {
            Cell::toned("on", Tone::Good)
        },
    ]);
    let scope = if status.scope.is_empty() {
        "the whole host".to_owned()
    } else {
        status.scope.iter().map(|path| text::safe(path)).collect::<Vec<_>>().join(", ")
    };
    facts.push(["scope".into(), scope.into()]);
    facts.push([
        "incidents".into(),
        format!("{} open, {} contained", status.incidents_open, status.incidents_contained).into(),
    ]);
    facts.push(["processes".into(), format!("{} known", status.processes).into()]);
    facts.push([
        "log".into(),
        format!("up to record {}, {}", status.last_seq, text::bytes(status.log_bytes)).into(),
    ]);
    facts.push(["kernel memory".into(), text::bytes(status.map_bytes).into()]);
    if let Some(sampling) = &status.memory_sampling {
        facts.push(["memory samples".into(), self::sampling(sampling)]);
    }
    report.push_str(&facts.render(0, style));

    let mut parts = Table::new(["PART", "STATE", "DETAIL"]).wrapped();
    for part in &status.parts {
        parts.push([
            text::safe(&part.part).into(),
            if part.ok { Cell::toned("ok", Tone::Good) } else { Cell::toned("bad", Tone::Bad) },
            text::safe(&part.detail).into(),
        ]);
    }
    report.push('\n');
    report.push_str(&parts.render(0, style));
    if !status.degradations.is_empty() {
        report
            .push_str("\nwhat this host does not do for the sensor (`sensor doctor` says more):\n");
        for degradation in &status.degradations {
            let said = text::safe(degradation);
            let lines = style.width.map(|columns| text::wrap(&said, columns.saturating_sub(2)));
            for line in lines.unwrap_or_else(|| vec![said]) {
                // Writing to a String cannot fail.
                let _ = writeln!(report, "  {}", style.paint(Tone::Warning, &line));
            }
        }
    }

    let lost: Vec<_> = status.losses.iter().filter(|loss| loss.count > 0).collect();
    if lost.is_empty() {
        report.push_str("\nnothing was lost\n");
    } else {
        let mut losses = Table::new(["LOST", "COUNT"]);
        for loss in lost {
            losses.push([
                Cell::toned(text::safe(&loss.reason), Tone::Warning),
                loss.count.to_string().into(),
            ]);
        }
        report.push('\n');
        report.push_str(&losses.render(0, style));
    }
    report
}
