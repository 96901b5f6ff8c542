//! What models cost.
//!
//! An agent that counts money itself is believed. For the others there are the list prices below, and those of
//! `[[investigate.prices]]` before them. Where neither knows a model, nobody can say what it costs, and only
//! its tokens are bounded.

use super::agent::Usage;
use crate::config::{Price, Usd};

/// List prices in US dollars for a million tokens: read, read from the cache, written. As the vendors had them on
/// their pages in October and November 2026, for prompts of ordinary length (up to 100,000 tokens), without
/// promotions; of two that were found the dearer.
///
/// - <https://platform.claude.com/docs/en/about-claude/pricing>
/// - <https://developers.openai.com/api/docs/pricing>
/// - <https://ai.google.dev/gemini-api/docs/pricing>
///
/// A write into Claude's cache costs a quarter more than reading anew and is counted as that: Claude Code counts its
/// money itself, and `api` asks once and has no use for a cache.
const LIST: [(&str, f64, f64, f64); 38] = [
    ("claude-fable-5-1", 10.0, 0.25, 50.0),
    ("claude-fable-5", 10.0, 1.0, 50.0),
    ("claude-opus-5-5", 4.0, 0.2, 20.0),
    ("claude-opus-5", 5.0, 0.5, 25.0),
    ("claude-opus-4-8", 5.0, 0.5, 25.0),
    ("claude-opus-4-7", 5.0, 0.5, 25.0),
    ("claude-opus-4-6", 5.0, 0.5, 25.0),
    ("claude-opus-4-5", 5.0, 0.5, 25.0),
    ("claude-opus-4-1", 15.0, 1.5, 75.0),
    ("claude-opus-4", 15.0, 1.5, 75.0),
    ("claude-sonnet-5-5", 2.0, 0.1, 10.0),
    ("claude-sonnet-5", 2.0, 0.2, 10.0),
    ("claude-sonnet-4-6", 3.0, 0.3, 15.0),
    ("claude-sonnet-4-5", 3.0, 0.3, 15.0),
    ("claude-sonnet-4", 3.0, 0.3, 15.0),
    ("claude-haiku-5-5", 0.1, 0.01, 0.5),
    ("claude-haiku-4-5", 1.0, 0.1, 5.0),
    ("gpt-6.1-sol", 2.0, 0.1, 10.0),
    ("gpt-6.1-terra", 1.0, 0.05, 5.0),
    ("gpt-6-astra", 10.0, 1.0, 50.0),
    ("gpt-6-sol", 2.0, 0.2, 10.0),
    ("gpt-6-luna", 0.1, 0.01, 0.5),
    ("gpt-5.6", 5.0, 0.5, 30.0),
    ("gpt-5.6-sol", 5.0, 0.5, 30.0),
    ("gpt-5.6-terra", 2.0, 0.2, 12.0),
    ("gpt-5.6-luna", 0.2, 0.02, 1.2),
    ("gpt-5.5", 5.0, 0.5, 30.0),
    ("gpt-5.4", 2.5, 0.25, 15.0),
    ("gpt-5.4-mini", 0.75, 0.075, 4.5),
    ("gpt-5.4-nano", 0.2, 0.02, 1.25),
    ("gpt-5.3-codex", 1.75, 0.175, 14.0),
    ("gpt-5-mini", 0.25, 0.025, 2.0),
    ("gemini-3.8-flash", 1.5, 0.15, 7.5),
    ("gemini-3.7-flash", 1.5, 0.15, 7.5),
    ("gemini-3.6-flash", 1.5, 0.15, 7.5),
    ("gemini-3.5-flash", 1.5, 0.15, 9.0),
    ("gemini-3.5-flash-lite", 0.3, 0.03, 2.5),
    ("gemini-3.1-pro", 2.0, 0.2, 12.0),
];

/// Answers that an estimate is for: some looks, and findings.
pub const USUAL_TURNS: u32 = 8;

/// What the model writes in each: a tool call, or findings.
const ANSWER_TOKENS: u64 = 500;

/// What it reads more in each: its own answer, and a tool's.
const GROWTH_TOKENS: u64 = 2_500;

const MILLION: u128 = 1_000_000;

/// Prices by model.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    own: Vec<Price>,
}

