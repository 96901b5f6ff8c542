//! How output looks: colour only on a terminal that may have it, width of the terminal.

use std::{
    env,
    io::{self, IsTerminal as _},
};

/// Columns where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 100;

/// What a piece of text means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Strong,
    Faint,
    Good,
    Warning,
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Warning => "\x1b[33m",
            Self::Bad => "\x1b[1;31m",
        }
    }
}

/// Where output goes, as far as its looks depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
    /// Columns; `None`: no limit, because a program or a file reads it.
    pub width: Option<usize>,
}

impl Style {
    /// Neither colour nor limits.
    pub const PLAIN: Self = Self { colour: false, width: None };

    /// That of standard output. `NO_COLOR` (<https://no-color.org>) and a dumb terminal mean no
    /// colour.
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self::PLAIN;
        }
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        Self { colour: !refused && is_capable(), width: Some(columns.unwrap_or(DEFAULT_WIDTH)) }
    }

    /// Columns for running text: wide lines are hard to read.
    pub fn text_width(&self) -> usize {
        self.width.unwrap_or(DEFAULT_WIDTH).min(DEFAULT_WIDTH)
    }

    /// The text in its tone.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour && tone != Tone::Plain {
            format!("{}{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }
}

/// Whether the terminal, if there is one, knows escape sequences, as far as TERM says.
pub fn is_capable() -> bool {
    env::var_os("TERM").is_some_and(|name| name != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let colourful = Style { colour: true, width: None };
        assert_eq!(colourful.paint(Tone::Bad, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(colourful.paint(Tone::Plain, "x"), "x");
        assert_eq!(Style::PLAIN.paint(Tone::Bad, "x"), "x");
    }
}
