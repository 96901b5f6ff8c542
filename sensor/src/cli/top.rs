//! `sensor top`: who has the processes, and who makes them.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use clap::{Args, ValueEnum};
use sensor_proto::v1::{ListTreesRequest, LiveTree, TreeList, TreeOrder, WatchTreesRequest};

use super::{
    client,
    error::CliError,
    out::{self, View},
    screen::{self, Event, Screen},
    style::{self, Tone},
    table::{self, Cell, Table},
    text, time,
};

const EXAMPLES: &str = "\
Examples:
  sensor top                            the largest trees, again every second; q ends it
  sensor top --sort forks --interval 5  who forks most, every 5 s
  sensor top --sort memory              whose memory it is, how fast it grows, when none is left
  sensor top --once --limit 5           one table
  sensor top --cgroup /user.slice       only what runs in this cgroup and below
  sensor top --json | jq '.trees[0]'    one list a line, again and again

A tree is a process with all that descends from it, whoever adopted that. Shells that wait,
init, sshd and the like stand aside for what they started. A narrow terminal has no room for all
columns; what the list is sorted by stays.";

/// COMMAND has at least one of so many parts of the terminal: other columns go before it is unreadable.
const COMMAND_PART: usize = 3;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    /// One JSON object a line and interval (docs/schema/trees.json).
    #[arg(long)]
    json: bool,
    /// One list, then end; so it is where no terminal shows the table.
    #[arg(long)]
    once: bool,
    /// Seconds from list to list, 1 to 60.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    interval: u32,
    /// Trees at most, 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// What comes first.
    #[arg(long, value_enum, default_value_t = Sort::Processes)]
    sort: Sort,
    /// Only processes in this cgroup (v2) and below.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    cgroup: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Most living processes.
    Processes,
    /// Most forks a second.
    Forks,
    /// Most processes more than a second before.
    Growth,
    /// Most memory.
    Memory,
}

impl Sort {
    /// What tells who comes first, and why.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Processes => &["PROCESSES"],
            Self::Forks => &["FORKS/S"],
            Self::Growth => &["CHANGE"],
            Self::Memory => &["MEMORY", "GROWS/S", "FULL IN"],
        }
    }
}

impl From<Sort> for TreeOrder {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Processes => Self::Processes,
            Sort::Forks => Self::Forks,
            Sort::Growth => Self::Growth,
            Sort::Memory => Self::Memory,
        }
    }
}

pub async fn run(daemon: &client::Address, args: TopArgs) -> Result<(), CliError> {
    let list = ListTreesRequest {
        limit: args.limit,
        order: TreeOrder::from(args.sort).into(),
        cgroup: args.cgroup,
    };
    let mut client = client::connect(daemon).await?;
    if args.once || !args.json && !io::stdout().is_terminal() {
        let list = client.list_trees(list).await?.into_inner().list.ok_or_else(missing)?;
        return if args.json {
            out::json_line(&list)
        } else {
            out::print(&page(&list, args.sort, &View::current()))
        };
    }
    let request = WatchTreesRequest { list: Some(list), interval_ms: args.interval * 1_000 };
    let mut lists = client.watch_trees(request).await?.into_inner();
    if args.json {
        while let Some(answer) = lists.message().await? {
            out::json_line(&answer.list.ok_or_else(missing)?)?;
        }
        return Err(ended());
    }
    if !style::is_capable() {
        while let Some(answer) = lists.message().await? {
            let list = answer.list.ok_or_else(missing)?;
            out::print(&format!("{}\n", page(&list, args.sort, &View::current())))?;
        }
        return Err(ended());
    }
    let mut screen = Screen::enter()?;
    let mut last = None;
    loop {
        tokio::select! {
            answer = lists.message() => {
                last = Some(answer?.ok_or_else(ended)?.list.ok_or_else(missing)?);
            }
            event = screen.event() => match event? {
                Event::Quit => return Ok(()),
                Event::Redraw => {}
            },
        }
        if let Some(list) = &last {
            screen::show(&page(list, args.sort, &View::current()))?;
        }
    }
}

fn missing() -> CliError {
    CliError::Answer("a list of trees is missing".into())
}

fn ended() -> CliError {
    CliError::BrokenOff("it ended the list".into())
}

fn page(list: &TreeList, sort: Sort, view: &View) -> String {
    let style = &view.style;
    let mut page = style.paint(Tone::Strong, &time::of_second(list.at, &view.zone));
    // Writing to a String cannot fail.
    let _ = write!(page, "  {}", text::count(list.processes, "process", "processes"));
    if list.span_ns > 0 {
        let per_second = f64::from(list.forks) * 1e9 / list.span_ns as f64;
        let _ = write!(page, ", {} forks/s", rate(per_second));
    }
    page.push_str("\n\n");
    let mut table =
        Table::new(COLUMNS.map(|(name, _)| name)).numbers(COLUMNS.map(|(_, width)| width));
    if let Some(columns) = style.width {
        table = table.only(shown(sort, columns));
    }
    list.trees.iter().for_each(|tree| table.push(row(tree, list.span_ns > 0)));
    page.push_str(&table.render(0, style));
    if list.omitted > 0 {
        let _ = writeln!(page, "and {}", text::count(list.omitted, "tree more", "trees more"));
    }
    page
}

