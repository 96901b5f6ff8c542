//! Aligned columns. The last one takes what the terminal leaves: it is cut there, or wrapped, or goes below its row.

use std::fmt::Write as _;

use super::{
    style::{Style, Tone},
    text,
};

/// Columns between columns.
pub const GAP: usize = 2;

/// What the last column gets at least, however narrow the terminal.
const LEAST: usize = 20;

/// Narrower than this, a text is easier to read below its row than beside it.
const BESIDE: usize = 30;

/// How far in it stands there.
const BELOW: usize = 4;

/// One piece of a row: text that is already safe to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// Its beginning.
    fn fit(&self, columns: usize) -> Self {
        Self::toned(text::fit(&self.text, columns), self.tone)
    }

    /// Its lines, at least one.
    fn wrap(&self, columns: usize) -> Vec<Self> {
        let lines = text::wrap(&self.text, columns);
        lines.into_iter().map(|line| Self::toned(line, self.tone)).collect()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// What becomes of the last column where the terminal is too narrow for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Cut,
    Wrapped,
    Below,
}

/// Rows under a head.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    head: Option<[&'static str; N]>,
    rows: Vec<[Cell; N]>,
    /// Columns of numbers: flush right, and how wide at least. 0: text.
    numbers: [usize; N],
    shown: [bool; N],
    last: Last,
}

