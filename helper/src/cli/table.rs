//! Columns.

/// Rows below a head, each column as wide as its widest cell.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let wide = |column: usize| all.iter().map(|row| row[column].chars().count()).max();
    let wide: [usize; N] = std::array::from_fn(|column| wide(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(wide).map(|(cell, wide)| format!("{cell:<wide$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let text = table(["a", "bb"], [row("long", ""), row("x", "y")]);
        assert_eq!(text, "a     bb\nlong\nx     y\n");
    }
}
