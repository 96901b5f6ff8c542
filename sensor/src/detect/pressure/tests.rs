use proptest::prelude::*;

use super::*;

const S: u64 = 1_000_000_000;
const GIB: u64 = 1 << 30;

/// 10 GiB without swap, of which so much is left.
fn host(at_s: u64, percent: u64) -> Pressure {
    Pressure {
        at_ns: at_s * S,
        total_bytes: Some(10 * GIB),
        available_bytes: Some(10 * GIB * percent / 100),
        swap_total_bytes: Some(0),
        swap_free_bytes: Some(0),
        ..Pressure::default()
    }
}

fn of(pressure: &Pressure) -> Level {
    level(pressure, Level::Calm, &Limits::default())
}

#[test]
fn the_table() {
    let calm = host(1, 50);
    let with = |change: fn(&mut Pressure)| {
        let mut pressure = calm.clone();
        change(&mut pressure);
        of(&pressure)
    };
    assert_eq!(of(&calm), Level::Calm);
    assert_eq!(of(&Pressure::default()), Level::Calm, "nothing is known");
    for (percent, level) in [
        (20, Level::Calm),
        (19, Level::Watch),
        (10, Level::Watch),
        (9, Level::Warning),
        (5, Level::Warning),
        (4, Level::Critical),
    ] {
        assert_eq!(of(&host(1, percent)), level, "{percent}");
    }
    let swap =
        |free| Pressure { swap_total_bytes: Some(100), swap_free_bytes: Some(free), ..host(1, 4) };
    assert_eq!([of(&swap(10)), of(&swap(9))], [Level::Warning, Level::Critical]);
    assert_eq!(with(|it| it.some_percent = Some(7.0)), Level::Watch);
    assert_eq!(with(|it| it.some_percent = Some(99.0)), Level::Watch);
    assert_eq!(with(|it| it.some_avg10 = Some(10.1)), Level::Warning);
    assert_eq!(with(|it| it.full_windows = 1), Level::Calm);
    assert_eq!(with(|it| it.full_windows = 2), Level::Critical);
    assert_eq!(with(|it| it.full_avg10 = Some(20.5)), Level::Critical);
    assert_eq!(with(|it| it.reclaims = Some(1)), Level::Watch);
    assert_eq!(with(|it| it.reclaim_percent = Some(5.5)), Level::Warning);
    let thrashes = |it: &mut Pressure| {
        it.refaulted_percent = Some(150.0);
        it.full_percent = Some(6.0);
    };
    assert_eq!(with(thrashes), Level::Critical);
    assert_eq!(with(|it| it.refaulted_percent = Some(150.0)), Level::Calm, "reads, not waits");
}

#[test]
fn a_fall_is_believed_when_it_has_lasted_and_little_is_left() {
    let falls = |percent, mib: u64, for_s: u64| {
        of(&Pressure {
            falling_bytes_per_second: Some(mib << 20),
            falling_ns: for_s * S,
            ..host(1, percent)
        })
    };
    // 3 GiB last for 61 s, then 59 s.
    assert_eq!(falls(30, 50, 60), Level::Calm);
    assert_eq!(falls(30, 53, 60), Level::Warning);
    assert_eq!(falls(30, 53, 9), Level::Calm, "it has only begun");
    assert_eq!(falls(30, 53, 10), Level::Warning);
    assert_eq!(falls(40, 5000, 60), Level::Calm, "there is plenty");
    assert_eq!(falls(30, 400, 4), Level::Critical);
    assert_eq!(falls(30, 400, 3), Level::Calm);
}

#[test]
fn it_rises_once_and_is_calm_once() {
    let mut detector = Detector::new(Limits::default());
    let mut said = Vec::new();
    let looks = [(1, 50), (2, 15), (3, 9), (4, 8), (5, 4), (6, 4), (7, 11), (8, 9), (9, 50)];
    for (at, percent) in looks {
        said.extend(detector.observe(&host(at, percent)));
    }
    let levels: Vec<Level> = said
        .iter()
        .map(|said| match said {
            Said::Risen { level, finding, .. } => {
                assert_eq!(is_critical(finding), *level == Level::Critical);
                *level
            }
            Said::Calm { .. } => Level::Calm,
        })
        .collect();
    assert_eq!(levels, [Level::Warning, Level::Critical]);
    assert!(detector.observe(&host(30, 50)).is_empty(), "critical was 24 s ago");
    assert_eq!(detector.held("", 37 * S), Level::Warning, "8 % were 29 s ago");
    let calm = detector.observe(&host(60, 50));
    assert!(
        matches!(&calm[..], [Said::Calm { cgroup, why: ENOUGH }] if cgroup.is_empty()),
        "{calm:?}"
    );
}

#[test]
fn what_hovers_at_a_threshold_is_one_incident() {
    let mut detector = Detector::new(Limits::default());
    let mut said = 0;
    for at in 1..2000 {
        // 9 and 11 % in turn, a minute each; 13 % are clearly above.
        said += detector.observe(&host(at, if at / 60 % 2 == 0 { 9 } else { 11 })).len();
    }
    assert_eq!(said, 1);
    for at in 2000..2100 {
        said += detector.observe(&host(at, 13)).len();
    }
    assert_eq!(said, 2);
}

#[test]
fn places_are_told_apart() {
    let mut detector = Detector::new(Limits::default());
    let said = detector.observe(&boxed(1, 4));
    assert!(matches!(&said[..], [Said::Risen { cgroup, .. }] if cgroup == "/box"));
    assert_eq!(detector.observe(&host(1, 9)).len(), 1);
    assert_eq!(detector.held("/box", 2 * S), Level::Critical);
    for other in 0..100 {
        let name = format!("/{other}");
        detector.observe(&Pressure { cgroup: name, ..host(2, 4) });
    }
    assert!(detector.places.len() <= PLACES);
}

