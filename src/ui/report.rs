//! The report of a run as one HTML page, which needs nothing but a browser: no script, no network, no other file.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use crate::pasteable::pasteable;
use crate::redaction::Redactor;
use crate::text::printable_lines;
use crate::time;

/// The look of the page.
const STYLE: &str = include_str!("report.css");

/// What a browser may do with the page, whatever is in it: apply the styles that are in it, and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// A text for the page: without secrets, and without characters that act instead of being seen. The page takes no other
/// text from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Of what is recorded or was printed.
    pub fn new(redactor: &Redactor, text: &str) -> Self {
        Self(printable_lines(&redactor.redact(text)))
    }

    /// Of a sentence of kkrun's, which may name commands.
    pub fn sentence(redactor: &Redactor, text: &str) -> Self {
        let Self(text) = Self::new(redactor, text);
        Self(pasteable(&text))
    }

    /// Of what is not in the record, with what takes secrets out of it.
    pub fn of_outside(redact: impl FnOnce(&str) -> String, text: &str) -> Self {
        Self(printable_lines(&redact(text)))
    }

    /// Each line by itself; all are looked through together, because a secret may be split by the ends of lines.
    pub fn lines(redactor: &Redactor, text: &str) -> Vec<Self> {
        let Self(text) = Self::new(redactor, text);
        text.lines().map(|line| Self(line.to_owned())).collect()
    }

    /// The same behind words of kkrun's own.
    #[must_use]
    pub fn behind(self, words: &str) -> Self {
        Self(format!("{words}{}", self.0))
    }

    fn first_line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }
}

impl Render for Text {
    fn render_to(&self, buffer: &mut String) {
        self.0.render_to(buffer);
    }
}

/// How something ended. The page shows each with its word and its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it was to be.
    Good,
    /// Not as it was to be.
    Bad,
    /// With something that someone has to decide about, or not at all yet.
    Open,
    /// Undone.
    Undone,
    /// Nothing is to be said about it.
    Plain,
}

impl Mark {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Open => "open",
            Self::Undone => "undone",
            Self::Plain => "plain",
        }
    }
}

/// A part of the time that the run took, in seconds from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// When it began.
    pub from: f64,
    /// When it ended.
    pub to: f64,
}

impl Span {
    fn seconds(self) -> f64 {
        (self.to - self.from).max(0.0)
    }

    /// Its place on a line that is as long as `whole`, for the style sheet.
    fn place(self, whole: f64) -> String {
        let percent =
            |seconds: f64| if whole > 0.0 { (seconds / whole * 100.0).clamp(0.0, 100.0) } else { 0.0 };
        format!("--from:{:.3};--for:{:.3}", percent(self.from), percent(self.seconds()))
    }
}

/// Lines, and what was left out of them.
#[derive(Clone, Debug, Default)]
pub struct Excerpt {
    /// Said before the lines.
    pub left_out_before: Option<Text>,
    /// The lines.
    pub lines: Vec<Text>,
    /// Said behind the lines.
    pub left_out_behind: Option<Text>,
}

/// Something that a step did: a change, an undo, a handler.
#[derive(Clone, Debug)]
pub struct Act {
    /// The number of the change, if it is one.
    pub change: Option<u64>,
    /// What it is, in one line.
    pub summary: Text,
    /// How it ended, in a word.
    pub mark: Mark,
    /// The word.
    pub word: &'static str,
    /// When it happened.
    pub span: Span,
    /// Why it ended so, and what became of it since; a sentence each.
    pub remarks: Vec<Text>,
    /// Names with their values.
    pub fields: Vec<(&'static str, Text)>,
    /// What it changed, line by line.
    pub difference: Option<Excerpt>,
}

/// A step as this run ran it or undid it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its id; none for what belongs to no step.
    pub id: Option<Text>,
    /// Its title.
    pub title: Text,
    /// How it ended.
    pub mark: Mark,
    /// The same as a word.
    pub word: &'static str,
    /// When it ran.
    pub span: Span,
    /// Why it failed.
    pub error: Option<Text>,
    /// Where it failed.
    pub place: Option<Text>,
    /// What it did.
    pub acts: Vec<Act>,
    /// What it printed.
    pub output: Option<Excerpt>,
}

/// Something that needs attention.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is the matter.
    pub title: Text,
    /// Why.
    pub reason: Option<Text>,
    /// The last lines that were printed.
    pub output: Vec<Text>,
    /// What leads on.
    pub next: Vec<Text>,
    /// The step that has more about it, by its position.
    pub step: Option<usize>,
}

/// What a rehearsal changed on disk.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Summed up by directory, a line each.
    pub summary: Vec<Text>,
    /// Path by path.
    pub paths: Excerpt,
}

