//! How plans write values.

use std::fmt::Write as _;

/// Names that Rhai keeps for itself, and the one that every plan has.
pub(super) const RESERVED: [&str; 32] = [
    "as", "async", "await", "break", "case", "const", "continue", "default", "do", "else", "exit", "export",
    "fn", "for", "global", "go", "if", "import", "in", "is", "let", "loop", "match", "new", "plan",
    "private", "public", "return", "static", "switch", "this", "while",
];

/// A string as Rhai reads it.
pub(super) fn string(text: &str) -> String {
    let mut literal = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\t' => literal.push_str("\\t"),
            '\r' => literal.push_str("\\r"),
            letter if letter.is_control() => {
                let _ = write!(literal, "\\u{:04x}", u32::from(letter));
            }
            letter => literal.push(letter),
        }
    }
    literal.push('"');
    literal
}

/// A number where the text is one, else a string.
pub(super) fn value(text: &str) -> String {
    let number = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    if number { text.to_owned() } else { string(text) }
}

/// An array of strings.
pub(super) fn array<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> String {
    let strings: Vec<String> = texts.into_iter().map(|text| string(text.as_ref())).collect();
    format!("[{}]", strings.join(", "))
}

/// The last argument of a call: its options, or nothing if there are none. The values are written already.
pub(super) fn options(pairs: &[(&str, String)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!(", #{{ {} }}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_numbers_are_written_as_scripts_have_them() {
        assert_eq!(string("a \"b\"\\\n\u{1b}"), r#""a \"b\"\\\n\u001b""#);
        assert_eq!([value("80"), value("080"), value("x")], ["80", "\"080\"", "\"x\""]);
        assert_eq!(array(["a", "b"]), r#"["a", "b"]"#);
    }

    #[test]
    fn options_are_a_map_and_none_are_nothing() {
        assert_eq!(
            options(&[("mode", string("0600")), ("system", "true".to_owned())]),
            ", #{ mode: \"0600\", system: true }"
        );
        assert_eq!(options(&[]), "");
    }
}
