mod whatever;

use prost_types::Timestamp;

use super::{ledger::DAY_NS, *};
use crate::proto::InvestigationState;

const MINUTE_NS: u64 = 60 * NS_PER_S;

/// A host that is up for two days.
const NOW: u64 = 2 * DAY_NS;

fn limits() -> Limits {
    Limits {
        per_hour: 1000,
        cooldown_s: 0,
        day: Day { runs: 0, tokens: 0, usd: Usd(0), critical_percent: 25 },
        tokens: 1_000_000,
        usd: Usd(2_000_000),
    }
}

fn request(id: &str, severity: Severity, fingerprint: &str) -> Request {
    Request {
        id: id.into(),
        incident: format!("of-{id}"),
        severity,
        fingerprint: fingerprint.into(),
        ours: false,
        by: By::Itself,
        estimate: Some(Estimate { tokens: 50_000, micro_usd: Some(100_000) }),
    }
}

fn warning(id: &str) -> Request {
    request(id, Severity::Warning, id)
}

fn cost(tokens: u64, usd: f64) -> proto::Cost {
    proto::Cost { tokens, usd, ..Default::default() }
}

fn refused(admission: Admission) -> String {
    match admission {
        Admission::Denied(denied) => denied.to_string(),
        other => panic!("{other:?}"),
    }
}

fn granted(admission: Admission) -> Grant {
    match admission {
        Admission::Go(grant) => grant,
        other => panic!("{other:?}"),
    }
}

/// From begin to end.
fn spend(budget: &mut Budget, now: u64, request: Request, tokens: u64, usd: f64) {
    let id = request.id.clone();
    granted(budget.ask(now, request));
    assert_eq!(budget.ended(now, &id, &cost(tokens, usd)), Next::default());
}

#[test]
fn never_about_ourselves_and_that_costs_nothing() {
    let mut budget = Budget::new(Limits { per_hour: 1, ..limits() });
    let ours = Request { ours: true, severity: Severity::Critical, ..warning("a") };
    assert_eq!(budget.ask(NOW, ours.clone()), Admission::Denied(Denied::Ourselves));
    let by_hand = Request { by: By::Hand, ..ours };
    assert_eq!(budget.ask(NOW, by_hand), Admission::Denied(Denied::Ourselves));
    granted(budget.ask(NOW, warning("b")));
}

#[test]
fn one_at_a_time_and_the_most_severe_next() {
    let mut budget = Budget::new(limits());
    granted(budget.ask(NOW, warning("first")));
    for (id, severity, position) in [
        ("info", Severity::Info, 1),
        ("warning", Severity::Warning, 1),
        ("critical", Severity::Critical, 1),
        ("later", Severity::Warning, 3),
    ] {
        let asked = budget.ask(NOW, request(id, severity, id));
        assert_eq!(asked, Admission::Queue { position, gave_way: None }, "{id}");
    }
    // An end of somebody else changes nothing.
    assert_eq!(budget.ended(NOW, "nobody", &cost(0, 0.0)), Next::default());
    let mut running = "first".to_owned();
    for expected in ["critical", "warning", "later", "info"] {
        let next = budget.ended(NOW, &running, &cost(0, 0.0));
        running = next.go.unwrap().0.id;
        assert_eq!(running, expected);
        assert_eq!(next.denied, []);
    }
    assert_eq!(budget.ended(NOW, &running, &cost(0, 0.0)), Next::default());
    granted(budget.ask(NOW, warning("free again")));
}

#[test]
fn the_queue_is_bounded_and_the_least_severe_newest_gives_way() {
    let mut budget = Budget::new(limits());
    granted(budget.ask(NOW, warning("first")));
    for n in 0..QUEUE {
        budget.ask(NOW, warning(&format!("w{n}")));
    }
    assert_eq!(budget.waiting(), QUEUE);
    assert_eq!(
        refused(budget.ask(NOW, warning("one too many"))),
        "16 investigations wait already that are as urgent: ask again when there are fewer"
    );
    let Admission::Queue { position: 1, gave_way: Some((least, denied)) } =
        budget.ask(NOW, request("urgent", Severity::Critical, "urgent"))
    else {
        panic!("it has a place");
    };
    assert_eq!(least.id, "w15");
    assert_eq!(
        denied.to_string(),
        "16 investigations wait already, and incident of-urgent is more urgent than this one"
    );
    assert_eq!(budget.waiting(), QUEUE);
}

