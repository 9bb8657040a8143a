//! Wraps lines at words, to the width of the terminal; what goes elsewhere stays as it is.

use std::io::IsTerminal as _;

use console::Term;
use textwrap::core::Word;
use textwrap::{Options, WordSeparator, WordSplitter};

/// The columns of the terminal that messages go to; `None` if they go elsewhere.
pub(super) fn width() -> Option<usize> {
    std::io::stderr().is_terminal().then(|| columns(&Term::stderr())).flatten()
}

fn columns(terminal: &Term) -> Option<usize> {
    terminal.size_checked().map(|(_, columns)| usize::from(columns)).filter(|columns| *columns >= 20)
}

/// A message of one line, wrapped for the terminal: what follows is indented by two more than it begins.
pub fn wrapped(line: &str) -> String {
    hanging(line, indent_of(line) + 2)
}

/// The same, with what follows indented by so many columns.
pub(super) fn hanging(line: &str, behind: usize) -> String {
    width().map_or_else(|| line.to_owned(), |width| wrapped_to(line, width, behind))
}

/// A line of data as people read it: wrapped, if standard output is a terminal, with what follows indented by so many
/// columns.
pub fn wrapped_data(line: &str, behind: usize) -> String {
    let width = std::io::stdout().is_terminal().then(|| columns(&Term::stdout())).flatten();
    width.map_or_else(|| line.to_owned(), |width| wrapped_to(line, width, behind))
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn wrapped_to(line: &str, width: usize, behind: usize) -> String {
    let (indent, text) = line.split_at(indent_of(line));
    let behind = " ".repeat(behind.min(width / 2));
    let options = Options::new(width)
        .initial_indent(indent)
        .subsequent_indent(&behind)
        // A path or a command that is longer than the line stays whole, so that it can be copied.
        .break_words(false)
        .word_separator(WordSeparator::Custom(words))
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

/// Splits at spaces, but neither behind a number, which its unit follows, nor within a command that can be pasted: its
/// second line would be a command of its own.
fn words(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let mut rest = line;
    Box::new(std::iter::from_fn(move || {
        let (word, behind) = rest.split_at(end_of_word(rest));
        rest = behind;
        (!word.is_empty()).then(|| Word::from(word))
    }))
}

/// Where the first word of a text ends, with the spaces behind it.
fn end_of_word(text: &str) -> usize {
    let space_from = |from: usize| text[from..].find(' ').map_or(text.len(), |at| from + at);
    let mut end = space_from(0);
    if text[..end].ends_with("`kkrun")
        && let Some(quote) = text[end..].find('`')
    {
        end = space_from(end + quote);
    }
    let next = text.len() - text[end..].trim_start_matches(' ').len();
    let is_number = text[..end].ends_with(|letter: char| letter.is_ascii_digit());
    let has_unit = text[next..].starts_with(char::is_alphabetic);
    if is_number && has_unit || text[..end].ends_with("today") {
        next + end_of_word(&text[next..])
    } else {
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_wrapped_at_words_and_a_long_path_stays_whole() {
        let path = "/srv/a/long/path/without/any/space/in/it";
        assert_eq!(
            wrapped_to(&format!("   next: make it first in {path} and run"), 24, 9),
            format!("   next: make it first\n         in\n         {path}\n         and run")
        );
        assert_eq!(wrapped_to("  short", 24, 4), "  short");
    }

    #[test]
    fn a_number_stays_with_its_unit() {
        assert_eq!(wrapped_to("it took today 12:34 and 0.6 s", 17, 0), "it took\ntoday 12:34 and\n0.6 s");
    }

    #[test]
    fn a_command_that_can_be_pasted_stays_on_one_line() {
        assert_eq!(
            wrapped_to("undo it (`kkrun rollback --plan a b`), or `not this one`", 30, 2),
            "undo it\n  (`kkrun rollback --plan a b`),\n  or `not this one`"
        );
    }
}
