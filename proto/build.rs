//! Generates the crate from `sensor/**/*.proto`, in pure Rust (no `protoc` needed), with serde
//! attributes that make the JSON of `--json`: `snake_case` names, enums as words, 64-bit `_ns` and
//! `seq` as strings, bytes as escaped text.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "sensor/v1/sensor.proto",
    "sensor/v1/trace.proto",
    "sensor/v1/export.proto",
    "sensor/internal/v1/link.proto",
    "sensor/internal/v1/parse.proto",
];

/// Enum fields: message.field → module path of the serializer that knows its words.
const ENUMS: &[(&str, &str)] = &[
    ("Record.priority", "priority"),
    ("Incident.kind", "kind"),
    ("Incident.severity", "severity"),
    ("Incident.state", "state"),
    ("Group.by", "group_by"),
    ("GroupMemory.by", "group_by"),
    ("Oom.scope", "oom_scope"),
    ("Transition.from", "state"),
    ("Transition.to", "state"),
    ("Action.kind", "action_kind"),
    ("Investigation.state", "investigation_state"),
    ("Investigation.outcome", "outcome"),
    ("Investigation.stage", "stage"),
    ("StageRun.stage", "stage"),
    ("StageRun.state", "investigation_state"),
    ("StageRun.outcome", "outcome"),
    ("Findings.verdict", "verdict"),
    ("FileFact.state", "file_state"),
    ("Frame.kind", "frame_kind"),
    ("ActRequest.verb", "verb"),
];

/// 64-bit integers that JSON carries as strings, because readers hold numbers in doubles.
const STRINGS: &[&str] = &[
    "Record.seq",
    "Record.boot_ns",
    "Alarm.span_ns",
    "Alarm.crossed_ns",
    "Exec.exec_ns",
    "ProcessKey.start_ns",
    "Process.start_ns",
    "Link.exec_ns",
    "Incident.opened_ns",
    "Incident.thaw_due_ns",
    "Culprit.start_ns",
    "Cost.wall_ns",
    "GetStatusResponse.last_seq",
    "VitalsSample.boot_ns",
    "TopTree.start_ns",
    "TopTree.stalled_ns",
    "TreeList.boot_ns",
    "TreeList.span_ns",
    "LiveTree.age_ns",
    "MemorySample.at_ns",
    "MemorySample.took_ns",
    "TreeMemory.stalled_ns",
    "MemorySample.series_ns",
    "TreeMemory.program",
    "TreeMemory.signature",
    "TreeMemory.alike_program",
    "SamplingStatus.took_ns",
    "SamplingStatus.walk_took_ns",
    "LiveTree.stalled_ns",
    "OomKill.at_ns",
    "Killed.at_ns",
    "Killed.sent_ns",
    "Oom.period_ns",
    "OomHolder.grown_ns",
    "Actor.signature",
    "Pressure.at_ns",
    "Pressure.window_ns",
    "Pressure.falling_ns",
    "Usage.at_ns",
    "Witnessed.at_ns",
    "Witnessed.ran_ns",
];

/// Single `bytes` fields: text with `\xNN` for what is not printable UTF-8.
const BYTES: &[&str] = &[
    "Evidence.content.text",
    "Process.cwd",
    "Process.exe",
    "Link.cwd",
    "Link.exe",
    "FileFact.path",
    "FileFact.content",
    "Culprit.cwd",
    "Culprit.exe",
    "Step.cwd",
    "Transcript.text",
    "HeldPlace.name",
    "Listener.address",
    "DeletedFile.path",
    "GroupFacts.path",
    "Change.what",
    "GitState.top",
    "GitState.branch",
    "GitState.moved_by",
    "LogLine.text",
    "ReadSourceRequest.path",
    "Witnessed.name",
];

/// `repeated bytes` fields.
const BYTE_LISTS: &[&str] = &[
    "Exec.argv",
    "Actor.argv",
    "Process.argv",
    "Process.open_files",
    "Link.argv",
    "Culprit.argv",
    "Step.argv",
    "LiveTree.argv",
    "GitState.modified",
    "Witnessed.argv",
];

const TIMES: &[&str] = &[
    "Record.at",
    "Evidence.at",
    "Incident.opened_at",
    "Incident.updated_at",
    "Incident.resolved_at",
    "Action.at",
    "Investigation.started_at",
    "Investigation.ended_at",
    "StageRun.started_at",
    "StageRun.ended_at",
    "Findings.at",
    "VitalsSample.at",
    "TreeList.at",
    "Change.at",
    "GitState.moved_at",
    "LogLine.at",
    "LogLine.until",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=sensor");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut builder = tonic_prost_build::configure().build_client(true).build_server(true);
    builder = builder
        .type_attribute(".sensor.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".sensor.v1", "#[serde(rename_all = \"snake_case\")]");
    let with = |name: &str, how: &str| {
        (format!(".sensor.v1.{name}"), format!("#[serde(serialize_with = \"crate::json::{how}\")]"))
    };
    let fields = ENUMS
        .iter()
        .map(|(name, how)| with(name, how))
        .chain(STRINGS.iter().map(|name| with(name, "string")))
        .chain(["Action.started_ns", "Action.ended_ns"].iter().map(|name| with(name, "string")))
        .chain(BYTES.iter().map(|name| with(name, "text")))
        .chain(BYTE_LISTS.iter().map(|name| with(name, "texts")))
        .chain(TIMES.iter().map(|name| with(name, "time")))
        .chain([with("GetStatusResponse.started_at", "time")]);
    for (path, attribute) in fields {
        builder = builder.field_attribute(path, attribute);
    }
    // Requests, traces and exports are never printed as they are, and their timestamps have no serde.
    builder = builder.field_attribute(".sensor.v1.ListIncidentsRequest.since", "#[serde(skip)]");
    builder = builder.field_attribute(".sensor.v1.TraceStart.at", "#[serde(skip)]");
    builder = builder.field_attribute(".sensor.v1.ExportStart.at", "#[serde(skip)]");
    builder.compile_fds(descriptors)?;

    // A oneof stands flat in its message. prost applies a field attribute of a oneof to the
    // variants as well, where serde refuses it, so it is put in here.
    let generated = out.join("sensor.v1.rs");
    let mut code = fs::read_to_string(&generated)?;
    // Where there are many variants, the attribute has lines of its own.
    for oneof in ["#[prost(oneof", "#[prost(\n        oneof"] {
        code = code.replace(oneof, &format!("#[serde(flatten)]\n    {oneof}"));
    }
    fs::write(&generated, code)?;
    Ok(())
}
