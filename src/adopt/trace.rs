//! What the script did when: the trace of its shell, and the sections of its text.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::script::lexically_normal;

/// Begins a command in the trace, once more for each subshell; it occurs in no text.
const BEGIN: char = '\u{1}';
/// Ends what is said about a command.
const END: char = '\u{2}';
/// The clock by which files are stamped ticks this often, in nanoseconds: a stamp is at most so much too early.
const TICK: i128 = 5_000_000;
/// A tick can be so late, in nanoseconds: the processor that keeps the time of a busy virtual machine may not run.
const LATEST: i128 = 1_000_000_000;
/// Programs that make all that they name, and those that make the last of it.
const CREATORS: ([&str; 3], [&str; 4]) = (["mkdir", "tee", "touch"], ["cp", "install", "ln", "mv"]);

/// What the shell of the script reads first, so that it writes a trace to the file: the time, the lines of the calls, the
/// line and the directory of each command. Source: bash(1), `BASH_ENV`, `BASH_XTRACEFD`; root's `PS4` is not inherited.
pub(super) fn prelude(file: &str) -> String {
    format!(
        "unset BASH_ENV\nexec {{BASH_XTRACEFD}}>>{file}\n\
         PS4=$'\\x01''${{EPOCHREALTIME}} ${{BASH_LINENO[*]}} ${{LINENO}} ${{PWD}}'$'\\x02'\nset -x\n"
    )
}

/// A command that the shell ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// When it began, in nanoseconds since 1970.
    pub(super) when: i128,
    /// The line of the script that led to it, outside of functions.
    pub(super) line: usize,
    /// Its own line, which may be one of a function or of another script.
    pub(super) own_line: usize,
    /// How many shells it is in, from one: more where its output is put into another command.
    pub(super) depth: usize,
    /// The directory that it ran in.
    pub(super) directory: PathBuf,
    /// It, as the shell read it when all was expanded.
    pub(super) text: String,
}

impl Command {
    /// Its arguments, if it is written without the shell's own kind of quoting.
    pub(super) fn words(&self) -> Vec<String> {
        if self.text.contains("$'") { Vec::new() } else { shell_words::split(&self.text).unwrap_or_default() }
    }
}

/// Where a part of the script begins, and its title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Its first line.
    pub(super) line: usize,
    /// What the script calls it.
    pub(super) title: String,
}

/// The commands of a script in their order, and its text.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    pub(super) commands: Vec<Command>,
    source: Vec<String>,
}

impl Trace {
    /// Reads what the shell wrote about the script whose text this is.
    pub(super) fn read(trace: &str, source: &str) -> Self {
        let (mut commands, mut depth) = (Vec::new(), 0);
        for entry in trace.split(BEGIN).skip(1) {
            depth += 1;
            if !entry.is_empty() {
                commands.extend(command(entry, depth));
                depth = 0;
            }
        }
        Self { commands, source: source.lines().map(str::to_owned).collect() }
    }

    /// The command that was running at this instant, or one near it that makes what is at this path, or else names it.
    pub(super) fn at(&self, when: i128, path: &str) -> Option<&Command> {
        let end = self.commands.partition_point(|command| command.when <= when + TICK);
        let begin = self.commands.partition_point(|command| command.when <= when - TICK).saturating_sub(1);
        let near = &self.commands[begin.min(end)..end];
        let name = name_of(path);
        let names = |command: &&Command| {
            let line = self.source.get(command.line.wrapping_sub(1));
            !name.is_empty()
                && (has_word(&command.text, name) || line.is_some_and(|line| has_word(line, name)))
        };
        let makes = |command: &&Command| !path.is_empty() && self.makes(command, path);
        let running = || {
            let end = self.commands.partition_point(|command| command.when <= when);
            self.commands.get(end.checked_sub(1)?)
        };
        let later = || {
            let late = self.commands.partition_point(|command| command.when <= when + LATEST);
            self.commands[end..late].iter().find(names)
        };
        let made = near.iter().rev().find(makes).or_else(|| running().filter(makes));
        made.or_else(|| near.iter().rev().find(names))
            .or_else(|| running().filter(names))
            .or_else(later)
            .or_else(running)
    }

    /// The command that made or wrote what is at this path although it began after this instant: a stamp can be so early.
    pub(super) fn written_next(&self, when: i128, path: &str) -> Option<&Command> {
        let begin = self.commands.partition_point(|command| command.when <= when);
        let end = self.commands.partition_point(|command| command.when <= when + LATEST);
        self.commands[begin..end].iter().find(|command| self.makes(command, path))
    }

