//! Shows a failure: what, where in which script, what the command printed last, and what to do next.

use console::{measure_text_width, style};

use super::output::line_to_stderr;
use super::wrap::wrapped;
use crate::failure::{Failure, Place};
use crate::pasteable::pasteable;

/// How many of a command's last lines are shown.
const TAIL: usize = 15;

/// Writes a failure to standard error.
pub fn show(error: &anyhow::Error) {
    let shown = match error.downcast_ref::<Failure>() {
        Some(failure) => text(&format!("{error:#}"), failure),
        None => wrapped(&format!("{}: {error:#}", style("error").for_stderr().red().bold())),
    };
    line_to_stderr(&shown);
}

fn text(message: &str, failure: &Failure) -> String {
    let mut lines: Vec<String> =
        failure.problems.iter().map(|problem| text(&problem.message, problem)).collect();
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
        lines.extend(failure.output[left_out..].iter().map(|line| format!("     {line}")));
    }
    for (at, hint) in failure.hints.iter().map(|hint| pasteable(hint)).enumerate() {
        let head = if at == 0 { "next:" } else { "     " };
        lines.push(wrapped(&format!("   {} {hint}", style(head).for_stderr().cyan())));
    }
    lines.join("\n")
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
    let mut indent: String = before.chars().map(|letter| if letter == '\t' { '\t' } else { ' ' }).collect();
    // Wide letters take two columns.
    indent.push_str(&" ".repeat(measure_text_width(before).saturating_sub(before.chars().count())));
    let word = text[before.len()..].chars();
    let width = word.take_while(|letter| of_name(*letter)).count().max(1);
    let mut lines = vec![
        format!("{margin} {} {}:{}:{}", dim("╭─"), place.file, place.line, place.column),
        format!("{} {} {text}", dim(&number), dim("│")),
        format!("{margin} {} {indent}{}", dim("│"), style("^".repeat(width)).for_stderr().red()),
    ];
    lines.extend(place.frames.iter().map(|frame| format!("{margin} {} {frame}", dim("·"))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

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