/// Price of a million tokens of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    input: Usd,
    cached: Usd,
    output: Usd,
}

/// What a run will take, thought of before it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    pub tokens: u64,
    /// Millionths of a US dollar; `None`: nobody can say.
    pub micro_usd: Option<u64>,
}

impl Estimate {
    /// Of two of its kind.
    #[must_use]
    pub fn twice(self) -> Self {
        let twice = |number: u64| number.saturating_mul(2);
        Self { tokens: twice(self.tokens), micro_usd: self.micro_usd.map(twice) }
    }
}

impl Prices {
    pub fn new(own: &[Price]) -> Self {
        Self { own: own.to_vec() }
    }

    /// Whether there is a price for a model.
    pub fn knows(&self, model: &str) -> bool {
        self.rate(model).is_some()
    }

    /// In millionths of a US dollar, rounded up: what the program counted, or else tokens at their price. `None`:
    /// nobody can say.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<u64> {
        usage.micro_usd.or_else(|| self.rate(model).map(|rate| rate.of(usage)))
    }

    /// What a run of so many answers takes whose prompt has so many tokens. Each answer reads all that was before
    /// it, from the cache but for what is new.
    pub fn estimate(&self, model: &str, prompt_tokens: u64, turns: u32) -> Estimate {
        let later = u64::from(turns.saturating_sub(1));
        let grown = later.saturating_mul(later.saturating_sub(1)) / 2;
        let usage = Usage {
            input: prompt_tokens.saturating_add(later.saturating_mul(GROWTH_TOKENS)),
            cached: later
                .saturating_mul(prompt_tokens)
                .saturating_add(grown.saturating_mul(GROWTH_TOKENS)),
            output: u64::from(turns).saturating_mul(ANSWER_TOKENS),
            micro_usd: None,
        };
        Estimate { tokens: tokens(&usage), micro_usd: self.cost(model, &usage) }
    }

    fn rate(&self, model: &str) -> Option<Rate> {
        // Gateways put the vendor before it: `anthropic/claude-sonnet-5-5`.
        let plain = model.rsplit('/').next().unwrap_or(model);
        let own = |model: &str| {
            let fit = self.own.iter().filter(|price| model.starts_with(&price.model));
            fit.max_by_key(|price| price.model.len())
        };
        if let Some(price) = own(model).or_else(|| own(plain)) {
            let cached = price.cached_usd.unwrap_or(price.input_usd);
            return Some(Rate { input: price.input_usd, cached, output: price.output_usd });
        }
        let fit = LIST.iter().filter(|(known, ..)| plain.strip_prefix(known).is_some_and(is_dated));
        let (_, input, cached, output) = fit.max_by_key(|(known, ..)| known.len())?;
        let usd = |dollars: f64| Usd((dollars * 1e6).round() as u64);
        Some(Rate { input: usd(*input), cached: usd(*cached), output: usd(*output) })
    }
}

