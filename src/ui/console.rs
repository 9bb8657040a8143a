//! Renders events for a person: on standard error, with a live line while a command runs.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use console::{Emoji, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Verbosity;
use super::output::{line_to_stderr, line_to_stdout};
use super::questions::Questions;
use crate::event::{Answer, Audience, ChangeOutcome, Event, Level, Question, SkipReason, UndoOutcome};
use crate::machine::clock;
use crate::text::printable_lines;
use crate::time;

/// The width of a title's column.
const TITLE: usize = 22;

/// How many lines of a difference are shown unless all are asked for.
const HEAD: usize = 40;

/// The audience at a terminal.
pub struct Console {
    verbosity: Verbosity,
    /// What changes in a target is shown of changes that are made, too.
    shows_made: bool,
    questions: Questions,
    live: RefCell<Option<Live>>,
}

/// The step that runs now.
struct Live {
    bar: ProgressBar,
    head: String,
    command: String,
}

/// Turns colours on or off for both streams.
pub(super) fn set_colors(on: bool) {
    console::set_colors_enabled(on);
    console::set_colors_enabled_stderr(on);
}

impl Console {
    /// Shows as much as `verbosity` says.
    pub fn new(verbosity: Verbosity, shows_made: bool, questions: Questions) -> Self {
        Self { verbosity, shows_made, questions, live: RefCell::new(None) }
    }

    /// Writes the lines of a difference: the first ones, and how many there are more, unless all are asked for.
    fn difference(&self, text: &str, margin: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let shown = if self.verbosity >= Verbosity::Verbose { lines.len() } else { HEAD.min(lines.len()) };
        let left = lines.len() - shown;
        let mut text: Vec<String> = lines[..shown].iter().map(|line| format!("{margin}{line}")).collect();
        if left > 0 {
            text.push(format!("{margin}… and {left} more lines, shown with `-v`"));
        }
        self.line(&style(text.join("\n")).for_stderr().dim().to_string());
    }

    /// Writes a line above the live one.
    fn line(&self, text: &str) {
        match &*self.live.borrow() {
            Some(live) if !live.bar.is_hidden() => live.bar.suspend(|| line_to_stderr(text)),
            _ => line_to_stderr(text),
        }
    }

