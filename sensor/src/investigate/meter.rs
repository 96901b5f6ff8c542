//! What one run has used of its bounds, over all its lives. Pure: it is told what happens.

use super::{
    agent::{Said, Usage},
    prices::{self, Prices},
};
use crate::{
    config::{Bounds, Usd},
    present::text::{dollars, grouped},
    proto,
};

/// Of a bound, percent: here a line of the transcript warns, so that who pays can see that it is tight.
const WARN_PERCENT: u64 = 80;

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    turns: u64,
    tool_calls: u64,
    input: u64,
    cached: u64,
    output: u64,
    /// Millionths of a US dollar, as far as anybody knows.
    micro_usd: u64,
}

impl Used {
    fn of(cost: &proto::Cost) -> Self {
        // What an older record does not tell apart was read anew.
        let told = cost.cached_tokens.saturating_add(cost.output_tokens);
        Self {
            turns: cost.turns.into(),
            tool_calls: cost.tool_calls.into(),
            input: cost.input_tokens.max(cost.tokens.saturating_sub(told)),
            cached: cost.cached_tokens,
            output: cost.output_tokens,
            micro_usd: micro(cost.usd),
        }
    }

    fn tokens(&self) -> u64 {
        self.input.saturating_add(self.cached).saturating_add(self.output)
    }

    fn spend(&mut self, usage: &Usage, micro_usd: u64) {
        self.input = self.input.saturating_add(usage.input);
        self.cached = self.cached.saturating_add(usage.cached);
        self.output = self.output.saturating_add(usage.output);
        self.micro_usd = self.micro_usd.saturating_add(micro_usd);
    }

    fn plus(self, more: Self) -> Self {
        Self {
            turns: self.turns.saturating_add(more.turns),
            tool_calls: self.tool_calls.saturating_add(more.tool_calls),
            input: self.input.saturating_add(more.input),
            cached: self.cached.saturating_add(more.cached),
            output: self.output.saturating_add(more.output),
            micro_usd: self.micro_usd.saturating_add(more.micro_usd),
        }
    }
}

/// Millionths of a US dollar; nothing for what is no amount.
pub fn micro(usd: f64) -> u64 {
    (usd * 1e6).round() as u64
}

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Turns,
    ToolCalls,
    Tokens,
    Usd,
}

impl Bound {
    const ALL: [Self; 4] = [Self::Turns, Self::ToolCalls, Self::Tokens, Self::Usd];

    fn of(self, used: &Used) -> u64 {
        match self {
            Self::Turns => used.turns,
            Self::ToolCalls => used.tool_calls,
            Self::Tokens => used.tokens(),
            Self::Usd => used.micro_usd,
        }
    }

    /// What was used of it, as a sentence without its full stop.
    fn sentence(self, used: u64, bound: u64) -> String {
        let (of, bound) = match self {
            Self::Usd => (dollars(used), dollars(bound)),
            _ => (grouped(used), grouped(bound)),
        };
        match self {
            Self::Turns => format!("its model has answered {of} of {bound} times"),
            Self::ToolCalls => format!("it has called tools {of} of {bound} times"),
            Self::Tokens => format!("it has used {of} of {bound} tokens"),
            Self::Usd => format!("it has cost {of} of {bound}"),
        }
    }
}

/// A bound was exceeded: the run is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .what.sentence(*.used, *.bound))]
pub struct Exceeded {
    pub what: Bound,
    /// Both as the bound counts: times, tokens, millionths of a US dollar.
    pub used: u64,
    pub bound: u64,
}

/// The first bound of which nothing is left, as a sentence: there is no sense in beginning another stage.
pub fn exhausted(bounds: &Bounds, spent: &proto::Cost) -> Option<String> {
    let used = Used::of(spent);
    let all = Bound::ALL.into_iter().zip(all(bounds));
    all.map(|(what, bound)| (what, what.of(&used), bound))
        .find(|(_, used, bound)| used >= bound)
        .map(|(what, used, bound)| what.sentence(used, bound))
}

/// In the order of [`Bound::ALL`].
fn all(bounds: &Bounds) -> [u64; 4] {
    [bounds.turns.into(), bounds.tool_calls.into(), bounds.tokens, bounds.usd.0]
}

/// Of one run.
#[derive(Debug)]
pub struct Meter {
    bounds: [u64; 4],
    prices: Prices,
    model: String,
    /// By the lives before this one.
    before: Used,
    /// By this one.
    life: Used,
    wall_before_ns: u64,
    estimated_usd: f64,
    warned: [bool; 4],
    warnings: Vec<String>,
    unpriced: bool,
}