#[test]
fn who_is_not_wanted_any_more_leaves_no_trace() {
    let mut budget = Budget::new(Limits { per_hour: 1, ..limits() });
    granted(budget.ask(NOW, warning("a")));
    // The hour is used up; it is told at once and not after it has waited.
    assert!(matches!(budget.ask(NOW, warning("b")), Admission::Denied(Denied::Hour { .. })));
    assert_eq!(budget.withdraw(NOW, "a"), Next::default());
    granted(budget.ask(NOW, warning("b")));
    let mut budget = Budget::new(limits());
    granted(budget.ask(NOW, warning("a")));
    budget.ask(NOW, warning("b"));
    budget.ask(NOW, warning("c"));
    assert_eq!(budget.withdraw(NOW, "b"), Next::default());
    assert_eq!(budget.withdraw(NOW, "a").go.unwrap().0.id, "c");
}

#[test]
fn what_earlier_lives_have_spent_counts_though_no_other_life_begins() {
    let day = Day { tokens: 3_000_000, ..limits().day };
    let mut budget = Budget::new(Limits { day, ..limits() });
    let earlier = Earlier {
        id: "a".into(),
        incident: "of-a".into(),
        fingerprint: "a".into(),
        severity: Severity::Critical,
        began_ago_ns: MINUTE_NS,
        ended_ago_ns: 0,
        cost: cost(2_950_000, 0.0),
    };
    budget.remember(NOW, [earlier]);
    let resumed = Request { by: By::Resumed, ..request("a", Severity::Critical, "a") };
    granted(budget.ask(NOW, resumed));
    assert_eq!(budget.withdraw(NOW, "a"), Next::default());
    let said = refused(budget.ask(NOW, request("b", Severity::Critical, "b")));
    assert!(said.starts_with("2,950,000 of 3,000,000 tokens"), "{said}");
}

#[test]
fn so_many_an_hour() {
    let mut budget = Budget::new(Limits { per_hour: 2, ..limits() });
    spend(&mut budget, NOW, warning("a"), 0, 0.0);
    spend(&mut budget, NOW + 10 * MINUTE_NS, warning("b"), 0, 0.0);
    let at = NOW + 53 * MINUTE_NS;
    let said = "2 of 2 investigations an hour have begun (investigate.max_per_hour): the next one may in 7 min";
    assert_eq!(refused(budget.ask(at, warning("c"))), said);
    let by_hand = Request { by: By::Hand, ..warning("c") };
    assert_eq!(refused(budget.ask(at, by_hand)), said, "a bound is one for persons, too");
    granted(budget.ask(NOW + HOUR_NS, warning("c")));
}

#[test]
fn one_cause_is_looked_into_once_unless_it_gets_worse_or_somebody_asks() {
    let mut budget = Budget::new(Limits { cooldown_s: 3600, ..limits() });
    let same = |id: &str, severity| request(id, severity, "cause");
    granted(budget.ask(NOW, same("a", Severity::Warning)));
    assert_eq!(
        refused(budget.ask(NOW, same("b", Severity::Warning))),
        "the same cause is being investigated for incident of-a"
    );
    // It is worse now, and of those only one.
    let worse = budget.ask(NOW, same("c", Severity::Critical));
    assert_eq!(worse, Admission::Queue { position: 1, gave_way: None });
    assert_eq!(
        refused(budget.ask(NOW, same("d", Severity::Critical))),
        "the same cause waits to be investigated for incident of-c"
    );
    let next = budget.ended(NOW + MINUTE_NS, "a", &cost(0, 0.0));
    assert_eq!(next.go.unwrap().0.id, "c");
    budget.ended(NOW + 2 * MINUTE_NS, "c", &cost(0, 0.0));
    let at = NOW + 21 * MINUTE_NS;
    assert_eq!(
        refused(budget.ask(at, same("e", Severity::Critical))),
        "the same cause was investigated 20 min ago for incident of-c: an agent looks into it again in 40 min, \
         or at once where it is more severe"
    );
    let by_hand = Request { by: By::Hand, ..same("f", Severity::Info) };
    granted(budget.ask(at, by_hand));
    budget.ended(at, "f", &cost(0, 0.0));
    granted(budget.ask(NOW + 61 * MINUTE_NS, same("g", Severity::Critical)));
}

#[test]
fn a_worse_incident_of_one_cause_takes_the_place_of_the_one_that_waits() {
    let mut budget = Budget::new(limits());
    granted(budget.ask(NOW, warning("first")));
    budget.ask(NOW, request("mild", Severity::Info, "cause"));
    let Admission::Queue { position: 1, gave_way: Some((mild, denied)) } =
        budget.ask(NOW, request("grave", Severity::Critical, "cause"))
    else {
        panic!("it waits");
    };
    assert_eq!(mild.id, "mild");
    assert_eq!(denied.to_string(), "the same cause waits to be investigated for incident of-grave");
    assert_eq!(budget.waiting(), 1);
}