    fn begin(&self, id: &str, title: &str) {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = ProgressStyle::with_template("  {spinner} {wide_msg}");
        bar.set_style(template.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let head = label(id, title);
        bar.set_message(head.clone());
        if bar.is_hidden() && self.verbosity >= Verbosity::Normal {
            line_to_stderr(format!("  {} {head}", Emoji("🔄", "..")).trim_end());
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        *self.live.borrow_mut() = Some(Live { bar, head, command: String::new() });
    }

    fn end(&self) {
        if let Some(live) = self.live.borrow_mut().take() {
            live.bar.finish_and_clear();
        }
    }

    fn progress(&self, command: Option<&str>, text: &str) {
        if let Some(live) = &mut *self.live.borrow_mut() {
            if let Some(command) = command {
                command.clone_into(&mut live.command);
            }
            let detail =
                if text.is_empty() { live.command.clone() } else { format!("{} · {text}", live.command) };
            live.bar.set_message(format!("{} {detail}", live.head));
        }
    }

    fn ended(&self, symbol: Emoji<'_, '_>, id: &str, title: &str, text: &str) {
        self.end();
        if self.verbosity >= Verbosity::Normal {
            line_to_stderr(&format!("  {symbol} {} {text}", label(id, title)));
        }
    }
}

fn label(id: &str, title: &str) -> String {
    let padding = TITLE.saturating_sub(console::measure_text_width(title));
    format!("{} {title}{}", style(id).for_stderr().bold(), " ".repeat(padding))
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

impl Audience for Console {
    #[expect(clippy::too_many_lines, reason = "one arm for every kind of event")]
    fn hear(&self, event: &Event) {
        let normal = self.verbosity >= Verbosity::Normal;
        let verbose = self.verbosity >= Verbosity::Verbose;
        match event {
            Event::PlanStarted { plan, steps, run, root, going_on_at, overrides, dry_run } if normal => {
                let going =
                    going_on_at.as_ref().map_or_else(String::new, |at| format!(" · resuming at {at}"));
                let how = if *dry_run { "dry run".to_owned() } else { format!("run {run}") };
                let plan = style(plan).for_stderr().bold();
                self.line(&format!("{plan} · {}{going} ({how}, {root})", count(*steps, "step")));
                for line in overrides {
                    self.line(&format!("  with {line}"));
                }
                self.line("");
            }
            Event::StepSkipped { id, title, why, finished } if normal => {
                let since = finished.and_then(|at| jiff::Timestamp::from_second(at).ok());
                let since = since.map(|at| time::when(at, clock::now(), &clock::zone()));
                let text = match (why, since) {
                    (SkipReason::Complete, Some(since)) => format!("done {since}, not re-examined"),
                    (SkipReason::Examined, Some(since)) => format!("done {since}, still holds"),
                    (why, _) => why.to_string(),
                };
                let done = matches!(why, SkipReason::Complete | SkipReason::Examined | SkipReason::Recorded);
                let symbol = if done { Emoji("✅", "ok") } else { Emoji("⏭️ ", "--") };
                self.ended(symbol, id, title, &style(text).for_stderr().dim().to_string());
            }
            Event::StepStarted { id, title, reason } => {
                self.begin(id, title);
                if let Some(reason) = reason.as_ref().filter(|_| normal) {
                    self.line(&format!("  {} {} {reason}", Emoji("♻️ ", ">>"), label(id, title)));
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
                    label(id, title),
                    time::duration(*seconds)
                ));
            }
            Event::StepInterrupted { id, title, signal } => {
                self.end();
                line_to_stderr(&format!("  {} {} stopped by {signal}", Emoji("✋", "!!"), label(id, title)));
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
                self.progress(Some(label), "");
                if verbose {
                    self.line(&format!("      $ {label}"));
                }
            }
            Event::CommandLine { text, .. } => {
                self.progress(None, text);
                if verbose {
                    self.line(&format!("        {text}"));
                }
            }
            Event::Change { outcome, summary, difference, .. } => {
                let (head, shown) = match outcome {
                    ChangeOutcome::Would => ("      would ".to_owned(), normal),
                    ChangeOutcome::WouldAsk => ("      would ask whether to ".to_owned(), normal),
                    ChangeOutcome::Might => ("      might ".to_owned(), normal),
                    ChangeOutcome::Kept => (format!("  {} ", Emoji("✋", "--")), normal),
                    ChangeOutcome::Made => ("      ".to_owned(), verbose || self.shows_made && normal),
                };
                if shown {
                    self.line(&format!("{head}{summary}"));
                    if let Some(difference) = difference {
                        self.difference(difference, "        ");
                    }
                }
            }
            // In quiet mode, too: a question or a failure follows, or it is overwritten.
            Event::Conflict { target, difference, .. } => {
                self.line(&format!("  {} {target} was modified outside kkrun:", Emoji("✋", "!!")));
                self.difference(difference, "      ");
            }
            Event::Verified { label, now } if verbose => {
                self.line(&format!("      {} {label}", if *now { "✓" } else { "later:" }));
            }
            Event::Undo { outcome, summary, detail, hints, done, .. } => {
                let (symbol, word, shown) = match outcome {
                    UndoOutcome::Would => (Emoji("↩", "<-"), "would undo: ", normal),
                    UndoOutcome::Undone => (Emoji("↩", "<-"), "", normal),
                    UndoOutcome::Already => (Emoji("↩", "<-"), "already as before: ", verbose),
                    UndoOutcome::Kept => (Emoji("✋", "--"), "kept: ", true),
                    UndoOutcome::NotUndone => (Emoji("✋", "--"), "not undone: ", true),
                    UndoOutcome::Conflict => (Emoji("✋", "!!"), "conflict: ", true),
                    UndoOutcome::Failed => (Emoji("❌", "!!"), "failed: ", true),
                };
                if shown {
                    let what = if *outcome == UndoOutcome::Undone { done } else { summary };
                    self.line(&format!("  {symbol} {word}{what}"));
                    for text in detail.iter().chain(hints) {
                        self.difference(text, "      ");
                    }
                }
            }
            Event::Said { level, text } if normal || *level == Level::Warn => {
                let symbol = match level {
                    Level::Info => Emoji("·", "-"),
                    Level::Warn => Emoji("⚠️ ", "!"),
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
            Event::RunEnded { pending, .. } => {
                self.end();
                for line in pending {
                    line_to_stderr(&format!("  {} still pending: {line}", Emoji("⚠️ ", "!")));
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