fn boxed(at_s: u64, percent: u64) -> Pressure {
    Pressure { cgroup: "/box".into(), ..host(at_s, percent) }
}

#[test]
fn however_many_cgroups_there_are_the_host_is_judged() {
    let mut detector = Detector::new(Limits::default());
    for other in 0..PLACES {
        let said = detector.observe(&Pressure { cgroup: format!("/{other}"), ..host(2, 4) });
        assert_eq!(said.len(), 1, "{other}");
    }
    assert!(detector.observe(&boxed(2, 4)).is_empty());
    assert!(matches!(&detector.observe(&host(2, 4))[..], [Said::Risen { .. }]));
    assert_eq!(detector.observe(&host(60, 50)).len(), 1);
    let gone = Pressure { cgroup: "/7".into(), gone: true, ..Pressure::default() };
    assert_eq!(detector.observe(&gone).len(), 1);
    assert_eq!(detector.observe(&boxed(61, 4)).len(), 1, "there is room again");
}

#[test]
fn a_cgroup_that_is_gone_is_over_at_once() {
    let mut detector = Detector::new(Limits::default());
    let gone = |at_s| Pressure {
        at_ns: at_s * S,
        cgroup: "/box".into(),
        gone: true,
        ..Pressure::default()
    };
    for at in [10, 20] {
        assert!(matches!(&detector.observe(&boxed(at, 4))[..], [Said::Risen { .. }]), "{at}");
        let said = detector.observe(&gone(at + 1));
        assert_eq!(said, [Said::Calm { cgroup: "/box".into(), why: GONE }]);
        assert!(detector.places.is_empty());
    }
    assert!(detector.observe(&gone(30)).is_empty(), "nobody has said anything of it");
    assert!(detector.places.is_empty());
}

#[test]
fn a_place_whose_last_record_was_lost_is_over_by_the_clock() {
    let mut detector = Detector::new(Limits::default());
    detector.observe(&boxed(1, 4));
    detector.observe(&boxed(20, 50));
    assert!(detector.silent(30 * S).is_empty(), "it holds");
    assert!(detector.silent(39 * S).is_empty(), "a record may come yet");
    assert_eq!(detector.silent(40 * S), ["/box"]);
    let unknown = Pressure { at_ns: 40 * S, cgroup: "/box".into(), ..Pressure::default() };
    let said = detector.observe(&unknown);
    assert_eq!(said, [Said::Calm { cgroup: "/box".into(), why: ENOUGH }]);
    assert!(detector.silent(100 * S).is_empty());
}

#[test]
fn a_finding_has_what_crossed_first() {
    let said = Detector::new(Limits::default()).observe(&Pressure {
        some_avg10: Some(12.34),
        full_avg10: Some(3.0),
        ..host(1, 15)
    });
    let [Said::Risen { finding, .. }] = &said[..] else { panic!("{said:?}") };
    let told: Vec<(&str, f64, Option<f64>)> =
        finding.measures.iter().map(|it| (it.name.as_str(), it.value, it.threshold)).collect();
    assert_eq!(
        told[..3],
        [
            ("level", 2.0, None),
            ("some_waits_avg10", 12.3, Some(10.0)),
            ("available", 15.0, Some(10.0)),
        ]
    );
    assert_eq!((finding.culprit, finding.contain, finding.rule), (None, false, RULE));
}

prop_compose! {
    fn any_pressure()(
        step in 0_u64..5 * S,
        left in 0_u64..=10 * GIB,
        some in 0.0_f32..=100.0,
        full in 0.0_f32..=100.0,
        windows in 0_u32..4,
        reclaim in 0.0_f32..20.0,
        pace in proptest::option::of(0_u64..GIB),
        falling in 0_u64..20 * S,
    ) -> Pressure {
        Pressure {
            at_ns: step,
            available_bytes: Some(left),
            some_percent: Some(some),
            some_avg10: Some(some / 3.0),
            full_avg10: Some(full / 3.0),
            full_percent: Some(full),
            full_windows: windows,
            reclaim_percent: Some(reclaim),
            falling_bytes_per_second: pace,
            falling_ns: falling,
            ..host(0, 0)
        }
    }
}

proptest! {
    // What is recorded is enough to come to the same findings again, and everything that is opened ends.
    #[test]
    fn records_are_enough(mut looks in prop::collection::vec(any_pressure(), 1..200)) {
        let limits = Limits::default();
        let (mut teller, mut live) = (Teller::default(), Detector::new(limits));
        let (mut at_ns, mut records, mut said) = (0, Vec::new(), Vec::new());
        let calm = (0..100).map(|_| Pressure { at_ns: S, ..host(0, 90) });
        looks.extend(calm);
        for mut look in looks {
            at_ns += look.at_ns;
            look.at_ns = at_ns;
            let rises = level(&look, teller.held(), &limits) >= Level::Warning
                && teller.held() < Level::Warning;
            prop_assert!(live.silent(at_ns).is_empty(), "who is watched tells in time");
            let told = teller.tells(&look, &limits);
            prop_assert!(told || !rises, "a rise that nobody was told of");
            if told {
                said.extend(live.observe(&look));
                prop_assert_eq!(live.held("", at_ns), teller.held());
                records.push(look);
            }
        }
        let mut again = Detector::new(limits);
        let replayed: Vec<Said> = records.iter().flat_map(|it| again.observe(it)).collect();
        prop_assert_eq!(&replayed, &said);
        prop_assert_eq!(live.held("", at_ns), Level::Calm);
        let opened = said.iter().any(|it| matches!(it, Said::Risen { .. }));
        let ended = matches!(said.last(), Some(Said::Calm { .. }));
        prop_assert!(!opened || ended);
    }
}