/// Whether what follows a model's name says only which edition of it is meant, as `-20251001`, `-latest` and `[1m]`.
/// `-pro` and `-5` make it another model, with another price.
fn is_dated(rest: &str) -> bool {
    let edition = |part: &str| {
        part.is_empty()
            || matches!(part, "latest" | "preview" | "1m")
            || part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    rest.split(['-', '@', '[', ']']).all(edition)
}

impl Rate {
    fn of(self, usage: &Usage) -> u64 {
        let part = |tokens: u64, price: Usd| u128::from(tokens) * u128::from(price.0);
        let sum = part(usage.input, self.input)
            .saturating_add(part(usage.cached, self.cached))
            .saturating_add(part(usage.output, self.output));
        u64::try_from(sum.div_ceil(MILLION)).unwrap_or(u64::MAX)
    }
}

/// All of them, also what was cached.
pub fn tokens(usage: &Usage) -> u64 {
    usage.input.saturating_add(usage.cached).saturating_add(usage.output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, cached: u64, output: u64) -> Usage {
        Usage { input, cached, output, micro_usd: None }
    }

    fn own(model: &str, input: u64) -> Price {
        Price {
            model: model.into(),
            input_usd: Usd(input),
            output_usd: Usd(2 * input),
            cached_usd: None,
        }
    }

    #[test]
    fn tokens_at_their_price() {
        let prices = Prices::default();
        // 100,000 × 2 + 400,000 × 0.1 + 10,000 × 10 = 340,000.
        let spent = usage(100_000, 400_000, 10_000);
        assert_eq!(prices.cost("claude-sonnet-5-5", &spent), Some(340_000));
        assert_eq!(prices.cost("anthropic/claude-sonnet-5-5[1m]", &spent), Some(340_000));
        // 0.01 × 1 = a hundredth, and nothing is for nothing.
        assert_eq!(prices.cost("gpt-6-luna-2026-09-22", &usage(0, 1, 0)), Some(1));
        assert_eq!(prices.cost("gpt-6-luna", &usage(0, 0, 0)), Some(0));
        let all = usage(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(prices.cost("claude-fable-5", &all), Some(u64::MAX));
    }

    #[test]
    fn what_a_program_counted_is_believed() {
        let counted = Usage { micro_usd: Some(7), ..usage(100_000, 0, 0) };
        assert_eq!(Prices::default().cost("claude-sonnet-5-5", &counted), Some(7));
        assert_eq!(Prices::default().cost("", &counted), Some(7));
    }

    #[test]
    fn a_price_is_of_one_model_and_its_editions() {
        let prices = Prices::default();
        for model in [
            "claude-opus-5",
            "claude-opus-5-20260724",
            "claude-haiku-4-5@20251001",
            "gemini-3.1-pro-preview",
            "gpt-5.4-mini-2026-03-17",
        ] {
            assert!(prices.knows(model), "{model}");
        }
        for model in ["", "claude-opus-5-9", "gpt-5.4-pro", "gpt-5.6.1", "gpt-7", "sonnet", "llama"]
        {
            assert!(!prices.knows(model), "{model}");
        }
        // The longer name is the better one: 5.5 is cheaper than 5.
        let million = usage(1_000_000, 0, 0);
        assert_eq!(prices.cost("claude-opus-5-5-20260922", &million), Some(4_000_000));
        assert_eq!(prices.cost("claude-opus-5", &million), Some(5_000_000));
    }

    #[test]
    fn the_operators_prices_go_first() {
        let prices = Prices::new(&[own("claude-", 1), own("claude-opus", 3), own("eu/gpt", 5)]);
        let million = usage(1_000_000, 0, 0);
        for (model, cost) in [("claude-sonnet-5-5", 1), ("claude-opus-5-5", 3), ("eu/gpt-7", 5)] {
            assert_eq!(prices.cost(model, &million), Some(cost), "{model}");
        }
        assert_eq!(prices.cost("gpt-6-sol", &million), Some(2_000_000), "the list goes on");
        let one = Prices::new(&[own("claude-", 1)]);
        assert_eq!(one.cost("anthropic/claude-x", &million), Some(1));
        // What was cached costs as much as what was not, where nothing else is said.
        assert_eq!(one.cost("claude-x", &usage(0, 1_000_000, 1_000_000)), Some(3));
    }

    #[test]
    fn the_list_is_plausible() {
        let mut names: Vec<&str> = LIST.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LIST.len(), "each once");
        for (model, input, cached, output) in LIST {
            assert!(0.0 < cached && cached < input && input < output, "{model}");
        }
    }

    #[test]
    fn an_estimate_reads_all_that_was_before() {
        let prices = Prices::default();
        // One answer: 12,000 read, 500 written; 24,000 + 5,000 millionths.
        assert_eq!(
            prices.estimate("gpt-6-sol", 12_000, 1),
            Estimate { tokens: 12_500, micro_usd: Some(29_000) }
        );
        // Three: 12,000 + 2 × 2,500 anew; 12,000 + 14,500 from the cache; 1,500 written.
        assert_eq!(
            prices.estimate("gpt-6-sol", 12_000, 3),
            Estimate { tokens: 45_000, micro_usd: Some(34_000 + 5_300 + 15_000) }
        );
        assert_eq!(prices.estimate("", 12_000, 3), Estimate { tokens: 45_000, micro_usd: None });
        assert_eq!(prices.estimate("", 12_000, 0).tokens, 12_000);
        assert_eq!(prices.estimate("gpt-6-sol", u64::MAX, u32::MAX).tokens, u64::MAX);
    }
}