impl Meter {
    /// `spent_before`: what the run had cost when it was cut off, of a new one nothing. Its `estimated_usd` is kept.
    pub fn new(bounds: &Bounds, prices: &Prices, model: &str, spent_before: &proto::Cost) -> Self {
        let mut meter = Self {
            bounds: all(bounds),
            prices: prices.clone(),
            model: model.to_owned(),
            before: Used::of(spent_before),
            life: Used::default(),
            wall_before_ns: spent_before.wall_ns,
            estimated_usd: spent_before.estimated_usd,
            warned: [false; 4],
            warnings: Vec::new(),
            unpriced: false,
        };
        // Its first life has said so.
        meter.warn();
        meter.warnings.clear();
        meter
    }

    /// The run is taken up again: what it has used so far stays used. What a program says in total from here on is
    /// of this life.
    pub fn begin_life(&mut self) {
        self.before = self.used();
        self.life = Used::default();
    }

    /// Counts what an event says. Says which bound is exceeded, and says so again with each event after that.
    pub fn take(&mut self, said: &Said) -> Option<Exceeded> {
        match said {
            Said::Turn => self.life.turns = self.life.turns.saturating_add(1),
            Said::Tool(_) => self.life.tool_calls = self.life.tool_calls.saturating_add(1),
            Said::Spent(usage) => {
                let cost = self.price(usage);
                self.life.spend(usage, cost);
            }
            Said::Total(usage) => {
                let cost = self.price(usage);
                let Used { turns, tool_calls, .. } = self.life;
                self.life = Used { turns, tool_calls, ..Used::default() };
                self.life.spend(usage, cost);
            }
            Said::Session(_) | Said::Text(_) | Said::Trouble(_) | Said::End(_) => {}
        }
        self.warn();
        self.exceeded()
    }

    /// The first bound that is exceeded.
    pub fn exceeded(&self) -> Option<Exceeded> {
        let used = self.used();
        let all = Bound::ALL.into_iter().zip(self.bounds);
        all.map(|(what, bound)| Exceeded { what, used: what.of(&used), bound })
            .find(|exceeded| exceeded.used > exceeded.bound)
    }

    /// What is worth a line of the transcript, once each: a bound of which 80 % are used, or that nobody knows what
    /// the model costs.
    pub fn warning(&mut self) -> Option<String> {
        (!self.warnings.is_empty()).then(|| self.warnings.remove(0))
    }

    /// What the run has cost so far, its earlier lives included; `wall_ns` is of this life.
    pub fn cost(&self, wall_ns: u64) -> proto::Cost {
        let used = self.used();
        let times = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        proto::Cost {
            usd: Usd(used.micro_usd).dollars(),
            tokens: used.tokens(),
            wall_ns: self.wall_before_ns.saturating_add(wall_ns),
            input_tokens: used.input,
            cached_tokens: used.cached,
            output_tokens: used.output,
            turns: times(used.turns),
            tool_calls: times(used.tool_calls),
            estimated_usd: self.estimated_usd,
        }
    }

    fn used(&self) -> Used {
        self.before.plus(self.life)
    }

    /// 0 where nobody can say, which is told once.
    fn price(&mut self, usage: &Usage) -> u64 {
        let cost = self.prices.cost(&self.model, usage);
        if cost.is_none() && prices::tokens(usage) > 0 && !self.unpriced {
            self.unpriced = true;
            let model = match self.model.as_str() {
                "" => "the model that it has chosen".to_owned(),
                model => model.to_owned(),
            };
            self.warnings.push(format!(
                "nobody knows what {model} costs: only tokens are bounded, not money; [[investigate.prices]] can say it"
            ));
        }
        cost.unwrap_or(0)
    }