#[test]
fn no_known_cause_is_never_the_same() {
    let mut budget = Budget::new(Limits { cooldown_s: 3600, ..limits() });
    for id in ["a", "b", "c"] {
        spend(&mut budget, NOW, request(id, Severity::Info, ""), 0, 0.0);
    }
}

#[test]
fn forty_alerts_for_one_cause_are_one_investigation() {
    let mut budget = Budget::new(Limits { cooldown_s: 3600, per_hour: 12, ..limits() });
    let (mut begun, mut denied) = (0, 0);
    for alert in 0..40 {
        match budget
            .ask(NOW + alert * NS_PER_S, request(&format!("i{alert}"), Severity::Warning, "x"))
        {
            Admission::Go(_) => begun += 1,
            Admission::Denied(Denied::Running { incident } | Denied::Cooldown { incident, .. }) => {
                assert_eq!(incident, "of-i0");
                denied += 1;
            }
            other => panic!("{other:?}"),
        }
        if alert == 20 {
            budget.ended(NOW + alert * NS_PER_S, "i0", &cost(300_000, 0.2));
        }
    }
    assert_eq!((begun, denied), (1, 39));
}

/// A week in which one cause makes an alert every minute, another one every hour, and a third rarely.
#[test]
fn a_week_of_alerts_stays_within_its_days() {
    let day = Day { runs: 24, tokens: 3_000_000, usd: Usd(2_000_000), critical_percent: 25 };
    let mut budget = Budget::new(Limits { cooldown_s: 3600, per_hour: 12, day, ..limits() });
    let mut runs: Vec<(u64, &str)> = Vec::new();
    for minute in 0..7 * 24 * 60_u64 {
        let now = NOW + minute * MINUTE_NS;
        for (cause, severity, every) in [
            ("often", Severity::Warning, 1),
            ("hourly", Severity::Warning, 60),
            ("rare", Severity::Critical, 1_000),
        ] {
            if minute % every != 0 {
                continue;
            }
            let id = format!("{cause}-{minute}");
            if let Admission::Go(_) = budget.ask(now, request(&id, severity, cause)) {
                runs.push((now, cause));
                budget.ended(now, &id, &cost(200_000, 0.1));
            }
        }
    }
    let of = |wanted: &str| runs.iter().filter(|(_, cause)| *cause == wanted).count();
    // 10,080 minutes: alert 0, 1,000, … 10,000 of the third, and none of them was refused.
    assert_eq!(of("rare"), 11);
    // Of 3,000,000 tokens a quarter is reserved: of the others ten runs of 200,000 leave enough for one more, and
    // eleven do not. The reserve has room for four.
    assert!(of("often") + of("hourly") >= 7 * 10, "{} {}", of("often"), of("hourly"));
    for (begin, cause) in &runs {
        let before = |(at, _): &&(u64, &str)| *at < *begin && *at + DAY_NS > *begin;
        let most = if *cause == "rare" { 14 } else { 10 };
        assert!(runs.iter().filter(before).count() <= most, "{cause}");
    }
}

#[test]
fn a_day_is_bounded_and_says_until_when() {
    let day = Day { runs: 4, tokens: 2_000_000, usd: Usd(3_000_000), critical_percent: 25 };
    let mut budget = Budget::new(Limits { day, ..limits() });
    spend(&mut budget, NOW, warning("a"), 900_000, 0.5);
    spend(&mut budget, NOW + HOUR_NS, warning("b"), 300_000, 0.5);
    // 1,500,000 are not reserved, of which 300,000 are left: less than a run may take, enough for one.
    let grant = granted(budget.ask(NOW + HOUR_NS, warning("c")));
    assert_eq!(grant, Grant { tokens: 300_000, usd: Usd(1_250_000) });
    let cut = grant.cut(&Bounds::default());
    assert_eq!((cut.tokens, cut.usd, cut.turns), (300_000, Usd(1_250_000), 40));
    budget.ended(NOW + 2 * HOUR_NS, "c", &cost(250_000, 0.5));
    let at = NOW + 2 * HOUR_NS;
    assert_eq!(
        refused(budget.ask(at, warning("d"))),
        "3 of 4 runs of the last 24 hours are used (investigate.day.runs), and 25 % are kept for critical \
         incidents: it may begin in 22 h"
    );
    let critical = |id: &str| request(id, Severity::Critical, id);
    let grant = granted(budget.ask(at, critical("e")));
    assert_eq!(grant, Grant { tokens: 550_000, usd: Usd(1_500_000) });
    budget.ended(at, "e", &cost(540_000, 0.5));
    let said = refused(budget.ask(at, critical("f")));
    assert_eq!(
        said,
        "4 of 4 runs of the last 24 hours are used (investigate.day.runs): it may begin in 22 h"
    );
    granted(budget.ask(NOW + DAY_NS, critical("f")));
}

