//! Answers as people and as programs read them.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a text to standard output. Whoever reads it may have gone, as `head` does: then there
/// is nobody left to tell, and the process ends.
pub(super) fn text(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// `println!` that ends the process quietly when nobody reads.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::table::text(&(format!($($text)*) + "\n")) };
}
pub(super) use say;

/// Prints `value` as JSON.
pub(super) fn json(value: &impl Serialize) {
    let text =
        serde_json::to_string_pretty(value).expect("views have string keys and finite numbers");
    say!("{text}");
}

/// Prints rows below a head, each column as wide as its widest cell.
pub(super) fn print<const N: usize>(head: [&str; N], rows: &[[String; N]]) {
    text(&render(head, rows));
}

fn render<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heads = head.map(str::to_owned);
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Counts by word, such as `3 up, 1 down`.
pub(super) fn counts<'a, N: std::fmt::Display + 'a>(
    counts: impl IntoIterator<Item = (&'a String, N)>,
) -> String {
    let parts: Vec<_> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// How long ago, in the largest unit that fits.
pub(super) fn ago(since_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(since_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A dash where there is nothing.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_blank_end() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(render(["NAME", "N"], &rows), "NAME  N\na     1\nlong\n");
    }

    #[test]
    fn times_are_told_in_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (90_000, "1d")] {
            assert_eq!(ago(1_000, 1_000 + seconds * 1000), text);
        }
    }
}