    /// Whether a command that began after this instant copied or moved to this path, or to a directory above it: what is there
    /// may have the time of its source.
    pub(super) fn copied_after(&self, when: i128, path: &str) -> bool {
        let begin = self.commands.partition_point(|command| command.when <= when);
        self.commands[begin..].iter().any(|command| {
            let words = as_user(command.words()).1;
            let Some((program, [.., destination])) = words.split_first() else { return false };
            let destination = lexically_normal(&command.directory.join(destination));
            ["cp", "install", "mv", "rsync"].contains(&name_of(program))
                && destination != Path::new("/")
                && Path::new(path).starts_with(destination)
        })
    }

    /// Whether a command makes or writes what is at this path, by its words or where its line has output written to.
    fn makes(&self, command: &Command, path: &str) -> bool {
        let is_it = |named: &str| lexically_normal(&command.directory.join(named)) == Path::new(path);
        // What the shell has expanded in an output is not known, but for the name.
        let is_output =
            |output: String| is_it(&output) || output.contains('$') && name_of(&output) == name_of(path);
        if self.outputs(command).any(is_output) {
            return true;
        }
        let words = as_user(command.words()).1;
        let Some((program, arguments)) = words.split_first() else { return false };
        let has = |word: &str| arguments.iter().any(|argument| argument == word);
        match name_of(program) {
            "git" if arguments.first().is_some_and(|verb| verb == "config") => {
                path == "/etc/gitconfig" && has("--system")
                    || path.ends_with("/.gitconfig") && has("--global")
            }
            "install" if has("-d") => arguments.iter().any(|made| is_it(made)),
            program if CREATORS.0.contains(&program) => arguments.iter().any(|made| is_it(made)),
            program if CREATORS.1.contains(&program) => {
                let Some((last, others)) = arguments.split_last() else { return false };
                is_it(last) || others.iter().any(|other| is_it(&format!("{last}/{}", name_of(other))))
            }
            _ => false,
        }
    }

    /// Where the script has output written to, as far as its lines name it.
    pub(super) fn written(&self) -> impl Iterator<Item = String> {
        let of_line = |line: &String| line.split('>').skip(1).filter_map(output_in).collect::<Vec<_>>();
        let lines =
            self.source.iter().filter(|line| self.commands.is_empty() && !line.trim_start().starts_with('#'));
        self.commands.iter().flat_map(|command| self.outputs(command)).chain(lines.flat_map(of_line))
    }

    /// Where the line of a command has output written to; a variable is what the script last assigned to it.
    pub(super) fn outputs(&self, command: &Command) -> impl Iterator<Item = String> {
        let line = self.source.get(command.line.wrapping_sub(1)).map_or("", String::as_str);
        line.split('>').skip(1).filter_map(move |output| {
            let output = output_in(output)?;
            let Some((directory, variable)) = output.rsplit_once('$') else { return Some(output) };
            let variable = variable.trim_start_matches('{').trim_end_matches('}');
            let assigns = |assignment: &Command| {
                let assigned = assignment.text.strip_prefix("local ").unwrap_or(&assignment.text);
                let (name, value) = assigned.split_once('=')?;
                (name == variable).then(|| value.trim_matches('\'').to_owned())
            };
            let before = self.commands.partition_point(|other| other.when <= command.when);
            let value = self.commands[..before].iter().rev().find_map(assigns);
            Some(value.map_or_else(|| output.clone(), |value| format!("{directory}{value}")))
        })
    }