impl<const N: usize> Table<N> {
    pub const fn new(head: [&'static str; N]) -> Self {
        let mut table = Self::headless();
        table.head = Some(head);
        table
    }

    pub const fn headless() -> Self {
        Self { head: None, rows: Vec::new(), numbers: [0; N], shown: [true; N], last: Last::Cut }
    }

    /// Has these columns hold numbers: flush right, and at least so wide, so that a page that is shown again
    /// and again stands still. 0: text.
    #[must_use]
    pub const fn numbers(mut self, numbers: [usize; N]) -> Self {
        self.numbers = numbers;
        self
    }

    /// Leaves the other columns out.
    #[must_use]
    pub const fn only(mut self, shown: [bool; N]) -> Self {
        self.shown = shown;
        self
    }

    /// Has the last column take more lines instead of being cut.
    #[must_use]
    pub const fn wrapped(mut self) -> Self {
        self.last = Last::Wrapped;
        self
    }

    /// Has the last column stand below its row, in one line, where little room is left beside the others; and
    /// these are cut where even they do not fit, from the right, but never the first, which is an id or a time.
    #[must_use]
    pub const fn below(mut self) -> Self {
        self.last = Last::Below;
        self
    }

    pub fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    /// The table, each line indented and ended by a newline.
    pub fn render(&self, indent: usize, style: &Style) -> String {
        let mut rows: Vec<[Cell; N]> = Vec::new();
        if let Some(head) = self.head {
            rows.push(head.map(|name| Cell::toned(name, Tone::Faint)));
        }
        rows.extend(self.rows.iter().cloned());
        let mut widths = self.numbers;
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(text::width(&cell.text));
            }
        }
        let shown = widths.iter().zip(self.shown).rev().skip(1).filter(|(_, shown)| *shown);
        let taken = indent + shown.map(|(width, _)| width + GAP).sum::<usize>();
        let room = style.width.map(|columns| columns.saturating_sub(taken));
        if let (Some(room), Some(last)) = (room, widths.last_mut()) {
            *last = (*last).min(room.max(LEAST));
        }
        let beside = room.is_none_or(|room| room >= BESIDE);
        let inner = if beside { taken } else { indent + BELOW };
        if let (Some(columns), false, Last::Below) = (style.width, beside, self.last) {
            // Behind the last of them no gap is needed.
            self.squeeze(&mut widths, taken.saturating_sub(columns + GAP));
        }
        let mut lines = String::new();
        for mut row in rows {
            let mut below = Vec::new();
            if let (Some(columns), Some(last)) = (style.width, row.last_mut()) {
                let columns = columns.saturating_sub(inner);
                match self.last {
                    Last::Wrapped => below = last.wrap(columns),
                    Last::Below if !beside => below.push(last.fit(columns)),
                    _ => {}
                }
                if !below.is_empty() {
                    *last = if beside { below.remove(0) } else { Cell::default() };
                }
            }
            lines.push_str(&self.line(&row, &widths, indent, style));
            lines.push('\n');
            for cell in below {
                let text = style.paint(cell.tone, &cell.text);
                // Writing to a String cannot fail.
                let _ = writeln!(lines, "{}{text}", " ".repeat(inner));
            }
        }
        lines
    }

    /// Takes so many columns from all but the first and the last; each keeps one, for its `…`.
    fn squeeze(&self, widths: &mut [usize; N], mut over: usize) {
        let between = 1..N.saturating_sub(1);
        for index in between.rev().filter(|index| self.shown[*index]) {
            let taken = over.min(widths[index].saturating_sub(1));
            widths[index] -= taken;
            over -= taken;
        }
    }

    fn line(&self, row: &[Cell], widths: &[usize], indent: usize, style: &Style) -> String {
        let mut line = " ".repeat(indent);
        // Spaces before the next cell that has text: none at the end of a line.
        let mut pending = 0;
        let columns = row.iter().zip(widths).zip(self.numbers).zip(self.shown);
        for ((cell, width), number) in columns.filter_map(|(it, shown)| shown.then_some(it)) {
            let text = text::fit(&cell.text, *width);
            let used = text::width(&text);
            let (before, behind) = if number > 0 { (width - used, 0) } else { (0, width - used) };
            if used > 0 {
                line.push_str(&" ".repeat(pending + before));
                line.push_str(&style.paint(cell.tone, &text));
                pending = 0;
            } else {
                pending += before;
            }
            pending += behind + GAP;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_align_by_what_is_seen() {
        let mut table = Table::new(["A", "NAME", "C"]);
        table.push(["日本".into(), "x".into(), "1".into()]);
        table.push(["a".into(), String::new().into(), String::new().into()]);
        assert_eq!(table.render(1, &Style::PLAIN), " A     NAME  C\n 日本  x     1\n a\n");
    }

    #[test]
    fn numbers_are_flush_right_and_keep_their_width() {
        let mut table = Table::new(["A", "N", "C"]).numbers([0, 4, 0]);
        table.push(["x".into(), "7".into(), "c".into()]);
        table.push(["x".into(), String::new().into(), "c".into()]);
        table.push(["x".into(), "12345".into(), String::new().into()]);
        assert_eq!(
            table.render(0, &Style::PLAIN),
            "A      N  C\nx      7  c\nx         c\nx  12345\n"
        );
    }

    #[test]
    fn colour_does_not_shift_columns() {
        let mut table = Table::headless();
        table.push([Cell::toned("a", Tone::Good), "b".into()]);
        table.push(["aa".into(), "b".into()]);
        let style = Style { colour: true, width: None };
        assert_eq!(table.render(0, &style), "\x1b[32ma\x1b[0m   b\naa  b\n");
    }

    #[test]
    fn the_last_column_is_cut_to_the_terminal() {
        let mut table = Table::headless();
        table.push(["12345".into(), "word ".repeat(20).into()]);
        let style = Style { colour: false, width: Some(40) };
        assert_eq!(text::width(table.render(0, &style).trim_end()), 40);
    }

    #[test]
    fn a_wrapped_column_is_told_in_full() {
        let mut table = Table::new(["A", "WHY"]).wrapped();
        table.push(["12345".into(), "one two three four five six seven".into()]);
        let shown = |columns| table.render(1, &Style { colour: false, width: Some(columns) });
        assert_eq!(
            shown(40),
            " A      WHY\n 12345  one two three four five six\n        seven\n",
            "beside the others"
        );
        assert_eq!(
            shown(37),
            " A\n     WHY\n 12345\n     one two three four five six\n     seven\n",
            "below them, as there are 29 columns beside them"
        );
        let all = table.render(1, &Style::PLAIN);
        assert_eq!(all, " A      WHY\n 12345  one two three four five six seven\n");
    }

    #[test]
    fn a_column_below_takes_one_line_and_the_first_is_never_cut() {
        let mut table = Table::new(["ID", "WHO", "WHAT"]).below();
        table.push(["4k2mz9qw0a".into(), "somebody".into(), "word ".repeat(9).into()]);
        let shown = |columns| table.render(0, &Style { colour: false, width: Some(columns) });
        assert_eq!(
            shown(52),
            "ID          WHO       WHAT\n4k2mz9qw0a  somebody  word word word word word word…\n"
        );
        assert_eq!(
            shown(51),
            "ID          WHO\n    WHAT\n4k2mz9qw0a  somebody\n    word word word word word word word word word \n",
            "29 columns are left beside them"
        );
        assert_eq!(shown(17), "ID          WHO\n    WHAT\n4k2mz9qw0a  some…\n    word word wo…\n");
        let all = table.render(0, &Style::PLAIN);
        assert!(all.contains(&"word ".repeat(9)), "{all}");
    }

    #[test]
    fn columns_that_are_not_shown_take_no_room() {
        let mut table = Table::new(["A", "N", "C"]).numbers([0, 4, 0]).only([true, false, true]);
        table.push(["x".into(), "12345".into(), "word ".repeat(9).into()]);
        let style = Style { colour: false, width: Some(23) };
        assert_eq!(table.render(0, &style), "A  C\nx  word word word word…\n");
    }

    proptest! {
        #[test]
        fn rows_stay_one_line_each(cells in proptest::collection::vec("\\PC{0,60}", 1..8), columns in 30_usize..80) {
            let mut table = Table::headless();
            for cell in &cells {
                table.push(["x".into(), text::safe(cell).into()]);
            }
            let shown = table.render(0, &Style { colour: false, width: Some(columns) });
            prop_assert_eq!(shown.lines().count(), cells.len());
            for line in shown.lines() {
                prop_assert!(text::width(line) <= columns);
                prop_assert!(!line.chars().any(char::is_control));
            }
        }

        #[test]
        fn what_goes_below_fits_any_terminal(cells in proptest::collection::vec("\\PC{0,60}", 3), columns in 20_usize..200) {
            let [a, b, c] = [&cells[0], &cells[1], &cells[2]].map(|cell| text::safe(cell));
            let mut table = Table::new(["ID", "A", "B", "C"]).below();
            table.push(["4k2mz9qw0a".into(), a.into(), b.into(), c.into()]);
            let shown = table.render(0, &Style { colour: false, width: Some(columns) });
            for line in shown.lines() {
                prop_assert!(text::width(line) <= columns, "{shown}");
            }
            prop_assert!(shown.contains("4k2mz9qw0a"), "{shown}");
        }
    }
}
