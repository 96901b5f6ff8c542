//! Bounds that hold whatever happens in whatever order, and whatever a log says.

use proptest::prelude::*;

use super::*;

/// What happens to a budget.
#[derive(Clone, Debug)]
enum Step {
    Ask {
        severity: Severity,
        cause: u8,
        by: By,
        estimate: Option<Estimate>,
    },
    /// The one that runs ends, with such a part of what it was granted, percent.
    End(u64),
    Withdraw(u8),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let severity =
        prop_oneof![Just(Severity::Info), Just(Severity::Warning), Just(Severity::Critical),];
    let by = prop_oneof![6 => Just(By::Itself), 1 => Just(By::Hand), 1 => Just(By::Resumed)];
    let estimate = proptest::option::of(
        (0_u64..2_000_000, proptest::option::of(0_u64..3_000_000))
            .prop_map(|(tokens, micro_usd)| Estimate { tokens, micro_usd }),
    );
    prop_oneof![
        6 => (severity, 0_u8..8, by, estimate).prop_map(|(severity, cause, by, estimate)| {
            Step::Ask { severity, cause, by, estimate }
        }),
        4 => (0_u64..=100).prop_map(Step::End),
        1 => any::<u8>().prop_map(Step::Withdraw),
        3 => (0_u64..4 * HOUR_NS).prop_map(Step::Wait),
    ]
}

/// One that has begun, as the test counts it.
struct Run {
    id: String,
    severity: Severity,
    began: u64,
    ended: Option<u64>,
    grant: Option<Grant>,
    tokens: u64,
    micro_usd: u64,
}

proptest! {
    #[test]
    fn whatever_happens_in_whatever_order_the_bounds_hold(
        steps in proptest::collection::vec(any_step(), 0..120),
        per_hour in 1_u32..6, runs in 0_u32..12, percent in 0_u32..=100,
    ) {
        let day = Day { runs, tokens: 3_000_000, usd: Usd(5_000_000), critical_percent: percent };
        let bounds = Limits { per_hour, cooldown_s: 3600, day: day.clone(), ..limits() };
        let mut budget = Budget::new(bounds);
        let (mut now, mut number, mut begun): (u64, u32, Vec<Run>) = (NOW, 0, Vec::new());
        let open = |bound: u64, severity: Severity| {
            let part = if severity == Severity::Critical { 0 } else { u64::from(percent) };
            bound - bound * part / 100
        };
        for step in steps {
            let mut started: Option<(Request, Grant)> = None;
            match step {
                Step::Ask { severity, cause, by, estimate } => {
                    number += 1;
                    let asked = Request {
                        by, estimate, ..request(&format!("r{number}"), severity, &format!("c{cause}"))
                    };
                    match budget.ask(now, asked.clone()) {
                        Admission::Go(grant) => started = Some((asked, grant)),
                        Admission::Queue { position, .. } => {
                            prop_assert!((1..=budget.waiting()).contains(&position));
                        }
                        Admission::Denied(denied) => {
                            prop_assert!(!denied.to_string().is_empty());
                        }
                    }
                }
                Step::End(part) => {
                    if let Some(run) = begun.iter_mut().find(|run| run.ended.is_none()) {
                        run.ended = Some(now);
                        if let Some(grant) = run.grant {
                            run.tokens = grant.tokens / 100 * part;
                            run.micro_usd = grant.usd.0 / 100 * part;
                        }
                        let spent = cost(run.tokens, Usd(run.micro_usd).dollars());
                        started = budget.ended(now, &run.id, &spent).go;
                    }
                }
                Step::Withdraw(which) => {
                    let id = format!("r{which}");
                    let waits = !begun.iter().any(|run| run.id == id);
                    if waits {
                        prop_assert_eq!(budget.withdraw(now, &id), Next::default());
                    }
                }
                Step::Wait(ns) => now += ns,
            }
            prop_assert!(budget.waiting() <= QUEUE);
            let Some((asked, grant)) = started else { continue };
            // One at a time.
            prop_assert!(begun.iter().all(|run| run.ended.is_some()));
            let day_ago = now - DAY_NS;
            let within = |run: &&Run| run.ended.is_some_and(|ended| ended > day_ago);
            let sum = |of: fn(&Run) -> u64| begun.iter().filter(within).map(of).sum::<u64>();
            let last_hour = begun.iter().filter(|run| now - run.began < HOUR_NS).count();
            prop_assert!(last_hour < per_hour as usize);
            if runs > 0 {
                let used = sum(|_| 1);
                prop_assert!(used < open(runs.into(), asked.severity), "{used} runs");
            }
            if asked.estimate.is_some() {
                // It is granted no more than is left, and the reserve is not touched.
                let left = open(3_000_000, asked.severity).saturating_sub(sum(|run| run.tokens));
                prop_assert!(grant.tokens <= left, "{grant:?} of {left}");
                let left = open(5_000_000, asked.severity).saturating_sub(sum(|run| run.micro_usd));
                prop_assert!(grant.usd.0 <= left, "{grant:?} of {left}");
                prop_assert!(grant.tokens <= 1_000_000 && grant.usd <= Usd(2_000_000));
                prop_assert!(grant.tokens >= 100_000 && grant.usd >= Usd(200_000), "{grant:?}");
            }
            begun.push(Run {
                id: asked.id,
                severity: asked.severity,
                began: now,
                ended: None,
                grant: asked.estimate.map(|_| grant),
                tokens: 0,
                micro_usd: 0,
            });
        }
        // What others than critical ones took, one after the other, left the reserve alone.
        let mild = |run: &&Run| run.severity != Severity::Critical && run.grant.is_some();
        for (index, run) in begun.iter().enumerate().filter(|(_, run)| mild(run)) {
            let day_ago = run.began - DAY_NS;
            let before = begun[..index].iter().filter(|other| other.ended > Some(day_ago));
            let tokens = before.map(|other| other.tokens).sum::<u64>() + run.tokens;
            prop_assert!(tokens <= open(3_000_000, Severity::Info), "{tokens}");
        }
    }

    #[test]
    fn whatever_a_log_says_no_bound_is_passed(
        ages in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<f64>()), 0..20),
        now in any::<u64>(),
    ) {
        let mut budget = Budget::new(limits());
        let earlier = ages.iter().enumerate().map(|(n, &(began, ended, tokens, usd))| Earlier {
            id: n.to_string(),
            incident: n.to_string(),
            fingerprint: String::new(),
            severity: Severity::Info,
            began_ago_ns: began,
            ended_ago_ns: ended,
            cost: cost(tokens, usd),
        });
        budget.remember(now, earlier);
        match budget.ask(now, warning("a")) {
            Admission::Go(grant) => prop_assert!(grant.tokens <= 1_000_000),
            Admission::Denied(denied) => prop_assert!(!denied.to_string().is_empty()),
            Admission::Queue { .. } => prop_assert!(false, "nothing runs"),
        }
    }
}