    /// The line of a command with the values of the variables in it; `None` if it has more than one command, or what only its
    /// shell knows.
    pub(super) fn expanded(&self, command: &Command) -> Option<String> {
        static VARIABLE: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))").ok());
        let before = self.commands.partition_point(|other| other.when <= command.when);
        let value = |variable: &str| {
            self.commands[..before].iter().rev().find_map(|assignment| {
                let (name, value) =
                    assignment.text.strip_prefix("local ").unwrap_or(&assignment.text).split_once('=')?;
                let is_plain = value.chars().all(|each| each.is_alphanumeric() || "/._-:@%+,".contains(each));
                (name == variable && is_plain).then(|| value.to_owned())
            })
        };
        let expanded =
            VARIABLE.as_ref()?.replace_all(self.line_of(command).trim(), |captures: &Captures<'_>| {
                let name = captures.get(1).or_else(|| captures.get(2)).map_or("", |name| name.as_str());
                value(name).unwrap_or_else(|| captures[0].to_owned())
            });
        (!expanded.contains(['$', '`', '|', ';', '&', '(', ')', '{', '}', '\\', '*', '?']))
            .then(|| expanded.into_owned())
    }

    /// Whether the line of a command has its output written to this name.
    pub(super) fn is_redirected_to(&self, command: &Command, name: &str) -> bool {
        let line = self.source.get(command.line.wrapping_sub(1));
        line.and_then(|line| line.rsplit_once('>')).is_some_and(|(_, to)| to.contains(name))
    }

    /// The first command that is one of these programs and names this word.
    pub(super) fn naming(&self, programs: &[&str], word: &str) -> Option<&Command> {
        self.commands.iter().find(|command| {
            let words = command.words();
            let is_named = || words.iter().any(|named| named.split([',', ':']).any(|part| part == word));
            words.iter().any(|named| programs.contains(&name_of(named))) && is_named()
        })
    }

    /// The last command that runs one of these programs and has this word, or a value for it, among its arguments; any
    /// arguments if the word is empty.
    pub(super) fn of_program(&self, programs: &[&str], word: &str) -> Option<&Command> {
        self.commands.iter().rfind(|command| {
            let words = as_user(command.words()).1;
            let mut words = words.iter().skip_while(|word| *word == "sudo");
            let is_it = words.next().is_some_and(|program| programs.contains(&name_of(program)));
            is_it && (word.is_empty() || words.any(|named| named.split('=').next() == Some(word)))
        })
    }

    /// Whether a line of the script, or a command that it ran, names both: each is no part of a longer word.
    pub(super) fn names_together(&self, one: &str, other: &str) -> bool {
        let commands = self.commands.iter().map(|command| command.text.as_str());
        let mut texts = self.source.iter().map(String::as_str).chain(commands);
        texts.any(|text| has_word(text, one) && has_word(text, other))
    }

    /// Whether a line of the script has this word in it.
    pub(super) fn has_word(&self, word: &str) -> bool {
        let is_inner = |letter: char| letter.is_alphanumeric() || letter == '_';
        let lines = self.source.iter().filter(|line| !line.trim_start().starts_with('#'));
        lines.flat_map(|line| line.split(|letter| !is_inner(letter))).any(|known| known == word)
    }

    /// Whether the script, or a command that it ran, has this text in it.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.source.iter().any(|line| line.contains(text))
            || self.commands.iter().any(|command| command.text.contains(text))
    }

    /// The text of a command's own line.
    pub(super) fn line_of(&self, command: &Command) -> &str {
        self.source.get(command.own_line.wrapping_sub(1)).map_or("", String::as_str)
    }

    /// The lines of the script with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.source.iter().enumerate().map(|(at, line)| (at + 1, line.as_str()))
    }

    /// A package with the version in which a command asks for it.
    pub(super) fn versioned(&self, name: &str) -> Option<String> {
        let is_it = |word: &String| {
            let rest = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
            rest.is_some_and(|version| {
                version.starts_with(|first: char| first.is_ascii_digit()) && !version.contains('*')
            })
        };
        let installs =
            self.commands.iter().map(Command::words).filter(|words| {
                words.iter().any(|word| ["apt-get", "apt", "aptitude"].contains(&word.as_str()))
            });
        installs.flatten().find(is_it)
    }

    /// The names of the packages that its commands ask apt to install, each once. Source: apt-get(8).
    pub(super) fn installed(&self) -> Vec<String> {
        const WITH_VALUE: [&str; 6] = ["-c", "-o", "-t", "--config-file", "--option", "--target-release"];
        let mut installed: Vec<String> = Vec::new();
        for command in &self.commands {
            let words = command.words();
            let mut words = words.iter().map(String::as_str);
            if !words.any(|word| ["apt", "apt-get", "aptitude"].contains(&name_of(word))) {
                continue;
            }
            let (mut is_install, mut is_value) = (false, false);
            for word in words {
                if word.starts_with('-') || is_value {
                    is_value = !is_value && WITH_VALUE.contains(&word);
                } else if !is_install {
                    if word != "install" {
                        break;
                    }
                    is_install = true;
                } else if !word.contains('/') || !word.starts_with(['.', '/']) {
                    let name = word.split(['=', ':', '/']).next().unwrap_or(word);
                    if !installed.iter().any(|known| known == name) {
                        installed.push(name.to_owned());
                    }
                }
            }
        }
        installed
    }

    /// The sections of the script: what it says before each part, else comments that stand out, else those above a
    /// paragraph.
    pub(super) fn sections(&self) -> Vec<Section> {
        let functions: Vec<String> =
            self.matches(r"^(?:function\s+)?([A-Za-z_]\w*)\s*\(\)").map(|(_, name)| name).collect();
        let said = self.matches(
            r#"^(?:echo|printf)\s+["'](?:\\n)*[=#*>-]{2,}\s*([^"'=#*>\\-][^"'\\]*?)\s*[=#*<-]*["'\\]"#,
        );
        let called = self.source.iter().enumerate().filter_map(|(at, line)| {
            let (name, title) = line.split_once(' ')?;
            let title = title.trim().trim_matches(['"', '\'']);
            let is_title = !title.is_empty() && !title.contains(['$', '`', '|', '>', ';', '"', '\'']);
            let is_heading = [
                "say",
                "part",
                "step",
                "section",
                "info",
                "log",
                "msg",
                "header",
                "heading",
                "title",
                "banner",
                "log_step",
                "print_step",
            ]
            .contains(&name);
            (is_heading && is_title && functions.iter().any(|function| function == name))
                .then(|| (at + 1, title.to_owned()))
        });
        let mut said: Vec<(usize, String)> = said.chain(called).collect();
        said.sort();
        let outstanding = self.matches(r"^#+ ?[=#*-]{2,}\s*([^=#*\s-].*?)\s*[=#*-]*$").collect();
        let paragraphs = self
            .matches(r"^# ([^\s!].*)$")
            .filter(|(line, _)| {
                *line > 2
                    && self.source[line - 2].is_empty()
                    && !self.source.get(*line).is_none_or(|next| next.is_empty() || next.starts_with('#'))
            })
            .collect();
        let is_end = |title: &str| {
            ["done", "ready", "finished", "complete"].iter().any(|end| title.to_lowercase().starts_with(end))
        };
        for found in [said, outstanding, paragraphs] {
            if found.len() > 1 {
                let sections = found.into_iter().filter(|(_, title)| !is_end(title));
                return sections
                    .map(|(line, title)| Section { line, title: title.trim().to_owned() })
                    .collect();
            }
        }
        Vec::new()
    }

    /// The lines that match, from one, each with the first group.
    fn matches<'trace>(&'trace self, pattern: &str) -> impl Iterator<Item = (usize, String)> + use<'trace> {
        let pattern = Regex::new(pattern).ok();
        self.source.iter().enumerate().filter_map(move |(at, line)| {
            Some((at + 1, pattern.as_ref()?.captures(line)?.get(1)?.as_str().to_owned()))
        })
    }
}

