//! Text in columns.

/// Rows under their heads, each column as wide as its widest cell, indented.
pub fn render<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let heads = heads.map(str::to_owned);
    let width = |i: usize| rows.iter().chain([&heads]).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("    {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    let rule = widths.map(|width| "─".repeat(width));
    [&heads, &rule].into_iter().chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a → b".to_owned(), "1".to_owned()], ["c".to_owned(), "22".to_owned()]];
        assert_eq!(render(["x", "n"], &rows), "    x      n\n    ─────  ──\n    a → b  1\n    c      22");
    }
}
