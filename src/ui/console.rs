//! Renders events for a person: on standard error, with a live line while a command runs.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use console::{Emoji, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::Verbosity;
use super::output::{line_to_stderr, line_to_stdout};
use super::questions::Questions;
use super::summary::Summary;
use super::wrap::{width, wrapped};
use crate::event::{Answer, Audience, ChangeOutcome, Event, Level, Question, SkipReason, UndoOutcome};
use crate::machine::clock;
use crate::pasteable::pasteable;
use crate::text::printable_lines;
use crate::time;

/// The least and the greatest width of a title's column.
const TITLE: (usize, usize) = (22, 40);

/// How many lines of a difference are shown unless all are asked for.
const HEAD: usize = 40;

/// The audience at a terminal.
pub struct Console {
    verbosity: Verbosity,
    /// What changes in a target is shown of changes that are made, too.
    shows_made: bool,
    /// What can be typed next is shown. In a clone it would be about the clone, which is gone by then.
    with_hints: bool,
    questions: Questions,
    live: RefCell<Option<Live>>,
    /// What was seen of the run so far; none outside of plans.
    summary: RefCell<Option<Summary>>,
    /// A directory that would be made, and how many above it: not shown yet, because one in it may follow.
    directory: RefCell<Option<(String, usize)>>,
    /// The detail of the undo that was shown last: directories that hold the same thing are kept for one reason.
    detail: RefCell<Option<String>>,
    /// The width of a title's column.
    titles: Cell<usize>,
}

/// The step that runs now.
struct Live {
    bar: ProgressBar,
    begun: Instant,
    /// How long it took when it last completed, in seconds.
    usual_seconds: Option<f64>,
    /// What it does now.
    doing: String,
    /// What was printed last.
    printed: String,
    /// It ends after that.
    is_stopping: bool,
}

impl Live {
    fn show(&self) {
        let stopping = if self.is_stopping { " · stopping" } else { "" };
        let doing = if self.doing.is_empty() { String::new() } else { format!(" · {}", self.doing) };
        // What it prints is seen beside a long command, too.
        let room = width().filter(|_| !self.printed.is_empty()).map_or(usize::MAX, |width| width / 3);
        let doing = format!("{stopping}{}", shortened(&doing, room));
        let printed = if self.printed.is_empty() {
            String::new()
        } else {
            style(format!(" · {}", self.printed)).for_stderr().dim().to_string()
        };
        self.bar.set_message(format!("{doing}{printed}"));
    }

    /// How long such a step usually takes, as the end of a sentence.
    fn usual(&self) -> String {
        let so_far = time::duration(self.begun.elapsed().as_secs_f64());
        match self.usual_seconds {
            Some(usual) => format!("the step took {} the last time, {so_far} so far", time::duration(usual)),
            None => format!("the step has taken {so_far} so far"),
        }
    }
}

/// A text in so much room: what is cut off is before its counter, such as `(3/21)`, which says how far it is.
fn shortened(text: &str, room: usize) -> String {
    let counter = text.rfind(" (").filter(|at| text.ends_with(')') && text[*at..].contains('/'));
    let (head, counter) = text.split_at(counter.unwrap_or(text.len()));
    let room = room.saturating_sub(console::measure_text_width(counter));
    format!("{}{counter}", console::truncate_str(head, room, "…"))
}

/// Turns colours on or off for both streams.
pub(super) fn set_colors(on: bool) {
    console::set_colors_enabled(on);
    console::set_colors_enabled_stderr(on);
}

impl Console {
    /// Shows as much as `verbosity` says.
    pub fn new(verbosity: Verbosity, shows_made: bool, with_hints: bool, questions: Questions) -> Self {
        Self {
            verbosity,
            shows_made,
            with_hints,
            questions,
            live: RefCell::default(),
            summary: RefCell::default(),
            directory: RefCell::default(),
            detail: RefCell::default(),
            titles: Cell::new(TITLE.0),
        }
    }

    /// Writes the lines of a difference: the first ones, and how many there are more, unless all are asked for.
    fn difference(&self, text: &str, margin: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let shown = if self.verbosity >= Verbosity::Verbose { lines.len() } else { HEAD.min(lines.len()) };
        let left = lines.len() - shown;
        let is_code = |line: &&str| line.starts_with([' ', '+', '-', '@']);
        let line = |line: &&str| {
            let whole = format!("{margin}{line}");
            if is_code(line) { whole } else { wrapped(&whole) }
        };
        let mut text: Vec<String> = lines[..shown].iter().map(line).collect();
        if left > 0 {
            text.push(format!("{margin}… and {left} more lines, shown with `-v`"));
        }
        self.lines(&style(text.join("\n")).for_stderr().dim().to_string());
    }