#[test]
fn what_is_left_must_be_enough_to_come_to_something() {
    let day = Day { runs: 0, tokens: 0, usd: Usd(2_000_000), critical_percent: 0 };
    let mut budget = Budget::new(Limits { day, ..limits() });
    spend(&mut budget, NOW, warning("a"), 0, 1.81);
    assert_eq!(
        refused(budget.ask(NOW, warning("b"))),
        "$1.81 of $2.00 of the last 24 hours are used (investigate.day.usd); this one needs $0.20 at least: it \
         may begin in 24 h"
    );
    // Who costs more from the first answer on needs more.
    let day = Day { runs: 0, tokens: 1_000_000, usd: Usd(0), critical_percent: 0 };
    let mut budget = Budget::new(Limits { day, ..limits() });
    spend(&mut budget, NOW, warning("a"), 700_000, 0.0);
    let estimate = Some(Estimate { tokens: 300_001, micro_usd: None });
    assert!(
        refused(budget.ask(NOW, Request { estimate, ..warning("b") }))
            .contains("; this one needs 300,001 at least"),
    );
    granted(budget.ask(NOW, warning("c")));
}

#[test]
fn a_program_that_counts_nothing_is_bounded_by_runs() {
    let day = Day { runs: 2, tokens: 100, usd: Usd(1), critical_percent: 0 };
    let mut budget = Budget::new(Limits { day, ..limits() });
    for id in ["a", "b"] {
        spend(&mut budget, NOW, Request { estimate: None, ..warning(id) }, 0, 0.0);
    }
    let third = budget.ask(NOW, Request { estimate: None, ..warning("c") });
    assert!(matches!(third, Admission::Denied(Denied::Day { what: What::Runs, .. })));
}

#[test]
fn a_reserve_of_all_is_for_critical_ones_alone() {
    let day = Day { runs: 4, tokens: 0, usd: Usd(0), critical_percent: 100 };
    let mut budget = Budget::new(Limits { day, ..limits() });
    assert_eq!(
        refused(budget.ask(NOW, warning("a"))),
        "0 of 4 runs of the last 24 hours are used (investigate.day.runs), and 100 % are kept for critical \
         incidents: only a critical one may begin"
    );
    granted(budget.ask(NOW, request("b", Severity::Critical, "b")));
}

#[test]
fn who_waited_in_vain_is_told() {
    let day = Day { runs: 0, tokens: 1_000_000, usd: Usd(0), critical_percent: 0 };
    let mut budget = Budget::new(Limits { day, ..limits() });
    granted(budget.ask(NOW, warning("a")));
    for id in ["b", "c"] {
        assert!(matches!(budget.ask(NOW, warning(id)), Admission::Queue { .. }));
    }
    let next = budget.ended(NOW, "a", &cost(950_000, 0.0));
    assert_eq!(next.go, None);
    let told: Vec<_> = next.denied.iter().map(|(request, _)| request.id.as_str()).collect();
    assert_eq!(told, ["b", "c"]);
    assert_eq!(budget.waiting(), 0);
}

#[test]
fn one_that_was_cut_off_goes_on_and_counts_once() {
    let day = Day { runs: 1, tokens: 1_000_000, usd: Usd(0), critical_percent: 0 };
    let mut budget = Budget::new(Limits { cooldown_s: 3600, per_hour: 1, day, ..limits() });
    let earlier = Earlier {
        id: "a".into(),
        incident: "of-a".into(),
        fingerprint: "a".into(),
        severity: Severity::Warning,
        began_ago_ns: 10 * MINUTE_NS,
        ended_ago_ns: 0,
        cost: cost(400_000, 0.1),
    };
    // A boot clock that is younger than what is remembered.
    let now = MINUTE_NS;
    budget.remember(now, [earlier.clone()]);
    assert!(matches!(
        budget.ask(now, request("b", Severity::Warning, "a")),
        Admission::Denied(Denied::Cooldown { ago_ns, .. }) if ago_ns == 10 * MINUTE_NS
    ));
    let again = Request { by: By::Resumed, ..warning("a") };
    // What it has spent itself is within its own bound.
    assert_eq!(granted(budget.ask(now, again)).tokens, 1_000_000);
    budget.ended(now + MINUTE_NS, "a", &cost(600_000, 0.2));
    let critical = request("c", Severity::Critical, "c");
    let Admission::Denied(Denied::Hour { used, .. }) = budget.ask(now, critical) else { panic!() };
    assert_eq!(used, 1, "two lives are one run");
    // What nobody knows of is as any other.
    let unknown = Request { by: By::Resumed, ..warning("z") };
    assert!(matches!(budget.ask(now, unknown), Admission::Denied(Denied::Hour { .. })));
}