/// All columns that there are: the name of each, and how wide it is at least; 0: text.
const COLUMNS: [(&str, usize); 12] = [
    ("PID", 7),
    ("PROCESSES", 9),
    ("CHANGE", 6),
    ("FORKS/S", 7),
    ("THREADS", 7),
    ("MEMORY", 8),
    ("GROWS/S", 9),
    ("FULL IN", 7),
    ("STALLED", 7),
    ("AGE", 6),
    ("UID", 5),
    ("COMMAND", 0),
];

/// What a narrow terminal has no room for, first what goes first. PID and COMMAND stay.
const GOING: [&str; 10] = [
    "UID",
    "AGE",
    "THREADS",
    "STALLED",
    "CHANGE",
    "FULL IN",
    "GROWS/S",
    "MEMORY",
    "FORKS/S",
    "PROCESSES",
];

/// The columns that fit; those that the list is sorted by always do.
fn shown(sort: Sort, columns: usize) -> [bool; COLUMNS.len()] {
    let room = columns - columns / COMMAND_PART;
    let mut shown = [true; COLUMNS.len()];
    for going in GOING.into_iter().filter(|name| !sort.columns().contains(name)) {
        let widths = COLUMNS.iter().zip(shown).filter(|((_, width), shown)| *shown && *width > 0);
        if widths.map(|((_, width), _)| width + table::GAP).sum::<usize>() <= room {
            break;
        }
        for ((name, _), shown) in COLUMNS.iter().zip(&mut shown) {
            *shown &= *name != going;
        }
    }
    shown
}

/// `compared`: something is known of what it was before.
fn row(tree: &LiveTree, compared: bool) -> [Cell; COLUMNS.len()] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "?".into());
    let change = match tree.growth {
        0 => "0".into(),
        growth => format!("{growth:+}"),
    };
    let (incident, tone) = match (tree.incident.as_str(), tree.contained) {
        ("", _) => (String::new(), Tone::Plain),
        (id, true) => (format!("{} contained: ", text::safe(id)), Tone::Warning),
        (id, false) => (format!("{} open: ", text::safe(id)), Tone::Bad),
    };
    let command = match (tree.argv.as_slice(), tree.comm.as_str()) {
        // It went before anybody could read its name.
        ([], "") => "?".into(),
        ([], comm) => text::safe(comm),
        (argv, _) => text::command(argv),
    };
    let gone = if tree.alive { "" } else { "(ended) " };
    [
        tree.root.unwrap_or_default().pid.to_string().into(),
        tree.processes.to_string().into(),
        known(compared.then_some(change)).into(),
        known(compared.then(|| rate(tree.forks_per_second))).into(),
        known(tree.threads.map(|threads| threads.to_string())).into(),
        known(tree.bytes.or(tree.anon_bytes).map(text::bytes)).into(),
        tree.bytes_per_second.map_or_else(String::new, grows).into(),
        tree.exhausted_in_s.map_or_else(String::new, in_seconds).into(),
        Some(tree.stalled_ns).filter(|ns| *ns > 0).map_or_else(String::new, time::duration).into(),
        time::duration(tree.age_ns).into(),
        known(tree.uid.map(|uid| uid.to_string())).into(),
        Cell::toned(format!("{incident}{gone}{command}"), tone),
    ]
}

/// A duration; no number from another host makes it panic.
fn in_seconds(s: f64) -> String {
    time::duration((s.max(0.0) * 1e9) as u64)
}

/// So many bytes a second; what would be called 0 is nothing.
fn grows(per_second: f64) -> String {
    let sign = if per_second < 0.0 { '-' } else { '+' };
    let bytes = per_second.abs() as u64;
    if bytes < 1024 { "0".into() } else { format!("{sign}{}", text::bytes(bytes)) }
}

