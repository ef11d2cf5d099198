//! Figures as aligned text: one line each, from whatever numbers the volume counts.

use std::fmt::Write as _;

use serde_json::Value;

/// One line a figure, names aligned, numbers of bytes also in larger units. Objects inside become
/// dotted names; figures whose name ends in `bytes` are bytes.
pub fn table(figures: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", figures, &mut rows);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in rows {
        let shown = match value.as_u64() {
            Some(bytes) if name.ends_with("bytes") && bytes >= 1024 => {
                format!("{bytes} ({})", binary(bytes))
            }
            _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        };
        writeln!(text, "  {name:width$}  {shown}").expect("a string takes any text");
    }
    text
}

fn flatten<'a>(prefix: &str, value: &'a Value, rows: &mut Vec<(String, &'a Value)>) {
    let Value::Object(object) = value else {
        rows.push((prefix.to_owned(), value));
        return;
    };
    for (name, value) in object {
        let dot = if prefix.is_empty() { "" } else { "." };
        flatten(&format!("{prefix}{dot}{name}"), value, rows);
    }
}

/// In the largest binary unit that leaves at least 1, with one decimal.
pub fn binary(bytes: u64) -> String {
    let log2 = bytes.checked_ilog2().unwrap_or_default();
    let step = (log2 / 10).min(4);
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"][step as usize];
    let tenths = (u128::from(bytes) * 10) >> (step * 10);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_named_and_aligned() {
        let figures = serde_json::json!({
            "cache": { "hits": 3, "bytes": 1536 },
            "seconds": 1.5,
        });
        let wanted = "  cache.bytes  1536 (1.5 KiB)\n  cache.hits   3\n  seconds      1.5\n";
        assert_eq!(table(&figures), wanted);
    }

    #[test]
    fn units_hold_up_to_the_largest_number() {
        assert_eq!(binary(1 << 20), "1.0 MiB");
        assert_eq!(binary((1 << 20) - 1), "1023.9 KiB");
        assert_eq!(binary(u64::MAX), "16777215.9 TiB");
    }
}
