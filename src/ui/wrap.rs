//! Wraps lines at words, to the width of the terminal; what goes elsewhere stays as it is.

use std::io::IsTerminal as _;

use console::Term;
use textwrap::{Options, WordSeparator, WordSplitter};

/// The columns of the terminal that messages go to; `None` if they go elsewhere.
pub(super) fn width() -> Option<usize> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    Term::stderr().size_checked().map(|(_, columns)| usize::from(columns)).filter(|columns| *columns >= 20)
}

/// A message of one line, wrapped for the terminal: what follows is indented by two more than it begins.
pub(super) fn wrapped(line: &str) -> String {
    width().map_or_else(|| line.to_owned(), |width| wrapped_to(line, width))
}

fn wrapped_to(line: &str, width: usize) -> String {
    let begin = line.len() - line.trim_start_matches(' ').len();
    let (indent, text) = line.split_at(begin);
    let behind = format!("{indent}  ");
    let options = Options::new(width)
        .initial_indent(indent)
        .subsequent_indent(&behind)
        // A path or a command that is longer than the line stays whole, so that it can be copied.
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_wrapped_at_words_and_a_long_path_stays_whole() {
        let path = "/srv/a/long/path/without/any/space/in/it";
        assert_eq!(
            wrapped_to(&format!("   next: make it first in {path} and run"), 24),
            format!("   next: make it first\n     in\n     {path}\n     and run")
        );
        assert_eq!(wrapped_to("  short", 24), "  short");
    }
}
