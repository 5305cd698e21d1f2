//! Tables that fit their reader: rows come in pages, columns line up, and no line wraps on a terminal.
//!
//! ```text
//! natural widths ─▶ too wide? ─▶ the widest of the elastic columns give way, down to ELASTIC_MIN
//!                                still too wide? ─▶ the line is cut at its end
//! ```
//!
//! Widths are display columns: a Chinese letter takes two. They only grow from page to page, so that a list of any
//! length is written as it is read. Where no terminal is, nothing is shortened: a script wants all of it.

use std::io::{self, IsTerminal as _};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::style::{Ink, Paint};
use crate::text::Align;

/// Elastic columns are not made narrower than this.
const ELASTIC_MIN: usize = 10;
/// Between two columns.
const GAP: usize = 2;
/// What stands for what was left out.
const ELLIPSIS: char = '…';

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its head.
    pub head: &'static str,
    /// Where its text stands.
    pub align: Align,
    /// Texts may be shortened in the middle.
    pub elastic: bool,
}

impl Column {
    /// Words that are short.
    pub const fn left(head: &'static str) -> Self {
        Self { head, align: Align::Left, elastic: false }
    }

    /// Numbers.
    pub const fn right(head: &'static str) -> Self {
        Self { head, align: Align::Right, elastic: false }
    }

    /// Texts of any length.
    pub const fn elastic(head: &'static str) -> Self {
        Self { head, align: Align::Left, elastic: true }
    }
}

/// A text in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The text, escaped already.
    pub text: String,
    /// What it is.
    pub ink: Ink,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ink: Ink::Plain }
    }
}

/// A table that is being written.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    natural: Vec<usize>,
    limit: Option<usize>,
    paint: Paint,
    headed: bool,
}

impl Table {
    /// A table of no rows yet; `limit` is the width of a line.
    pub fn new(columns: Vec<Column>, limit: Option<usize>, paint: Paint) -> Self {
        let natural = columns.iter().map(|column| column.head.width()).collect();
        Self { columns, natural, limit, paint, headed: false }
    }

    /// The next rows as text; the head comes before the first ones. No spaces at line ends.
    pub fn rows(&mut self, rows: &[Vec<Cell>]) -> String {
        for row in rows {
            for (width, cell) in self.natural.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let widths = fit(&self.columns, &self.natural, self.limit);
        let mut text = String::new();
        if !std::mem::replace(&mut self.headed, true) {
            let heads = self.columns.iter();
            let heads: Vec<Cell> =
                heads.map(|column| Cell { text: column.head.to_owned(), ink: Ink::Strong }).collect();
            text.push_str(&self.line(&heads, &widths));
        }
        for row in rows {
            text.push_str(&self.line(row, &widths));
        }
        text
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let (mut line, mut at, mut pending) = (String::new(), 0, 0);
        for ((cell, &width), column) in row.iter().zip(widths).zip(&self.columns) {
            let room = self.limit.map_or(width, |limit| width.min(limit.saturating_sub(at)));
            let shown = shorten(&cell.text, room);
            let gap = room - shown.width().min(room);
            let (before, after) = if column.align == Align::Right { (gap, 0) } else { (0, gap) };
            pending += before;
            if !shown.is_empty() {
                line.extend(std::iter::repeat_n(' ', pending));
                line.push_str(&self.paint.ink(cell.ink, &shown));
                pending = 0;
            }
            pending += after + GAP;
            at += width + GAP;
        }
        line.push('\n');
        line
    }
}

/// Widths that add up to no more than the limit, if the elastic columns can give enough.
fn fit(columns: &[Column], natural: &[usize], limit: Option<usize>) -> Vec<usize> {
    let mut widths = natural.to_vec();
    let Some(limit) = limit else { return widths };
    let gaps = GAP * columns.len().saturating_sub(1);
    loop {
        let over = (widths.iter().sum::<usize>() + gaps).saturating_sub(limit);
        let widest = (0..columns.len())
            .filter(|&at| columns[at].elastic && widths[at] > ELASTIC_MIN)
            .max_by_key(|&at| widths[at]);
        let Some(widest) = widest.filter(|_| over > 0) else { return widths };
        // Down to the next one, then in turn, so that two long columns share what there is.
        let others = (0..columns.len()).filter(|&at| at != widest && columns[at].elastic);
        let next = others.map(|at| widths[at]).max().unwrap_or(0).max(ELASTIC_MIN);
        let give = widths[widest].saturating_sub(next).clamp(1, over);
        widths[widest] -= give;
    }
}

/// The text in at most so many display columns, with `…` for its middle if it is longer.
pub fn shorten(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut budget = columns.saturating_sub(1);
    loop {
        let short = around_middle(text, budget);
        // Some sequences are wider together than their letters are.
        if short.width() <= columns {
            return short;
        }
        let Some(less) = budget.checked_sub(1) else { return String::new() };
        budget = less;
    }
}

/// The beginning and the end that take `columns` together, and the ellipsis between.
fn around_middle(text: &str, columns: usize) -> String {
    let (mut head, mut room) = (String::new(), columns.div_ceil(2));
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if width > room {
            break;
        }
        room -= width;
        head.push(c);
    }
    let (mut tail, mut room) = (Vec::new(), columns / 2 + room);
    for c in text.chars().rev() {
        let width = c.width().unwrap_or(0);
        if width > room {
            break;
        }
        room -= width;
        tail.push(c);
    }
    // A mark that belongs to a letter which is left out.
    while tail.last().is_some_and(|c| c.width() == Some(0)) {
        tail.pop();
    }
    head.push(ELLIPSIS);
    head.extend(tail.into_iter().rev());
    head
}