/// So much a second: a digit behind the point where that says something.
fn rate(per_second: f64) -> String {
    let rounded = (per_second * 10.0).round() / 10.0;
    if rounded == 0.0 || rounded >= 10.0 {
        format!("{rounded:.0}")
    } else {
        format!("{rounded:.1}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::Timestamp;
    use sensor_proto::v1::ProcessKey;

    use super::*;

    fn list() -> TreeList {
        let make = LiveTree {
            root: Some(ProcessKey { pid: 4711, start_ns: 1 }),
            alive: true,
            comm: "make".into(),
            argv: vec![b"make".to_vec(), b"-j8".to_vec()],
            uid: Some(1000),
            processes: 306,
            forks_per_second: 41.7,
            growth: 12,
            age_ns: 90_000_000_000,
            threads: Some(310),
            anon_bytes: Some(3 << 30),
            bytes: Some(2 << 30),
            bytes_per_second: Some(f64::from(12 << 20)),
            exhausted_in_s: Some(240.0),
            stalled_ns: 1_500_000_000,
            ..LiveTree::default()
        };
        let gone = LiveTree {
            alive: false,
            argv: Vec::new(),
            comm: "sh".into(),
            uid: None,
            growth: -1,
            forks_per_second: 0.96,
            threads: None,
            anon_bytes: None,
            bytes: None,
            bytes_per_second: None,
            exhausted_in_s: None,
            stalled_ns: 0,
            incident: "4k2m".into(),
            contained: true,
            ..make.clone()
        };
        TreeList {
            at: Some(Timestamp { seconds: 3_661, nanos: 0 }),
            span_ns: 2_000_000_000,
            trees: vec![make, gone],
            omitted: 1,
            processes: 400,
            forks: 86,
            ..TreeList::default()
        }
    }

    #[test]
    fn a_table_of_trees() {
        assert_eq!(
            page(&list(), Sort::Processes, &View::plain(None)),
            "01:01:01  400 processes, 43 forks/s\n\n\
             \x20   PID  PROCESSES  CHANGE  FORKS/S  THREADS    MEMORY    GROWS/S  FULL IN  STALLED     AGE    UID  COMMAND\n\
             \x20  4711        306     +12       42      310   2.0 GiB  +12.0 MiB    4 min    1.5 s  90.0 s   1000  make -j8\n\
             \x20  4711        306      -1      1.0        ?         ?                               90.0 s      ?  4k2m contained: (ended) sh\n\
             and 1 tree more\n"
        );
        let narrow = page(&list(), Sort::Processes, &View::plain(Some(60)));
        assert!(narrow.contains("\n   4711        306       42   2.0 GiB  make -j8\n"), "{narrow}");
        let first = TreeList { span_ns: 0, omitted: 0, ..list() };
        assert!(
            page(&first, Sort::Processes, &View::plain(None)).contains("306       ?        ?"),
            "nothing to compare with"
        );
    }

    #[test]
    fn what_the_list_is_sorted_by_is_always_shown() {
        let names = |sort, columns| -> Vec<&str> {
            let shown = COLUMNS.iter().zip(shown(sort, columns));
            shown.filter_map(|((name, _), shown)| shown.then_some(*name)).collect()
        };
        for sort in Sort::value_variants() {
            for columns in 1..200 {
                let names = names(*sort, columns);
                for wanted in sort.columns().iter().chain(&["PID", "COMMAND"]) {
                    assert!(names.contains(wanted), "{wanted} at {columns}: {names:?}");
                }
            }
            assert_eq!(names(*sort, 150).len(), COLUMNS.len(), "a third is left to COMMAND");
        }
        let few = names(Sort::Processes, 80);
        assert_eq!(few, ["PID", "PROCESSES", "FORKS/S", "MEMORY", "GROWS/S", "COMMAND"]);
        let few = names(Sort::Memory, 80);
        assert_eq!(few, ["PID", "PROCESSES", "MEMORY", "GROWS/S", "FULL IN", "COMMAND"]);
        let few = names(Sort::Growth, 62);
        assert_eq!(few, ["PID", "PROCESSES", "CHANGE", "FORKS/S", "COMMAND"]);
    }

    #[test]
    fn what_may_go_is_a_column() {
        for going in GOING {
            assert!(COLUMNS.iter().any(|(name, _)| *name == going), "{going}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_listed_stays_in_its_line(
            argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..5),
            comm in ".{0,20}", incident in ".{0,12}", age_ns: u64,
            // Linux has no more pids.
            pid in 1_u32..1 << 22, growth in -(1 << 16)..1 << 16, rate in 0.0..1e6,
            columns in 62_usize..200,
            sort in proptest::sample::select(Sort::value_variants()),
        ) {
            let tree = LiveTree {
                root: Some(ProcessKey { pid, start_ns: 0 }),
                argv, comm, incident, age_ns, growth,
                forks_per_second: rate,
                ..list().trees[0].clone()
            };
            let page = page(&TreeList { trees: vec![tree], omitted: 0, ..list() }, sort, &View::plain(Some(columns)));
            prop_assert_eq!(page.lines().count(), 4);
            for line in page.lines() {
                prop_assert!(!line.chars().any(char::is_control));
                prop_assert!(text::width(line) <= columns, "{}", line);
            }
        }
    }
}