    /// Writes a message above the live line, wrapped at words.
    fn line(&self, text: &str) {
        self.lines(&wrapped(text));
    }

    /// Writes lines above the live one.
    fn lines(&self, text: &str) {
        match &*self.live.borrow() {
            Some(live) if !live.bar.is_hidden() => live.bar.suspend(|| line_to_stderr(text)),
            _ => line_to_stderr(text),
        }
    }

    fn begin(&self, id: &str, title: &str, usual_seconds: Option<f64>) {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let of_usual = usual_seconds.map(|usual| format!(" of about {}", time::duration(usual)));
        let of_usual = of_usual.unwrap_or_default();
        let took = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let seconds = state.elapsed().as_secs_f64();
            let _ = write!(out, "{}{of_usual}", time::whole_seconds(seconds));
        };
        let template = ProgressStyle::with_template("  {spinner} {prefix} · {took}{wide_msg}");
        let template = template.unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(template.with_key("took", took));
        let summary = self.summary.borrow();
        let place = summary.as_ref().map(|summary| format!("{}/{} ", summary.seen, summary.steps));
        if bar.is_hidden() && self.verbosity >= Verbosity::Normal {
            line_to_stderr(format!("  {} {}", Emoji("🔄", ".."), self.label(id, title)).trim_end());
        }
        let room = width().map_or(usize::MAX, |width| width / 3);
        let title = console::truncate_str(title, room, "…");
        bar.set_prefix(format!("{}{} {title}", place.unwrap_or_default(), style(id).for_stderr().bold()));
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        let (doing, printed) = (String::new(), String::new());
        let (begun, is_stopping) = (Instant::now(), false);
        *self.live.borrow_mut() = Some(Live { bar, begun, usual_seconds, doing, printed, is_stopping });
    }

    fn end(&self) {
        if let Some(live) = self.live.borrow_mut().take() {
            live.bar.finish_and_clear();
        }
    }

    fn does(&self, doing: &str) {
        if let Some(live) = &mut *self.live.borrow_mut() {
            doing.clone_into(&mut live.doing);
            live.printed.clear();
            live.show();
        }
    }

    fn printed(&self, text: &str) {
        if let Some(live) = &mut *self.live.borrow_mut() {
            text.trim().clone_into(&mut live.printed);
            live.show();
        }
    }

    /// Answers a request to stop at once: what is finished first, how long that may take, what a second one does.
    fn stopping(&self, command: &str, finishes: bool) {
        let usual = self.live.borrow().as_ref().map(|live| format!("; {}", live.usual())).unwrap_or_default();
        let symbol = Emoji("✋", "!!");
        self.line(&if finishes {
            format!(
                "  {symbol} stopping: `{command}` is finished first, because ended half-way it leaves more to repair{usual}. \
                 A second Ctrl-C ends it at once; the next run repairs what it leaves"
            )
        } else {
            format!("  {symbol} stopping: `{command}` was asked to end; a second Ctrl-C kills it")
        });
        if let Some(live) = &mut *self.live.borrow_mut() {
            live.is_stopping = true;
            live.show();
        }
    }

    /// Shows a directory that was held back.
    fn release_directory(&self) {
        if let Some((summary, above)) = self.directory.take() {
            let above = match above {
                0 => String::new(),
                1 => " and the directory above it".to_owned(),
                above => format!(" and {above} directories above it"),
            };
            self.line(&format!("      would {summary}{above}"));
        }
    }

    /// Holds back a directory that would be made, if the next one may be in it; false if it is none.
    fn hold_directory(&self, outcome: ChangeOutcome, summary: &str, has_difference: bool) -> bool {
        let Some(path) = summary.strip_prefix("make /").filter(|_| outcome == ChangeOutcome::Would) else {
            self.release_directory();
            return false;
        };
        let held = self.directory.borrow().as_ref().and_then(|(held, above)| {
            let held = held.strip_prefix("make /")?;
            path.strip_prefix(held)?.starts_with('/').then_some(above + 1)
        });
        if held.is_none() {
            self.release_directory();
        }
        self.directory.replace(Some((summary.to_owned(), held.unwrap_or(0))));
        if has_difference {
            self.release_directory();
        }
        true
    }

    fn ended(&self, symbol: Emoji<'_, '_>, id: &str, title: &str, text: &str) {
        self.end();
        if self.verbosity >= Verbosity::Normal {
            line_to_stderr(&wrapped(&format!("  {symbol} {} {text}", self.label(id, title))));
        }
    }

    fn label(&self, id: &str, title: &str) -> String {
        let padding = self.titles.get().saturating_sub(console::measure_text_width(title));
        format!("{} {title}{}", style(id).for_stderr().bold(), " ".repeat(padding))
    }
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