/// All that the page says.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plan.
    pub plan: Text,
    /// What ran, as it was called.
    pub call: Text,
    /// The identity of the run.
    pub run: Text,
    /// The machine.
    pub host: Text,
    /// How the run ended.
    pub mark: Mark,
    /// The same in words.
    pub outcome: Text,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How long it took, or has taken.
    pub seconds: f64,
    /// What is to be known before all else.
    pub remarks: Vec<Text>,
    /// Numbers with what they count.
    pub counts: Vec<(usize, &'static str)>,
    /// What needs attention.
    pub problems: Vec<Problem>,
    /// The steps.
    pub steps: Vec<Step>,
    /// What is pending now.
    pub pending: Vec<Text>,
    /// The state of the plan now.
    pub now: Text,
    /// What leads on from there.
    pub next: Vec<Text>,
    /// When the page was made.
    pub made: Timestamp,
    /// The zone of the times.
    pub zone: TimeZone,
}

impl Report {
    /// The page.
    pub fn page(&self) -> String {
        let title = format!("{} · {}", self.plan.first_line(), self.outcome.first_line());
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    meta name="generator" content=(concat!("kkrun ", env!("CARGO_PKG_VERSION")));
                    title { (title) }
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { "Skip to the report" }
                    (self.header())
                    main #main tabindex="-1" {
                        (self.problems())
                        (self.time_line())
                        (self.now())
                    }
                    (footer())
                }
            }
        };
        page.into_string()
    }

    fn header(&self) -> Markup {
        html! {
            header {
                p.kind { "Report of a run on " strong { (self.host) } }
                h1 { (self.plan) " " span.badge.(self.mark.class()) { (self.outcome) } }
                dl.facts {
                    div { dt { "called as" } dd { code { (self.call) } } }
                    div { dt { "run" } dd { code { (self.run) } } }
                    div { dt { "begun" } dd { (self.moment(self.began)) } }
                    @if let Some(ended) = self.ended { div { dt { "ended" } dd { (self.moment(ended)) } } }
                    div { dt { "took" } dd { (took(self.seconds)) } }
                }
                @if !self.counts.is_empty() {
                    ul.counts { @for (count, what) in &self.counts { li { strong { (count) } " " (what) } } }
                }
                @for remark in &self.remarks { p.remark { (words(remark)) } }
                nav aria-label="Parts of the report" {
                    ul {
                        @if !self.problems.is_empty() { li { a href="#attention" { "Needs attention" } } }
                        li { a href="#time-line" { "Time line" } }
                        li { a href="#now" { "Now" } }
                    }
                }
            }
        }
    }

    fn problems(&self) -> Markup {
        html! {
            @if !self.problems.is_empty() {
                section #attention aria-labelledby="attention-title" {
                    h2 #attention-title { "Needs attention" }
                    @for problem in &self.problems {
                        article.problem {
                            h3 { (words(&problem.title)) }
                            @if let Some(text) = &problem.reason { (reason(text)) }
                            @if !problem.output.is_empty() { (pre(&problem.output)) }
                            @if !problem.next.is_empty() {
                                ul.next { @for next in &problem.next { li { (words(next)) } } }
                            }
                            @if let Some(step) = problem.step {
                                p { a href=(format!("#{}", anchor(step))) { "All that this step did" } }
                            }
                        }
                    }
                }
            }
        }
    }

    fn time_line(&self) -> Markup {
        html! {
            section #time-line aria-labelledby="time-line-title" {
                h2 #time-line-title { "Time line" }
                @if self.steps.is_empty() { p { "The run recorded no step and no change." } } @else {
                    (self.axis())
                    ol.steps { @for (at, step) in self.steps.iter().enumerate() { (self.step(at, step)) } }
                }
            }
        }
    }

    /// Marks at even times, for the eye alone: every bar has its times in words.
    fn axis(&self) -> Markup {
        let apart = tick(self.seconds);
        let marks = (0..=MOST_TICKS).map(|number| f64::from(number) * apart);
        html! {
            div.axis aria-hidden="true" {
                div.track {
                    @for mark in marks.take_while(|mark| *mark <= self.seconds) {
                        span style=(Span { from: mark, to: mark }.place(self.seconds)) { (short(mark)) }
                    }
                }
            }
        }
    }

    fn step(&self, at: usize, step: &Step) -> Markup {
        let counted = match step.acts.iter().filter(|act| act.change.is_some()).count() {
            0 => String::new(),
            1 => "1 change, ".to_owned(),
            count => format!("{count} changes, "),
        };
        html! {
            li {
                details.step open[step.mark == Mark::Bad] {
                    summary {
                        span.name {
                            @if let Some(id) = &step.id { span.id { (id) } " " }
                            span.title { (step.title) }
                        }
                        span.word.(step.mark.class()) { (step.word) }
                        (self.bar(step.mark, step.span))
                        span.took { (took(step.span.seconds())) }
                    }
                    div.body #(anchor(at)) {
                        p.when { (counted) (self.during(step.span)) }
                        @if let Some(error) = &step.error {
                            p.reason { (words(error)) @if let Some(place) = &step.place { " " code { (place) } } }
                        }
                        @if !step.acts.is_empty() {
                            ol.acts { @for act in &step.acts { li { (self.act(act)) } } }
                        }
                        @if let Some(output) = &step.output {
                            details.output {
                                summary { "Log of the step (" (lines_of(output.lines.len())) ")" }
                                (excerpt(output))
                            }
                        }
                    }
                }
            }
        }
    }

    fn act(&self, act: &Act) -> Markup {
        let line = html! {
            span.name { (act.summary) }
            span.word.(act.mark.class()) { (act.word) }
            (self.bar(act.mark, act.span))
            span.took { (took(act.span.seconds())) }
        };
        html! {
            details.act open[act.mark == Mark::Bad] {
                summary { (line) }
                div.body {
                    p.when {
                        @if let Some(change) = act.change { "change " (change) ", " }
                        (self.during(act.span))
                    }
                    @for remark in &act.remarks { (reason(remark)) }
                    @if !act.fields.is_empty() {
                        dl.fields { @for (name, value) in &act.fields { div { dt { (name) } dd { (words(value)) } } } }
                    }
                    @if let Some(difference) = &act.difference { div.diff { (excerpt(difference)) } }
                }
            }
        }
    }

    fn bar(&self, mark: Mark, span: Span) -> Markup {
        html! { span.track aria-hidden="true" { span.bar.(mark.class()) style=(span.place(self.seconds)) {} } }
    }

    fn now(&self) -> Markup {
        html! {
            section #now aria-labelledby="now-title" {
                h2 #now-title { "Now" }
                p { "When this page was made, " (self.moment(self.made)) ", " (words(&self.now)) "." }
                h3 { "Pending" }
                @if self.pending.is_empty() { p { "Nothing is pending." } } @else {
                    ul { @for pending in &self.pending { li { (words(pending)) } } }
                }
                @if !self.next.is_empty() {
                    h3 { "Next" }
                    ul.next { @for next in &self.next { li { (words(next)) } } }
                }
            }
        }
    }

    fn moment(&self, then: Timestamp) -> Markup {
        let zoned = then.to_zoned(self.zone.clone());
        html! { time datetime=(then.strftime("%Y-%m-%dT%H:%M:%SZ")) { (zoned.strftime("%Y-%m-%d %H:%M:%S %Z")) } }
    }

    /// From when to when, by the clock and from the beginning of the run.
    fn during(&self, span: Span) -> Markup {
        #[expect(clippy::cast_possible_truncation, reason = "runs take less than 292,000 years")]
        let clock = |seconds: f64| {
            let since = jiff::SignedDuration::from_millis((seconds * 1000.0) as i64);
            let then = self.began.saturating_add(since).unwrap_or(self.began);
            then.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
        };
        html! {
            (clock(span.from)) " to " (clock(span.to)) ", "
            (took(span.from)) " after the beginning, took " (took(span.seconds()))
        }
    }
}