fn command(entry: &str, depth: usize) -> Option<Command> {
    let (about, text) = entry.split_once(END)?;
    let mut about = about.splitn(2, ' ');
    let (seconds, rest) = about.next()?.split_once(['.', ','])?;
    let when = seconds.parse::<i128>().ok()? * 1_000_000_000 + rest.parse::<i128>().ok()? * 1000;
    // The lines of the calls, the outermost last, which is no call; then the line; then the directory.
    let words: Vec<&str> = about.next()?.split(' ').collect();
    let count = words.iter().take_while(|word| word.bytes().all(|digit| digit.is_ascii_digit())).count();
    let directory = PathBuf::from(words[count..].join(" "));
    let numbers: Vec<usize> = words[..count].iter().filter_map(|number| number.parse().ok()).collect();
    let (own_line, calls) = numbers.split_last()?;
    let line = calls.len().checked_sub(2).map_or(*own_line, |outermost| calls[outermost]);
    Some(Command {
        when,
        line,
        own_line: *own_line,
        depth,
        directory,
        text: text.trim_end_matches('\n').to_owned(),
    })
}

/// Whether a text has a name that is no part of a longer word.
fn has_word(text: &str, name: &str) -> bool {
    let is_inner = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + name.len()..].chars().next());
        // Names can have what is in no word.
        let is_open = |letter: Option<char>, edge: Option<char>| {
            !(letter.is_some_and(is_inner) && edge.is_some_and(is_inner))
        };
        is_open(before, name.chars().next()) && is_open(after, name.chars().next_back())
    })
}

