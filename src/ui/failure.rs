//! Shows a failure: what, where in which script, what the command printed last, and what to do next.

use console::{measure_text_width, style, truncate_str};

use super::output::line_to_stderr;
use super::wrap::{hanging, width, wrapped};
use crate::failure::{Failure, Place, sentence};
use crate::pasteable::pasteable;

/// How many of a command's last lines are shown.
const TAIL: usize = 15;

/// How many columns a command has in a message that a longer text accompanies.
const BRIEF: usize = 72;

/// Writes a failure to standard error.
pub fn show(error: &anyhow::Error) {
    let shown = match error.downcast_ref::<Failure>() {
        Some(failure) => text(&sentence(error), failure),
        None => wrapped(&format!("{}: {}", style("error").for_stderr().red().bold(), sentence(error))),
    };
    line_to_stderr(&shown);
}

fn text(message: &str, failure: &Failure) -> String {
    let mut lines: Vec<String> =
        failure.problems.iter().map(|problem| text(&problem.message, problem)).collect();
    // The excerpt shows the command as it is written.
    let message = if failure.place.is_some() { brief(message) } else { message.to_owned() };
    let head = format!("{}: {message}", style("error").for_stderr().red().bold());
    lines.extend([String::new(), wrapped(&head)]);
    if let Some(place) = &failure.place {
        lines.extend(excerpt(place));
    }
    if !failure.output.is_empty() {
        let left_out = failure.output.len().saturating_sub(TAIL);
        let head = match left_out {
            0 => "last output".to_owned(),
            _ => format!("last output ({left_out} lines before it are left out)"),
        };
        lines.push(format!("   {}", style(head).for_stderr().dim()));
        lines.extend(failure.output[left_out..].iter().map(|line| hanging(&format!("     {line}"), 7)));
    }
    for (at, hint) in failure.hints.iter().map(|hint| pasteable(hint)).enumerate() {
        let head = if at == 0 { style("next:").for_stderr().cyan().to_string() } else { " ".repeat(5) };
        lines.push(hanging(&format!("   {head} {hint}"), 9));
    }
    lines.join("\n")
}

/// A sentence with its long commands cut.
pub fn brief(message: &str) -> String {
    // As a log has the command that it begins with.
    if let Some(command) = message.strip_prefix("$ ") {
        return format!("$ {}", truncate_str(command, BRIEF, "…"));
    }
    let parts: Vec<&str> = message.split('`').collect();
    let is_balanced = parts.len() % 2 == 1;
    let cut = |(at, part): (usize, &&str)| {
        let is_command = at % 2 == 1 && part.contains(' ') && !part.starts_with("kkrun ");
        if is_balanced && is_command {
            truncate_str(part, BRIEF, "…").into_owned()
        } else {
            (*part).to_owned()
        }
    };
    parts.iter().enumerate().map(cut).collect::<Vec<_>>().join("`")
}

/// The part of a line of a script that fits into so many columns, with the place that is meant in it, and how many
/// characters before it are left out.
fn part_of(text: &str, place: usize, room: usize) -> (String, usize) {
    if measure_text_width(text) <= room {
        return (text.to_owned(), 0);
    }
    let from = if place < room * 2 / 3 { 0 } else { place - room / 3 };
    let part: String = text.chars().skip(from).collect();
    let part = if from > 0 { format!("…{part}") } else { part };
    (truncate_str(&part, room, "…").into_owned(), from)
}

fn excerpt(place: &Place) -> Vec<String> {
    if place.line == 0 {
        return vec![format!("   in {}", place.file)];
    }
    let number = place.line.to_string();
    let margin = " ".repeat(number.len());
    let dim = |text: &str| style(text.to_owned()).for_stderr().dim().to_string();
    let text = place.text.trim_end();
    // A call's place is that of its name; the namespace before it belongs to what is shown.
    let of_name = |letter: char| letter.is_alphanumeric() || "_:".contains(letter);
    let before: String = text.chars().take(place.column.saturating_sub(1)).collect();
    let before = if before.ends_with("::") { before.trim_end_matches(of_name) } else { &before };
    let word = &text[before.len()..];
    let word = &word[..word.find(|letter| !of_name(letter)).unwrap_or(word.len())];
    // The colon behind a key is not part of it.
    let marked = word.trim_end_matches(':').chars().count().max(1);
    let room = width().map_or(usize::MAX, |width| width.saturating_sub(number.len() + 3));
    let (text, left_out) = part_of(text, before.chars().count(), room);
    let before: String = before.chars().skip(left_out).collect();
    let mut indent: String = before.chars().map(|letter| if letter == '\t' { '\t' } else { ' ' }).collect();
    // Wide letters take two columns, and what stands for those that are left out takes one.
    let wide = measure_text_width(&before).saturating_sub(before.chars().count());
    indent.push_str(&" ".repeat(wide + usize::from(left_out > 0)));
    let mut lines = vec![
        format!("{margin} {} {}:{}:{}", dim("╭─"), place.file, place.line, place.column),
        format!("{} {} {text}", dim(&number), dim("│")),
        format!("{margin} {} {indent}{}", dim("│"), style("^".repeat(marked)).for_stderr().red()),
    ];
    lines.extend(place.frames.iter().map(|frame| format!("{margin} {} {frame}", dim("·"))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_around_the_place_that_is_meant() {
        let text = format!("{}here{}", "a".repeat(50), "b".repeat(50));
        assert_eq!(part_of(&text, 50, 200), (text.clone(), 0));
        assert_eq!(part_of(&text, 2, 12), (format!("{}…", "a".repeat(11)), 0));
        assert_eq!(part_of(&text, 50, 12), ("…aaaaherebb…".to_owned(), 46));
    }

    #[test]
    fn a_long_command_is_cut_and_what_can_be_pasted_is_not() {
        let long = "x ".repeat(40);
        assert_eq!(brief(&format!("`{long}` failed")), format!("`{}…` failed", &long[..BRIEF - 1]));
        let hint = format!("run `kkrun {long}`");
        assert_eq!(brief(&hint), hint);
    }

    #[test]
    fn the_caret_stands_under_the_call_and_the_frames_follow() {
        console::set_colors_enabled_stderr(false);
        let place = Place {
            file: "stdlib/rbenv.rhai".into(),
            line: 61,
            column: 10,
            text: "    cmd::run([\"bundle\"], #{});".into(),
            frames: vec!["`install_gems` called at scripts/04.rhai:18:1".into()],
        };
        let mut failure = Failure::new("`bundle` failed").at(place).hint("mend it");
        failure.output = vec!["oops".into()];
        assert_eq!(
            text("`bundle` failed", &failure).lines().collect::<Vec<_>>(),
            [
                "",
                "error: `bundle` failed",
                "   ╭─ stdlib/rbenv.rhai:61:10",
                "61 │     cmd::run([\"bundle\"], #{});",
                "   │     ^^^^^^^^",
                "   · `install_gems` called at scripts/04.rhai:18:1",
                "   last output",
                "     oops",
                "   next: mend it",
            ]
        );
    }
}