    fn warn(&mut self) {
        let used = self.used();
        for (index, what) in Bound::ALL.into_iter().enumerate() {
            let (used, bound) = (what.of(&used), self.bounds[index]);
            let percent = u128::from(used) * 100 / u128::from(bound.max(1));
            if percent >= WARN_PERCENT.into() && !self.warned[index] {
                self.warned[index] = true;
                self.warnings.push(format!("{} ({percent} %)", what.sentence(used, bound)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODEL: &str = "gpt-6-sol";

    fn bounds(tokens: u64, usd: u64) -> Bounds {
        Bounds { turns: 5, tool_calls: 10, tokens, usd: Usd(usd), ..Bounds::default() }
    }

    fn meter(tokens: u64, usd: u64) -> Meter {
        Meter::new(&bounds(tokens, usd), &Prices::default(), MODEL, &proto::Cost::default())
    }

    fn usage(input: u64, cached: u64, output: u64) -> Usage {
        Usage { input, cached, output, micro_usd: None }
    }

    fn said(meter: &mut Meter, said: &Said) -> Option<String> {
        meter.take(said).map(|exceeded| exceeded.to_string())
    }

    #[test]
    fn twenty_requests_below_the_bound_are_above_it_together() {
        let mut meter = meter(1_000_000, 100_000_000);
        let one = Said::Spent(usage(90_000, 9_000, 1_000));
        for _ in 0..10 {
            assert_eq!(meter.take(&one), None);
        }
        assert_eq!(said(&mut meter, &one).unwrap(), "it has used 1,100,000 of 1,000,000 tokens");
        assert_eq!(meter.warning().unwrap(), "it has used 800,000 of 1,000,000 tokens (80 %)");
        assert_eq!(meter.warning(), None, "once");
        let again = said(&mut meter, &Said::Text("more".into())).unwrap();
        assert_eq!(again, "it has used 1,100,000 of 1,000,000 tokens", "and it stays so");
    }

    #[test]
    fn each_bound_says_its_own() {
        let mut turns = meter(1_000_000, 1_000_000);
        for turn in 1..=5 {
            assert_eq!(turns.take(&Said::Turn), None, "{turn}");
        }
        let said_of = said(&mut turns, &Said::Turn).unwrap();
        assert_eq!(said_of, "its model has answered 6 of 5 times");
        assert_eq!(turns.warning().unwrap(), "its model has answered 4 of 5 times (80 %)");

        let mut tools = meter(1_000_000, 1_000_000);
        let last = (0..11).filter_map(|_| tools.take(&Said::Tool("get".into()))).last().unwrap();
        assert_eq!(last.to_string(), "it has called tools 11 of 10 times");

        // 100,000 × 2 + 90,000 × 10 = 1,100,000.
        let mut money = meter(1_000_000, 1_000_000);
        let last = money.take(&Said::Spent(usage(100_000, 0, 90_000))).unwrap();
        assert_eq!(last, Exceeded { what: Bound::Usd, used: 1_100_000, bound: 1_000_000 });
        assert_eq!(last.to_string(), "it has cost $1.10 of $1.00");
        assert_eq!(money.warning().unwrap(), "it has cost $1.10 of $1.00 (110 %)");
    }

    #[test]
    fn a_total_takes_the_place_of_what_was_known() {
        let mut meter = meter(1_000_000, 1_000_000);
        for said in [
            Said::Turn,
            Said::Spent(usage(1_000, 0, 100)),
            Said::Spent(usage(1_000, 0, 100)),
            Said::Total(Usage { micro_usd: Some(70), ..usage(1_500, 10, 150) }),
            Said::End(Ok(())),
        ] {
            assert_eq!(meter.take(&said), None);
        }
        let cost = meter.cost(9);
        assert_eq!((cost.input_tokens, cost.cached_tokens, cost.output_tokens), (1_500, 10, 150));
        assert_eq!((cost.tokens, cost.turns, cost.tool_calls, cost.wall_ns), (1_660, 1, 0, 9));
        assert!((cost.usd - 0.000_07).abs() < 1e-12, "{}", cost.usd);
    }

    #[test]
    fn lives_add_up() {
        let mut first = meter(10_000, 1_000_000);
        first.take(&Said::Turn);
        first.take(&Said::Total(usage(8_100, 0, 0)));
        assert!(first.warning().is_some());
        let mut cost = first.cost(5_000);
        cost.estimated_usd = 0.25;
        // Another process takes it up, from the record.
        let prices = Prices::default();
        let mut second = Meter::new(&bounds(10_000, 1_000_000), &prices, MODEL, &cost);
        assert_eq!(second.warning(), None, "its first life has warned");
        assert_eq!(second.take(&Said::Total(usage(1_900, 0, 0))), None);
        // In the same process.
        second.begin_life();
        let said = said(&mut second, &Said::Total(usage(1, 0, 0))).unwrap();
        assert_eq!(said, "it has used 10,001 of 10,000 tokens");
        let all = second.cost(1_000);
        assert_eq!((all.turns, all.wall_ns, all.input_tokens), (1, 6_000, 10_001));
        assert!((all.estimated_usd - 0.25).abs() < 1e-12);
        assert!((all.usd - 0.020_002).abs() < 1e-12, "{}", all.usd);
    }

    #[test]
    fn a_record_that_knows_only_the_sum_counts() {
        let before = proto::Cost { tokens: 500, output_tokens: 100, ..Default::default() };
        let meter = Meter::new(&bounds(10_000, 1), &Prices::default(), MODEL, &before);
        assert_eq!(meter.cost(0).tokens, 500);
    }

    #[test]
    fn what_nobody_has_a_price_for_is_told_once_and_bounded_by_tokens() {
        for (model, named) in [("local", "local"), ("", "the model that it has chosen")] {
            let none = proto::Cost::default();
            let mut meter = Meter::new(&bounds(1_000, 1), &Prices::default(), model, &none);
            assert_eq!(meter.take(&Said::Spent(usage(0, 0, 0))), None);
            assert_eq!(meter.warning(), None, "nothing was spent");
            assert_eq!(meter.take(&Said::Spent(usage(500, 0, 0))), None);
            assert_eq!(meter.take(&Said::Spent(usage(200, 0, 0))), None);
            let warning = meter.warning().unwrap();
            assert!(
                warning.starts_with(&format!("nobody knows what {named} costs: ")),
                "{warning}"
            );
            assert_eq!(meter.warning(), None);
            assert!(meter.take(&Said::Spent(usage(400, 0, 0))).is_some());
        }
    }

    fn any_usage() -> impl Strategy<Value = Usage> {
        let tokens = || prop_oneof![4 => 0_u64..5_000, 1 => Just(u64::MAX)];
        (tokens(), tokens(), tokens(), proptest::option::of(0_u64..50_000)).prop_map(
            |(input, cached, output, micro_usd)| Usage { input, cached, output, micro_usd },
        )
    }

    fn any_said() -> impl Strategy<Value = Option<Said>> {
        prop_oneof![
            // A new life.
            1 => Just(None),
            3 => Just(Some(Said::Turn)),
            3 => Just(Some(Said::Tool("t".into()))),
            4 => any_usage().prop_map(|usage| Some(Said::Spent(usage))),
            2 => any_usage().prop_map(|usage| Some(Said::Total(usage))),
            1 => Just(Some(Said::Text(String::new()))),
            1 => Just(Some(Said::End(Ok(())))),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_said_in_whatever_order_no_bound_is_passed_unnoticed(
            events in proptest::collection::vec(any_said(), 0..60),
            priced in any::<bool>(),
        ) {
            let model = if priced { MODEL } else { "local" };
            let (bounds, prices) = (bounds(20_000, 100_000), Prices::default());
            let mut meter = Meter::new(&bounds, &prices, model, &proto::Cost::default());
            // Another count of the same: usages of each life, the last total first.
            let mut lives: Vec<Vec<Usage>> = vec![Vec::new()];
            let (mut turns, mut calls, mut warnings) = (0_u32, 0_u32, Vec::new());
            for event in &events {
                let Some(event) = event else {
                    meter.begin_life();
                    lives.push(Vec::new());
                    continue;
                };
                let exceeded = meter.take(event);
                let life = lives.last_mut().unwrap();
                match event {
                    Said::Turn => turns += 1,
                    Said::Tool(_) => calls += 1,
                    Said::Spent(usage) => life.push(*usage),
                    Said::Total(usage) => *life = vec![*usage],
                    _ => {}
                }
                let sum = |of: &dyn Fn(&Usage) -> u64| {
                    lives.iter().flatten().map(of).fold(0_u64, u64::saturating_add)
                };
                let all = sum(&prices::tokens);
                let money = sum(&|usage| prices.cost(model, usage).unwrap_or(0));
                let above = turns > 5 || calls > 10 || all > 20_000 || money > 100_000;
                prop_assert_eq!(exceeded.is_some(), above);
                let cost = meter.cost(0);
                prop_assert_eq!((cost.tokens, cost.turns, cost.tool_calls), (all, turns, calls));
                warnings.extend(std::iter::from_fn(|| meter.warning()));
            }
            let kinds = warnings.len();
            prop_assert!(kinds <= 5, "{warnings:?}");
            warnings.sort();
            warnings.dedup();
            prop_assert_eq!(warnings.len(), kinds, "each once");
        }
    }
}