impl Audience for Console {
    #[expect(clippy::too_many_lines, reason = "one arm for every kind of event")]
    fn hear(&self, event: &Event) {
        let normal = self.verbosity >= Verbosity::Normal;
        let verbose = self.verbosity >= Verbosity::Verbose;
        if let Some(summary) = &mut *self.summary.borrow_mut() {
            summary.hear(event);
        }
        if !matches!(event, Event::Change { .. }) {
            self.release_directory();
        }
        match event {
            Event::PlanStarted {
                plan,
                steps,
                run,
                root,
                going_on_at,
                overrides,
                dry_run,
                invocation,
                widest_title,
            } if normal => {
                let most = width().map_or(TITLE.1, |width| (width / 2).clamp(TITLE.0, TITLE.1));
                self.titles.set((*widest_title).clamp(TITLE.0, most));
                self.summary.replace(Some(Summary::of_plan(*steps, invocation, *dry_run)));
                let going =
                    going_on_at.as_ref().map_or_else(String::new, |at| format!(" · resuming at {at}"));
                let how = match run {
                    _ if *dry_run => "dry run, ".to_owned(),
                    Some(run) => format!("run {run}, "),
                    None => String::new(),
                };
                let plan = style(plan).for_stderr().bold();
                self.line(&format!("{plan} · {}{going} ({how}{root})", count(*steps, "step")));
                for line in overrides {
                    self.line(&format!("  with {line}"));
                }
                self.line("");
            }
            Event::StepSkipped { id, title, why, finished, .. } if normal => {
                let since = finished.map(|at| time::when(at, clock::now(), &clock::zone()));
                let text = match (why, since) {
                    (SkipReason::Complete, Some(since)) => format!("done {since}, not re-examined"),
                    (SkipReason::Examined, Some(since)) => format!("done {since}, still holds"),
                    (why, _) => why.to_string(),
                };
                let done =
                    matches!(why, SkipReason::Complete | SkipReason::Examined | SkipReason::Recorded(_));
                let symbol = if done { Emoji("✅", "ok") } else { Emoji("⏩", "--") };
                self.ended(symbol, id, title, &style(text).for_stderr().dim().to_string());
            }
            Event::StepStarted { id, title, reason, usual_seconds } => {
                self.begin(id, title, *usual_seconds);
                if let Some(reason) = reason.as_ref().filter(|_| normal) {
                    self.line(&format!("  {} {} {reason}", Emoji("🔁", ">>"), self.label(id, title)));
                }
            }
            Event::StepCompleted { id, title, seconds, changes } => {
                let text = format!("{} · {}", time::duration(*seconds), count(*changes, "change"));
                self.ended(Emoji("✅", "ok"), id, title, &text);
            }
            Event::StepFailed { id, title, seconds, .. } => {
                self.end();
                let symbol = Emoji("❌", "!!");
                line_to_stderr(&format!(
                    "  {symbol} {} failed after {}",
                    self.label(id, title),
                    time::duration(*seconds)
                ));
            }
            Event::StepInterrupted { id, title, signal } => {
                self.end();
                let label = self.label(id, title);
                line_to_stderr(&format!("  {} {label} stopped by {signal}", Emoji("✋", "!!")));
            }
            Event::StepPreviewed { id, title, changes, unpredictable } => {
                let text = match unpredictable {
                    Some(why) => format!("{}, then {why}", count(*changes, "change")),
                    None if *changes == 0 => "nothing to change".to_owned(),
                    None => count(*changes, "change"),
                };
                self.ended(Emoji("👀", "?"), id, title, &text);
            }
            Event::CommandStarted { label } => {
                self.does(label);
                if verbose {
                    self.line(&format!("      $ {label}"));
                }
            }
            Event::CommandProgress { text } => self.does(text),
            Event::CommandLine { text, .. } => {
                self.printed(text);
                if verbose {
                    self.line(&format!("        {text}"));
                }
            }
            Event::Stopping { command, finishes } => self.stopping(command, *finishes),
            Event::Change { outcome, summary, difference, .. } => {
                let (head, shown) = match outcome {
                    ChangeOutcome::Would => ("      would ".to_owned(), normal),
                    ChangeOutcome::WouldAsk => ("      would ask whether to ".to_owned(), normal),
                    ChangeOutcome::Might => ("      might ".to_owned(), normal),
                    ChangeOutcome::Kept => (format!("  {} ", Emoji("✋", "--")), normal),
                    ChangeOutcome::Made => ("      ".to_owned(), verbose || self.shows_made && normal),
                };
                if shown {
                    if !self.hold_directory(*outcome, summary, difference.is_some()) {
                        self.line(&format!("{head}{summary}"));
                    }
                    if let Some(difference) = difference {
                        self.difference(difference, "        ");
                    }
                }
            }
            // In quiet mode, too: a question or a failure follows, or it is overwritten.
            Event::Conflict { described, difference, happened, .. } => {
                let symbol = Emoji("✋", "!!");
                if let Some(happened) = happened {
                    self.line(&format!("  {symbol} {described} {happened} outside kkrun"));
                } else {
                    self.line(&format!("  {symbol} {described} was modified outside kkrun:"));
                    self.difference(difference, "      ");
                }
            }
            Event::Verified { label, now } if verbose => {
                self.line(&format!("      {} {label}", if *now { "✓" } else { "later:" }));
            }
            Event::Undo { outcome, summary, detail, hints, done, .. } => {
                let (symbol, word, shown) = match outcome {
                    UndoOutcome::Would => (Emoji("↩ ", "<-"), "would undo: ", normal),
                    UndoOutcome::Undone => (Emoji("↩ ", "<-"), "", normal),
                    UndoOutcome::Already => (Emoji("↩ ", "<-"), "already as before: ", verbose),
                    UndoOutcome::Kept => (Emoji("✋", "--"), "kept: ", true),
                    UndoOutcome::NotUndone => (Emoji("✋", "--"), "not undone: ", true),
                    UndoOutcome::Conflict => (Emoji("✋", "!!"), "conflict: ", true),
                    UndoOutcome::Failed => (Emoji("❌", "!!"), "failed: ", true),
                };
                if shown {
                    let what = if *outcome == UndoOutcome::Undone { done } else { summary };
                    self.line(&format!("  {symbol} {word}{what}"));
                    let is_told = detail.is_some() && *self.detail.borrow() == *detail;
                    if !is_told {
                        self.detail.borrow_mut().clone_from(detail);
                    }
                    for text in detail.iter().filter(|_| !is_told).chain(hints) {
                        self.difference(text, "      ");
                    }
                }
            }
            Event::Said { level, text } if normal || *level == Level::Warn => {
                let symbol = match level {
                    Level::Info => Emoji("·", "-"),
                    Level::Warn => Emoji("❗", "!"),
                    Level::Success => Emoji("🎉", "*"),
                };
                self.line(&format!("  {symbol} {text}"));
            }
            Event::Output { text } => {
                let for_terminal = std::io::stdout().is_terminal().then(|| printable_lines(text));
                let text = for_terminal.as_deref().unwrap_or(text);
                match &*self.live.borrow() {
                    Some(live) if !live.bar.is_hidden() => live.bar.suspend(|| line_to_stdout(text)),
                    _ => line_to_stdout(text),
                }
            }
            Event::Note { text } if normal => self.line(&format!("  {}", style(text).for_stderr().dim())),
            Event::RunEnded { pending, triggers, exit, .. } => {
                self.end();
                for line in pending {
                    line_to_stderr(&wrapped(&format!("  {} still pending: {line}", Emoji("❗", "!"))));
                }
                let summary = self.summary.take().filter(|_| normal);
                let lines = summary
                    .map(|summary| summary.lines(*exit, triggers, self.with_hints))
                    .unwrap_or_default();
                if !lines.is_empty() {
                    line_to_stderr("");
                }
                for line in lines {
                    line_to_stderr(&wrapped(&format!("  {}", pasteable(&line))));
                }
            }
            _ => {}
        }
    }

    fn shows_differences(&self, outcome: ChangeOutcome) -> bool {
        match outcome {
            ChangeOutcome::Would | ChangeOutcome::WouldAsk => self.verbosity >= Verbosity::Normal,
            ChangeOutcome::Made => self.verbosity >= Verbosity::Verbose || self.shows_made,
            ChangeOutcome::Kept | ChangeOutcome::Might => false,
        }
    }

    fn agrees_unasked(&self) -> bool {
        self.questions.yes
    }

    fn ask(&self, question: &Question) -> Result<Option<Answer>> {
        match &*self.live.borrow() {
            Some(live) => live.bar.suspend(|| self.questions.ask(question)),
            None => self.questions.ask(question),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_stays_when_what_a_command_does_is_shortened() {
        let text = " · unpacking golang-1.19-src (3/21)";
        assert_eq!(shortened(text, 80), text);
        assert_eq!(shortened(text, 24), " · unpacking gol… (3/21)");
        assert_eq!(shortened(" · run something (quickly)", 12), " · run some…");
    }
}
