//! The flight recorder as a table: the nearer to its end, the denser. Below it the trees that stood out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use sensor_proto::v1::{FlightRecord, Vitals, VitalsSample};

use super::{
    style::Style,
    table::{Cell, Table},
    text, time,
};

/// From row to row the distance to the end grows by this: two dozen rows for a day.
const GROWTH: f64 = 1.5;

/// Trees that are shown of the many that stood out within a day, and how many of them for what they held: the largest by
/// processes may hold nothing.
const TREES: usize = 8;
const HOLDERS: usize = 2;

pub fn render(page: &mut String, record: &FlightRecord, style: &Style) {
    let Some(end) = record.samples.last() else {
        page.push_str("  nothing was recorded yet\n");
        return;
    };
    let mut table = Table::new([
        "BEFORE",
        "OVER",
        "CPU",
        "MEMORY",
        "IO",
        "LOAD",
        "AVAILABLE",
        "SWAPPED",
        "PROCESSES",
        "DISK",
    ]);
    for (age, sample) in chosen(&record.samples, end) {
        let name = before_the_end(age);
        let over = span(sample.seconds.into());
        let pressure = |of: fn(&Vitals) -> Option<f32>| {
            let value = |vitals: Option<&Vitals>| {
                vitals.and_then(of).map(|value| text::number(f64::from(value.round())))
            };
            match (value(sample.average.as_ref()), value(sample.most.as_ref())) {
                (Some(average), Some(most)) if most != average => format!("{average} ({most}) %"),
                (Some(average), _) => format!("{average} %"),
                (None, _) => "?".into(),
            }
        };
        let average = sample.average.unwrap_or_default();
        let bytes = |value: Option<u64>| value.map_or("?".into(), text::bytes);
        let load = average.load.map_or("?".into(), |load| text::number(f64::from(load)));
        let processes = average.processes.map_or("?".into(), |count| count.to_string());
        table.push(
            [
                name,
                over,
                pressure(|it| it.cpu_some),
                pressure(|it| it.memory_some),
                pressure(|it| it.io_some),
                load,
                bytes(average.available_bytes),
                bytes(average.swapped_bytes),
                processes,
                bytes(average.disk_free_bytes),
            ]
            .map(Cell::from),
        );
    }
    page.push_str(&table.render(2, style));
    page.push_str(
        "  CPU, MEMORY, IO: part of the time that some task had to wait (highest second)\n",
    );
    trees(page, &record.samples, end, style);
}

/// What is told of a tree in many samples.
#[derive(Default)]
struct Story<'a> {
    comm: &'a str,
    /// Processes in its largest sample, and forks a second in its busiest.
    most: u32,
    rate: f64,
    /// What it held at most, bytes, and threads; 0: little.
    bytes: u64,
    threads: u32,
    /// Time in reclaim, ns, and how soon nothing was left to it at the soonest, s.
    stalled_ns: u64,
    exhausted_in_s: Option<f64>,
    /// In the last sample in which it stood out, and when that was.
    last: u32,
    last_at: i64,
}

/// What is known of a tree that stood out: the name of the column, and how wide it is at least; 0: text.
const COLUMNS: [(&str, usize); 10] = [
    ("SEEN", 0),
    ("TREE", 7),
    ("PROCESSES", 9),
    ("MOST", 5),
    ("FORKS/S", 7),
    ("THREADS", 7),
    ("MEMORY", 8),
    ("FULL IN", 7),
    ("STALLED", 7),
    ("ROOT", 0),
];

impl Story<'_> {
    fn row(&self, pid: u32, end: i64) -> [Cell; COLUMNS.len()] {
        let known = |is: bool, text: &dyn Fn() -> String| if is { text() } else { String::new() };
        [
            before_the_end(age(self.last_at, end)),
            pid.to_string(),
            self.last.to_string(),
            self.most.to_string(),
            text::number(self.rate.round()),
            known(self.threads > 0, &|| self.threads.to_string()),
            known(self.bytes > 0, &|| text::bytes(self.bytes)),
            self.exhausted_in_s
                .map_or_else(String::new, |s| time::duration((s.max(0.0) * 1e9) as u64)),
            known(self.stalled_ns > 0, &|| time::duration(self.stalled_ns)),
            text::safe(self.comm),
        ]
        .map(Cell::from)
    }
}