#[test]
fn what_the_log_has_counts_if_it_cost_something() {
    use InvestigationState::{Done, Failed, Interrupted, Queued, Running, Suppressed};

    let now = Timestamp { seconds: 1_000_000, nanos: 0 };
    let ago = |seconds: i64| Some(Timestamp { seconds: now.seconds - seconds, nanos: 0 });
    let one = |agent: &str, state: InvestigationState, began, ended| proto::Investigation {
        id: "x-1".into(),
        agent: agent.into(),
        state: state.into(),
        started_at: began,
        ended_at: ended,
        lives: 1,
        ..Default::default()
    };
    let found = |one: &proto::Investigation| Earlier::of(one, now);
    let incident = proto::Incident {
        id: "x".into(),
        fingerprint: "f".into(),
        severity: Severity::Critical.into(),
        ..Default::default()
    };
    let mut done = one("claude", Done, ago(900), ago(600));
    done.cost = Some(cost(5, 0.5));
    assert_eq!(
        found(&done).unwrap().about(&incident),
        Earlier {
            id: "x-1".into(),
            incident: "x".into(),
            fingerprint: "f".into(),
            severity: Severity::Critical,
            began_ago_ns: 900 * NS_PER_S,
            ended_ago_ns: 600 * NS_PER_S,
            cost: cost(5, 0.5),
        }
    );
    for (one, counts) in [
        (one("claude", Running, ago(900), None), true),
        (one("command", Interrupted, ago(900), ago(1)), true),
        (one("claude", Failed, ago(900), ago(1)), true),
        (proto::Investigation { lives: 0, ..one("command", Failed, ago(9), ago(9)) }, false),
        (one("claude", Suppressed, ago(900), ago(900)), false),
        (one("claude", Queued, ago(900), None), false),
        (one("builtin", Done, ago(900), ago(900)), false),
        (one("mcp", Done, ago(900), ago(900)), false),
        (one("codex", Done, ago(90_000), ago(86_399)), true),
        (one("codex", Done, ago(90_000), ago(86_400)), false),
        // The clock was set back meanwhile.
        (one("codex", Done, ago(-50), ago(-60)), true),
    ] {
        assert_eq!(found(&one).is_some(), counts, "{one:?}");
    }
    assert_eq!(found(&one("codex", Done, ago(-50), ago(-60))).unwrap().began_ago_ns, 0);
    let odd = Some(Timestamp { seconds: i64::MIN, nanos: i32::MIN });
    assert!(found(&one("codex", Done, odd, odd)).is_none());
}

#[test]
fn who_takes_anothers_place_begins_before_all_that_wait_and_is_bounded_as_they_are() {
    let day = Day { tokens: 1_200_000, runs: 0, usd: Usd(0), critical_percent: 0 };
    let mut budget = Budget::new(Limits { day, cooldown_s: 3600, ..limits() });
    granted(budget.ask(NOW, request("first", Severity::Warning, "cause")));
    let waits = request("waits", Severity::Critical, "other");
    assert!(matches!(budget.ask(NOW, waits), Admission::Queue { position: 1, .. }));
    let next = |id: &str| Request { by: By::Successor, ..request(id, Severity::Warning, "cause") };

    budget.spent(NOW, "first", &cost(900_000, 0.0));
    // No cooldown is against it: its cause was not looked into to the end.
    assert_eq!(granted(budget.ask(NOW, next("second"))).tokens, 300_000);
    // The end of the first one frees nothing, and is counted once.
    assert_eq!(budget.ended(NOW, "first", &cost(900_000, 0.0)), Next::default());
    budget.spent(NOW, "second", &cost(250_000, 0.0));
    let refused = refused(budget.ask(NOW, next("third")));
    assert!(refused.starts_with("1,150,000 of 1,200,000 tokens"), "{refused}");
    let after = budget.ended(NOW, "second", &cost(250_000, 0.0));
    assert!(after.go.is_none());
    assert_eq!(after.denied[0].0.id, "waits");
}