/// What output is written to, by the text that follows `>`.
fn output_in(text: &str) -> Option<String> {
    let output = text.trim_start_matches(['|', ' ']).split([' ', ';', ')', '&', '|', '<']).next()?;
    Some(output.trim_matches(['"', '\'']).to_owned())
}

/// The name of a program without its directory.
pub(super) fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// As whom a command runs, if it says so, and the command without that. Source: sudo(8), runuser(1), su(1).
pub(super) fn as_user(words: Vec<String>) -> (Option<String>, Vec<String>) {
    let program = words.first().map(|program| name_of(program).to_owned()).unwrap_or_default();
    let mut user = None;
    let mut at = 1;
    match program.as_str() {
        "sudo" | "runuser" => {
            while let Some(word) = words.get(at).filter(|word| word.starts_with('-')) {
                at += 1;
                if word == "--" {
                    break;
                }
                // Letters can stand together; the last one can have an argument.
                if !word.starts_with("--") && word.ends_with('u') || word == "--user" {
                    user = words.get(at).cloned();
                    at += 1;
                } else if let Some(name) = word.strip_prefix("--user=") {
                    user = Some(name.to_owned());
                }
            }
            // `runuser NAME -c` and `sudo NAME=value` are other forms.
            match words.get(at) {
                Some(next) if user.is_some() && !next.contains('=') && !next.starts_with('-') => {
                    (user, words[at..].to_vec())
                }
                _ => (None, words),
            }
        }
        "su" => {
            let command =
                words.iter().position(|word| word == "-c").and_then(|at| words.get(at + 1)).cloned();
            let name = words[1..].iter().find(|word| !word.starts_with('-')).cloned();
            match (name, command) {
                (Some(name), Some(command)) if name != command => {
                    (Some(name), vec!["bash".to_owned(), "-lc".to_owned(), command])
                }
                _ => (None, words),
            }
        }
        _ => (None, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(entries: &[(&str, &str)], source: &str) -> Trace {
        let entries: Vec<String> =
            entries.iter().map(|(about, text)| format!("\u{1}{about}\u{2}{text}\n")).collect();
        Trace::read(&entries.concat(), source)
    }

    #[test]
    fn a_command_has_the_line_outside_of_functions_and_its_directory() {
        let trace =
            trace(&[("100.000001 0 2 /tmp", "echo 'multi\nline'"), ("100.5 11 0 5 /srv/a b", "cat")], "");
        let line = |command: &Command| (command.when, command.line, command.directory.clone());
        assert_eq!(line(&trace.commands[0]), (100_000_001_000, 2, "/tmp".into()));
        assert_eq!(trace.commands[0].words(), ["echo", "multi\nline"]);
        assert_eq!(trace.commands[1].line, 11);
        assert_eq!(trace.commands[1].directory, PathBuf::from("/srv/a b"));
    }

    #[test]
    fn a_stamp_belongs_to_the_command_before_it_or_to_one_of_the_same_tick_that_names_the_file() {
        let entries =
            [("100.000100 0 1 /", "true"), ("100.003000 0 2 /", "cat"), ("101.000000 0 3 /", "true")];
        let trace = trace(&entries, "true\ncat > /etc/motd\ntrue\n");
        let line = |when, path| trace.at(when, path).map(|command| command.line);
        assert_eq!(line(100_000_000_000, "/etc/motd"), Some(2));
        assert_eq!(line(100_500_000_000, "/etc/other"), Some(2));
        assert_eq!(line(105_000_000_000, ""), Some(3));
        // A stamp of a tick that came late: line 2 began 603 ms after it.
        assert_eq!(line(99_400_000_000, "/etc/motd"), Some(2));
        assert_eq!(line(98_800_000_000, "/etc/motd"), None);
        assert_eq!(line(99_000_000_000, ""), None);
    }

    #[test]
    fn a_stamp_belongs_to_what_writes_the_path_before_what_only_names_it() {
        let trace = trace(
            &[
                ("100.000000 0 1 /", "cat"),
                ("100.001000 0 2 /", "ln -sf /etc/sites/hall.conf /etc/enabled/hall.conf"),
                ("100.002000 0 3 /", "printf x"),
                ("100.003000 0 4 /", "chmod +x /usr/local/bin/hall-session"),
                ("100.004000 0 5 /", "cp hall.sh /usr/local/bin/"),
            ],
            "cat > /etc/sites/hall.conf\nln\nprintf x > \"$LOGROTATE/hall\"\nchmod\ncp\n",
        );
        for (path, its) in [
            ("/etc/sites/hall.conf", 1),
            ("/etc/enabled/hall.conf", 2),
            ("/etc/logrotate.d/hall", 3),
            ("/usr/local/bin/hall.sh", 5),
        ] {
            assert_eq!(trace.at(100_002_000_000, path).map(|command| command.line), Some(its), "{path}");
        }
    }

    #[test]
    fn what_is_copied_with_its_time_is_not_made_at_that_time() {
        let trace = Trace::read(
            "\u{1}1.0 0 1 /srv/app\u{2}npm run build\n\u{1}2.0 0 2 /srv\u{2}rsync -a --delete app/dist/ /var/www/page/\n",
            "",
        );
        assert!(trace.copied_after(1_500_000_000, "/var/www/page/index.html"));
        assert!(!trace.copied_after(1_500_000_000, "/srv/app/dist/index.html"));
        assert!(!trace.copied_after(2_500_000_000, "/var/www/page/index.html"));
    }

    #[test]
    fn a_stamp_before_a_command_that_writes_to_the_file_may_be_its_own() {
        let trace = trace(
            &[
                ("100.000000 0 1 /", "npm install -g x"),
                ("102.001000 0 2 /", "FILE=/etc/crate"),
                ("102.003000 0 3 /", "echo x"),
                ("102.004000 0 4 /", "mkdir -p /srv/pages"),
                ("102.005000 0 5 /", "chmod 755 /usr/local/bin/x"),
                ("102.006000 0 6 /", "echo x"),
                ("102.007000 0 7 /", "cp -r node_modules /srv/copy"),
                ("102.008000 0 8 /", "git config --system user.email a@example.org"),
            ],
            "npm install -g x\nFILE=/etc/crate\necho x > /etc/shelf 2>&1\nmkdir -p /srv/pages\nchmod 755 /usr/local/bin/x\n\
             echo x >>\"$FILE\"\ncp -r node_modules /srv/copy\n",
        );
        let line = |when, name| trace.written_next(when, name).map(|command| command.line);
        for (name, its) in
            [("/etc/shelf", 3), ("/srv/pages", 4), ("/etc/crate", 6), ("/srv/copy", 7), ("/etc/gitconfig", 8)]
        {
            assert_eq!(line(102_000_000_000, name), Some(its), "{name}");
            // As late as a tick was on a busy machine.
            assert_eq!(line(101_700_000_000, name), Some(its), "{name}");
            assert_eq!(line(100_900_000_000, name), None, "{name}");
        }
        // What changes its mode or copies it has not made it; `1` is no file.
        for name in ["/usr/local/bin/x", "/node_modules", "/1", "/root/.gitconfig", "/etc/pages"] {
            assert_eq!(line(102_000_000_000, name), None, "{name}");
        }
    }

    #[test]
    fn sections_are_what_the_script_says_else_its_comments() {
        let titles = |source: &str| -> Vec<String> {
            Trace::read("", source).sections().into_iter().map(|section| section.title).collect()
        };
        assert_eq!(
            titles("echo \"==> packages\"\nx\necho \"==> users\"\necho \"==> done\"\n"),
            ["packages", "users"]
        );
        assert_eq!(titles("echo '== web & TLS =='\nx\necho \"## Users ##\\n\"\n"), ["web & TLS", "Users"]);
        assert_eq!(
            titles("say() { echo; }\nsay \"one thing\"\nx\nsay 'two'\nsay \"$x\"\n"),
            ["one thing", "two"]
        );
        assert_eq!(titles("# --- users, folders\nx\n# --- TLS\n"), ["users, folders", "TLS"]);
        assert_eq!(titles("#!/bin/sh\n# about\n\n# first\nx\n\n# second\ny\n"), ["first", "second"]);
        assert_eq!(titles("x\n"), [""; 0]);
    }

    #[test]
    fn a_command_is_found_by_what_it_names() {
        let trace = trace(
            &[("1.0 0 1 /", "usermod -aG video,audio kim"), ("2.0 0 2 /", "/usr/sbin/useradd -m kim")],
            "",
        );
        assert_eq!(trace.naming(&["useradd"], "kim").map(|command| command.line), Some(2));
        assert_eq!(trace.naming(&["usermod"], "audio").map(|command| command.line), Some(1));
        assert_eq!(trace.naming(&["useradd"], "lee"), None);
    }
}