/// The trees that stood out: those of the end first, the largest of each first, and among them who held most.
fn trees(page: &mut String, samples: &[VitalsSample], end: &VitalsSample, style: &Style) {
    let mut stories: BTreeMap<(u32, u64), Story> = BTreeMap::new();
    for sample in samples {
        let at = moment(sample);
        for tree in &sample.trees {
            let story = stories.entry((tree.pid, tree.start_ns)).or_default();
            story.most = story.most.max(tree.processes);
            story.bytes = story.bytes.max(tree.bytes);
            story.threads = story.threads.max(tree.threads);
            story.stalled_ns = story.stalled_ns.max(tree.stalled_ns);
            let ends = [story.exhausted_in_s, tree.exhausted_in_s].into_iter().flatten();
            story.exhausted_in_s = ends.reduce(f64::min);
            story.rate = story.rate.max(f64::from(tree.forks) / f64::from(sample.seconds.max(1)));
            // Minutes come first in the record: of one moment the second says more.
            if at >= story.last_at {
                (story.last, story.last_at, story.comm) = (tree.processes, at, &tree.comm);
            }
        }
    }
    if stories.is_empty() {
        return;
    }
    let mut stories: Vec<_> = stories.into_iter().collect();
    let end = moment(end);
    stories.sort_by_key(|(_, story)| Reverse(story.bytes));
    let holders: BTreeSet<(u32, u64)> =
        stories.iter().take(HOLDERS).filter(|one| one.1.bytes > 0).map(|one| one.0).collect();
    stories.sort_by_key(|(_, story)| Reverse((story.last_at == end, story.most, story.last_at)));
    let mut others = TREES - holders.len();
    stories.retain(|(key, _)| {
        let shown = holders.contains(key) || others > 0;
        others -= usize::from(shown && !holders.contains(key));
        shown
    });
    // What none of them has is no column.
    let has = |of: fn(&Story<'_>) -> bool| stories.iter().any(|(_, story)| of(story));
    let (holds, stalls) = (has(|it| it.bytes > 0), has(|it| it.stalled_ns > 0));
    let ends = has(|it| it.exhausted_in_s.is_some());
    let mut table = Table::new(COLUMNS.map(|(name, _)| name))
        .numbers(COLUMNS.map(|(_, width)| width))
        .only(COLUMNS.map(|(name, _)| match name {
            "THREADS" | "MEMORY" => holds,
            "FULL IN" => ends,
            "STALLED" => stalls,
            _ => true,
        }));
    for ((pid, _), story) in &stories {
        table.push(story.row(*pid, end));
    }
    page.push('\n');
    page.push_str(&table.render(2, style));
    page.push_str("  SEEN: when it stood out last, with so many PROCESSES; ");
    page.push_str(if ends { "FULL IN: at the soonest; " } else { "" });
    page.push_str("others: at most\n");
}

fn before_the_end(age: u64) -> String {
    if age == 0 { "the end".into() } else { span(age) }
}

fn moment(sample: &VitalsSample) -> i64 {
    sample.at.map_or(0, |at| at.seconds)
}

/// Distance to the end, s.
fn age(at: i64, end: i64) -> u64 {
    u64::try_from(end.saturating_sub(at)).unwrap_or(0)
}

fn span(seconds: u64) -> String {
    time::duration(seconds.saturating_mul(1_000_000_000)).replace(".0", "")
}

/// Some of the samples with their distance to the end, s: oldest first.
fn chosen<'a>(samples: &'a [VitalsSample], end: &VitalsSample) -> Vec<(u64, &'a VitalsSample)> {
    let mut rows = Vec::new();
    let mut next = 0;
    // Seconds first: minutes only where there are none any more.
    for sample in samples.iter().rev() {
        let age = age(moment(sample), moment(end));
        if age >= next {
            rows.push((age, sample));
            next = (age as f64 * GROWTH) as u64 + 1;
        }
    }
    rows.reverse();
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::Timestamp;

    use sensor_proto::v1::TopTree;

    use super::*;

    fn sample(at: i64, seconds: u32) -> VitalsSample {
        let vitals = Vitals {
            cpu_some: Some(12.4),
            available_bytes: Some(8 << 30),
            processes: Some(321),
            ..Vitals::default()
        };
        let most = (seconds > 1).then_some(Vitals { cpu_some: Some(99.0), ..vitals });
        VitalsSample {
            at: Some(Timestamp { seconds: at, nanos: 0 }),
            boot_ns: 1,
            seconds,
            average: Some(vitals),
            least: most,
            most,
            trees: Vec::new(),
        }
    }

    fn tree(pid: u32, processes: u32, forks: u32) -> TopTree {
        TopTree { pid, start_ns: 1, comm: "make".into(), processes, forks, ..TopTree::default() }
    }

    #[test]
    fn trees_of_the_end_come_first() {
        let with = |at, seconds, trees| VitalsSample { trees, ..sample(at, seconds) };
        let mut page = String::new();
        let samples = vec![
            with(60, 60, vec![tree(7, 90, 120), tree(8, 400, 0)]),
            with(59, 1, vec![TopTree { bytes: 3 << 30, threads: 71, ..tree(7, 70, 31) }]),
            with(65, 1, vec![tree(9, 2, 800), tree(7, 40, 0)]),
        ];
        render(&mut page, &FlightRecord { samples }, &Style::PLAIN);
        let tail = page.split_once("\n\n").unwrap().1;
        let rows = "  SEEN        TREE  PROCESSES   MOST  FORKS/S  THREADS    MEMORY  ROOT\n  \
                    the end        7         40     90       31       71   3.0 GiB  make\n  \
                    the end        9          2      2      800                     make\n  \
                    5 s            8        400    400        0                     make\n";
        assert!(tail.starts_with(rows), "{tail}");
    }

    /// The table of trees of some samples, all of one second.
    fn of_trees(trees: Vec<TopTree>) -> String {
        let mut page = String::new();
        let samples = vec![VitalsSample { trees, ..sample(60, 1) }];
        render(&mut page, &FlightRecord { samples }, &Style::PLAIN);
        page.split_once("\n\n").unwrap().1.to_owned()
    }

    #[test]
    fn who_held_most_is_shown_with_its_end() {
        let mut trees: Vec<TopTree> = (0..20).map(|pid| tree(pid, 100 - pid, 0)).collect();
        let holds = |pid, gib: u64| TopTree {
            comm: "java".into(),
            bytes: gib << 30,
            threads: 212,
            ..tree(pid, 1, 0)
        };
        trees.extend([holds(77, 3), holds(78, 2), holds(79, 1)]);
        let told = of_trees(trees.clone());
        let pids = |told: &str| -> Vec<u32> {
            told.lines().filter_map(|line| line.get(9..18)?.trim().parse().ok()).collect()
        };
        assert_eq!(pids(&told), [0, 1, 2, 3, 4, 5, 77, 78]);
        assert!(told.contains("  THREADS    MEMORY  ROOT\n"), "{told}");
        trees[20].exhausted_in_s = Some(32.0);
        let told = of_trees(trees.clone());
        assert!(told.contains("      212   3.0 GiB   32.0 s  java\n"), "{told}");
        trees[20].stalled_ns = 2_500_000_000;
        let told = of_trees(trees);
        assert!(told.contains("      212   3.0 GiB   32.0 s    2.5 s  java\n"), "{told}");
        // Nobody holds much, or stood in reclaim.
        let told = of_trees((0..20).map(|pid| tree(pid, 100 - pid, 0)).collect());
        assert_eq!(pids(&told), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(told.contains("  FORKS/S  ROOT\n") && !told.contains("FULL IN"), "{told}");
    }

    #[test]
    fn the_widest_line_fits_a_terminal_of_a_hundred_columns() {
        let told = of_trees(vec![TopTree {
            comm: "fifteen-letters".into(),
            bytes: 102_300 << 20,
            threads: 65_536,
            stalled_ns: 99_900_000_000,
            exhausted_in_s: Some(99.9),
            ..tree(4_194_304, 65_536, 65_536)
        }]);
        let widest = told.lines().map(str::len).max();
        assert!(widest <= Some(100), "{widest:?}\n{told}");
    }

    #[test]
    fn the_end_is_dense_and_the_day_is_there() {
        let minutes = (1..=1_440).map(|n| sample(n * 60, 60));
        let seconds = (86_400 - 599..=86_400).map(|n| sample(n, 1));
        let mut page = String::new();
        let record = FlightRecord { samples: minutes.chain(seconds).collect() };
        render(&mut page, &record, &Style::PLAIN);
        let lines: Vec<&str> = page.lines().collect();
        assert!((20..35).contains(&lines.len()), "{page}");
        assert!(lines[1].contains(" h ") && lines[1].contains("12 (99) %"), "{page}");
        let last = lines[lines.len() - 2];
        assert!(
            last.starts_with("  the end  1 s   12 %  ") && last.contains("  8.0 GiB  "),
            "{page}"
        );
        assert!(page.contains("\n  1 s ") && page.contains("\n  2 s "), "{page}");
        let mut page = String::new();
        render(&mut page, &FlightRecord::default(), &Style::PLAIN);
        assert_eq!(page, "  nothing was recorded yet\n");
    }

    proptest! {
        #[test]
        fn whatever_a_file_claims_is_a_table(
            times in proptest::collection::vec((any::<i64>(), any::<u32>()), 0..40),
            value: f32, bytes: u64, pid: u32, comm in ".{0,20}",
        ) {
            let samples = times.iter().map(|(at, seconds)| {
                let mut sample = sample(*at, *seconds);
                let vitals = sample.average.as_mut().unwrap();
                (vitals.cpu_some, vitals.load, vitals.swapped_bytes) = (Some(value), Some(value), Some(bytes));
                sample.trees = vec![TopTree { comm: comm.clone(), ..tree(pid, pid, pid) }];
                sample
            });
            let mut page = String::new();
            render(&mut page, &FlightRecord { samples: samples.collect() }, &Style::PLAIN);
            prop_assert!(page.lines().count() >= 1);
        }
    }
}