/// The width of a line on standard output, if that is a terminal.
pub fn line_width() -> Option<usize> {
    screen_size().map(|(columns, _)| columns)
}

/// Columns and rows of the terminal on standard output, if it is one.
pub fn screen_size() -> Option<(usize, usize)> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let told = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let variable = |name| std::env::var(name).ok().and_then(|value| value.trim().parse::<u16>().ok());
    let either = |told: Option<u16>, name, otherwise: u16| {
        let positive = |number: &u16| *number > 0;
        let number = told.filter(positive).or_else(|| variable(name).filter(positive));
        usize::from(number.unwrap_or(otherwise))
    };
    let columns = either(told.map(|size| size.ws_col), "COLUMNS", 80);
    Some((columns, either(told.map(|size| size.ws_row), "LINES", 24)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::right("ID"), Column::elastic("FILE"), Column::elastic("CAUSE")];

    fn rows(rows: &[[&str; 3]]) -> Vec<Vec<Cell>> {
        rows.iter().map(|row| row.iter().map(|text| Cell::from((*text).to_owned())).collect()).collect()
    }

    fn table(limit: Option<usize>) -> Table {
        Table::new(COLUMNS.to_vec(), limit, Paint::default())
    }

    #[test]
    fn columns_line_up_under_wide_letters() {
        let text = table(None).rows(&rows(&[["3", "東京", "x"], ["12", "a", ""]]));
        assert_eq!(text, "ID  FILE  CAUSE\n 3  東京  x\n12  a\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let long = "/films/".to_owned() + &"東京の映画".repeat(12) + ".mp4";
        let cause = "server: gave up for now after 10 attempts: 503 Service Unavailable ".repeat(2);
        let page = rows(&[
            ["3", &long, &cause],
            ["123456", "short", ""],
            ["4", "e\u{301}".repeat(70).as_str(), "👩‍🔬".repeat(40).as_str()],
        ]);
        for limit in 0..220 {
            let text = table(Some(limit)).rows(&page);
            assert_eq!(text.lines().count(), 4, "{limit}");
            for line in text.lines() {
                assert!(line.width() <= limit, "{limit}: {} {line:?}", line.width());
            }
        }
    }

    #[test]
    fn the_widest_columns_give_way_first() {
        assert_eq!(fit(&COLUMNS, &[2, 50, 12], Some(50)), [2, 32, 12]);
        assert_eq!(fit(&COLUMNS, &[2, 50, 60], Some(50)), [2, 22, 22]);
        assert_eq!(fit(&COLUMNS, &[2, 50, 60], Some(10)), [2, ELASTIC_MIN, ELASTIC_MIN]);
        assert_eq!(fit(&COLUMNS, &[2, 50, 60], None), [2, 50, 60]);
        assert_eq!(fit(&COLUMNS, &[2, 5, 6], Some(17)), [2, 5, 6]);
    }

    #[test]
    fn texts_keep_their_beginning_and_their_end() {
        for (text, columns, short) in [
            ("movie.mp4", 9, "movie.mp4"),
            ("a-long-name.mp4", 9, "a-lo….mp4"),
            ("abcdef", 2, "a…"),
            ("abcdef", 1, "…"),
            ("abcdef", 0, ""),
            ("東京東京", 5, "東…京"),
            ("東京東京", 4, "東…"),
        ] {
            assert_eq!(shorten(text, columns), short, "{text} {columns}");
        }
    }

    #[test]
    fn a_later_page_has_no_head_and_is_no_narrower() {
        let mut table = table(None);
        let first = table.rows(&rows(&[["1", "long-name", "x"]]));
        assert_eq!(first, "ID  FILE       CAUSE\n 1  long-name  x\n");
        assert_eq!(table.rows(&rows(&[["2", "b", "y"]])), " 2  b          y\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let cell = |text: &str, ink| Cell { text: text.to_owned(), ink };
        let row = vec![cell("3", Ink::Plain), cell("a", Ink::Bad), cell("x", Ink::Plain)];
        let mut table = Table::new(COLUMNS.to_vec(), None, Paint { on: true });
        let text = table.rows(&[row]);
        assert_eq!(text.lines().last(), Some(" 3  \u{1b}[31ma\u{1b}[0m     x"));
    }
}
