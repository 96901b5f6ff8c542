//! Cells in columns: aligned for a terminal, or as a table of a Markdown page.

use std::fmt::Write as _;

/// How a cell is to be taken; shown where there is colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Strong,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

/// A column, and whether its cells stand to the right.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What it and its right neighbours without a group are about.
    pub group: &'static str,
    pub head: &'static str,
    pub right: bool,
}

impl Column {
    pub const fn left(head: &'static str) -> Self {
        Self { group: "", head, right: false }
    }

    pub const fn right(head: &'static str) -> Self {
        Self { group: "", head, right: true }
    }

    /// The first of some columns about this.
    pub const fn of(self, group: &'static str) -> Self {
        Self { group, ..self }
    }
}

/// A table: the first column shrinks where a terminal is too narrow.
#[derive(Debug)]
pub struct Table<'a> {
    pub columns: &'a [Column],
    pub rows: Vec<Vec<Cell>>,
}

impl Table<'_> {
    /// Lines of `width` at most where the first column can make that possible.
    pub fn text(&self, width: usize, colour: bool) -> String {
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let head = length(self.columns[at].head);
                self.rows.iter().map(|row| length(&row[at].text)).fold(head, usize::max)
            })
            .collect();
        let all: usize = widths.iter().map(|width| width + 1).sum::<usize>().saturating_sub(1);
        if let Some(first) = widths.first_mut() {
            let least = self.columns[0].head.len();
            *first = first.saturating_sub(all.saturating_sub(width)).max(least);
        }
        let mut text = String::new();
        if self.columns.iter().any(|column| !column.group.is_empty()) {
            let mut line = String::new();
            let mut at = 0;
            for (column, width) in self.columns.iter().zip(&widths) {
                if !column.group.is_empty() {
                    let _ = write!(line, "{:at$}", "", at = at - length(&line).min(at));
                    line.push_str(column.group);
                }
                at += width + 1;
            }
            push_line(&mut text, &paint(&line, Tone::Strong, colour));
        }
        let heads: Vec<Cell> =
            self.columns.iter().map(|it| Cell::toned(it.head, Tone::Strong)).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let cells: Vec<String> = row
                .iter()
                .zip(self.columns)
                .zip(&widths)
                .map(|((cell, column), width)| {
                    let shown = shorten(&cell.text, *width);
                    let gap = " ".repeat(width - length(&shown).min(*width));
                    let shown = paint(&shown, cell.tone, colour);
                    if column.right { gap + &shown } else { shown + &gap }
                })
                .collect();
            push_line(&mut text, &cells.join(" "));
        }
        text
    }

    /// A Markdown table; groups go into their columns' heads.
    pub fn markdown(&self) -> String {
        let mut group = "";
        let heads: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                group = if column.group.is_empty() { group } else { column.group };
                if group.is_empty() {
                    column.head.to_owned()
                } else {
                    format!("{group}: {}", column.head)
                }
            })
            .collect();
        let rules = self.columns.iter().map(|it| if it.right { "--:" } else { "---" });
        let mut text =
            format!("| {} |\n|{}|\n", heads.join(" | "), rules.collect::<Vec<_>>().join("|"));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.text.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Columns of a terminal: all our texts are of characters that take one each.
fn length(text: &str) -> usize {
    text.chars().count()
}

fn shorten(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

pub fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        Tone::Good => 32,
        Tone::Bad => 31,
        Tone::Strong => 1,
        Tone::Plain => 0,
    };
    if colour && code > 0 && !text.is_empty() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::left("name"), Column::right("s").of("after"), Column::right("left")];

    fn table() -> Table<'static> {
        let row = |name: &str, s: &str, left| vec![name.into(), s.into(), left];
        Table {
            columns: &COLUMNS,
            rows: vec![
                row("a-long-name", "1.25", "0".into()),
                row("b|c", "12.5", Cell::toned("3", Tone::Bad)),
            ],
        }
    }

    #[test]
    fn columns_are_aligned_and_the_first_one_shrinks() {
        assert_eq!(
            table().text(100, false),
            "            after\n\
             name           s left\n\
             a-long-name 1.25    0\n\
             b|c         12.5    3\n"
        );
        assert_eq!(
            table().text(15, false),
            "      after\n\
             name     s left\n\
             a-lo… 1.25    0\n\
             b|c   12.5    3\n"
        );
    }

    #[test]
    fn colour_does_not_move_anything() {
        let plain = table().text(100, false);
        let coloured = table().text(100, true);
        assert!(coloured.contains("\x1b[31m3\x1b[0m"));
        let mut stripped = coloured;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"] {
            stripped = stripped.replace(code, "");
        }
        let trimmed: Vec<&str> = stripped.lines().map(str::trim_end).collect();
        assert_eq!(trimmed, plain.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_page_gets_a_table_of_its_own_kind() {
        assert_eq!(
            table().markdown(),
            "| name | after: s | after: left |\n|---|--:|--:|\n\
             | a-long-name | 1.25 | 0 |\n| b\\|c | 12.5 | 3 |\n"
        );
    }
}