/// The page of a run in a clone, with what the rehearsal changed on disk. That is known outside of the clone alone, and
/// the page is made inside.
pub fn with_difference(page: &str, difference: &Difference) -> String {
    let section = html! {
        section #difference aria-labelledby="difference-title" {
            h2 #difference-title { "Changed on disk by the rehearsal" }
            p { "The run was a rehearsal on a clone. The machine itself was not changed." }
            @if difference.summary.is_empty() { p { "Nothing on disk changed." } } @else {
                ul.sums { @for line in &difference.summary { li { (line) } } }
                details.output {
                    summary { "Every path (" (lines_of(difference.paths.lines.len())) ")" }
                    (excerpt(&difference.paths))
                }
            }
        }
    };
    let link = html! { li { a href="#difference" { "Changed on disk" } } };
    // Each is there once: what is not kkrun's own is escaped.
    let places = [("<section id=\"now\"", section), ("<li><a href=\"#now\"", link)];
    let put =
        |page: String, (place, new): (&str, Markup)| page.replacen(place, &format!("{}{place}", new.0), 1);
    places.into_iter().fold(page.to_owned(), put)
}

/// At most so many marks are on the axis behind its beginning.
const MOST_TICKS: u32 = 6;

/// How far the marks of the axis are apart, in seconds: as people divide time.
fn tick(whole: f64) -> f64 {
    const STEPS: [f64; 19] = [
        0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
        3600.0, 7200.0,
    ];
    let fits = |apart: &f64| whole / apart <= f64::from(MOST_TICKS);
    STEPS.into_iter().find(fits).unwrap_or(whole / f64::from(MOST_TICKS))
}

