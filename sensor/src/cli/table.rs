//! Aligned columns. The last one takes what the terminal leaves.

use super::{
    style::{Style, Tone},
    text,
};

/// Columns between columns.
const GAP: usize = 2;

/// What the last column gets at least, however narrow the terminal.
const LEAST: usize = 20;

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
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// Rows under a head.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    head: Option<[&'static str; N]>,
    rows: Vec<[Cell; N]>,
    /// Columns of numbers: flush right, and how wide at least. 0: text.
    numbers: [usize; N],
}

impl<const N: usize> Table<N> {
    pub const fn new(head: [&'static str; N]) -> Self {
        Self { head: Some(head), rows: Vec::new(), numbers: [0; N] }
    }

    pub const fn headless() -> Self {
        Self { head: None, rows: Vec::new(), numbers: [0; N] }
    }

    /// Has these columns hold numbers: flush right, and at least so wide, so that a page that is shown again
    /// and again stands still. 0: text.
    #[must_use]
    pub const fn numbers(mut self, numbers: [usize; N]) -> Self {
        self.numbers = numbers;
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
        if let (Some(columns), Some((last, before))) = (style.width, widths.split_last_mut()) {
            let taken = indent + before.iter().map(|width| width + GAP).sum::<usize>();
            *last = (*last).min(columns.saturating_sub(taken).max(LEAST));
        }
        let mut lines = String::new();
        for row in rows {
            lines.push_str(&self.line(&row, &widths, indent, style));
            lines.push('\n');
        }
        lines
    }

    fn line(&self, row: &[Cell], widths: &[usize], indent: usize, style: &Style) -> String {
        let mut line = " ".repeat(indent);
        // Spaces before the next cell that has text: none at the end of a line.
        let mut pending = 0;
        for ((cell, width), number) in row.iter().zip(widths).zip(self.numbers) {
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
    }
}