/// A time on the axis, which has little space.
fn short(seconds: f64) -> String {
    if seconds >= 60.0 {
        return format!("{:.0}:{:02.0} min", (seconds / 60.0).floor(), seconds % 60.0);
    }
    format!("{} s", (seconds * 100.0).round() / 100.0)
}

/// How long something took: most changes take less than a tenth of a second.
fn took(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.0} ms", seconds * 1000.0) } else { time::duration(seconds) }
}

fn anchor(step: usize) -> String {
    format!("step-{}", step + 1)
}

fn lines_of(count: usize) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

/// A text with what is in back-ticks as code.
fn words(text: &Text) -> Markup {
    let parts: Vec<&str> = text.0.split('`').collect();
    // An odd one begins nothing.
    let is_paired = parts.len() % 2 == 1;
    html! {
        @if is_paired {
            @for (at, part) in parts.iter().enumerate() {
                @if at % 2 == 1 { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

/// A sentence, and the difference behind it.
fn reason(text: &Text) -> Markup {
    let (sentence, behind) = text.0.split_once('\n').unwrap_or((&text.0, ""));
    let lines: Vec<Text> = behind.lines().map(|line| Text(line.to_owned())).collect();
    html! {
        p.reason { (words(&Text(sentence.to_owned()))) }
        @if !lines.is_empty() { div.diff { (pre(&lines)) } }
    }
}

fn excerpt(excerpt: &Excerpt) -> Markup {
    html! {
        @if let Some(left_out) = &excerpt.left_out_before { p.left-out { (words(left_out)) } }
        (pre(&excerpt.lines))
        @if let Some(left_out) = &excerpt.left_out_behind { p.left-out { (words(left_out)) } }
    }
}

/// Lines as they are. Those of a difference keep their sign, so that colour is not all that tells them apart.
fn pre(lines: &[Text]) -> Markup {
    html! {
        pre {
            @for Text(line) in lines {
                @match line.bytes().next() {
                    Some(b'+') => ins { (line) "\n" },
                    Some(b'-') => del { (line) "\n" },
                    Some(b'@') => span.hunk { (line) "\n" },
                    _ => span { (line) "\n" },
                }
            }
        }
    }
}

fn footer() -> Markup {
    html! {
        footer {
            p {
                "Made by kkrun " (env!("CARGO_PKG_VERSION")) " from the journal and the logs of the machine. "
                "Steps that were complete before this run are not listed. Secrets are masked."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::new(&Redactor::default(), text)
    }

    #[test]
    fn text_from_outside_is_escaped_and_acts_on_nothing() {
        let hostile = text("<script>x</script> \u{1b}[31m&\u{202e}\"'");
        let shown = html! { p title=(hostile) { (hostile) } }.into_string();
        let escaped = "&lt;script&gt;x&lt;/script&gt; &amp;&quot;'";
        assert_eq!(shown, format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn a_secret_that_is_split_by_line_ends_is_in_no_line() {
        let mut redactor = Redactor::default();
        redactor.learn("key", "correct-horse-battery");
        let lines = Text::lines(&redactor, "before\ncorrect-\nhorse-battery\nbehind");
        assert_eq!(lines, [text("before"), text("«secret:key»"), text("behind")]);
    }

    #[test]
    fn what_is_in_back_ticks_is_code_and_an_odd_one_is_itself() {
        assert_eq!(words(&text("run `a<b` now")).into_string(), "run <code>a&lt;b</code> now");
        assert_eq!(words(&text("it`s")).into_string(), "it`s");
    }

    #[test]
    fn marks_of_the_axis_are_even_and_few() {
        assert_eq!(short(0.1 + 0.2), "0.3 s");
        let marks = |whole: f64| short(tick(whole));
        assert_eq!(
            [0.04, 3.0, 59.0, 75.0, 4000.0].map(marks),
            ["0.01 s", "0.5 s", "10 s", "15 s", "15:00 min"]
        );
    }

    #[test]
    fn a_span_has_its_place_on_the_line() {
        assert_eq!(Span { from: 1.0, to: 2.5 }.place(10.0), "--from:10.000;--for:15.000");
        assert_eq!(Span { from: 0.0, to: 0.0 }.place(0.0), "--from:0.000;--for:0.000");
    }
}
