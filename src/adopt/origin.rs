//! Where a value comes from: the script made it up, or it was given.

use std::ffi::OsString;

use super::trace::{Command, Trace, as_user, name_of};

/// Programs that make up values, and the arguments of which one must be there; none is any.
const MAKERS: [(&str, &[&str]); 9] = [
    ("apg", &[]),
    ("dbus-uuidgen", &[]),
    ("gpg", &["--gen-random"]),
    ("makepasswd", &[]),
    ("mcookie", &[]),
    ("openssl", &["rand"]),
    ("pwgen", &[]),
    ("pwqgen", &[]),
    ("uuidgen", &[]),
];
/// Files in which each reader finds another value.
const RANDOM: [&str; 3] = ["/dev/random", "/dev/urandom", "/proc/sys/kernel/random/uuid"];
/// Programs that pass on what they read.
const FILTERS: [&str; 20] = [
    "awk",
    "base64",
    "cat",
    "cut",
    "dd",
    "echo",
    "fold",
    "grep",
    "head",
    "hexdump",
    "local",
    "md5sum",
    "od",
    "printf",
    "rev",
    "sed",
    "sha256sum",
    "tail",
    "tr",
    "xxd",
];

/// What the script was given, and what it did.
pub(super) struct Origin<'script> {
    pub(super) trace: &'script Trace,
    /// Its text, what its environment has, and its arguments.
    given: Vec<String>,
}

impl<'script> Origin<'script> {
    pub(super) fn of(
        trace: &'script Trace,
        source: &str,
        environment: &[(OsString, OsString)],
        arguments: &[String],
    ) -> Self {
        let values = environment.iter().map(|(_, value)| value.to_string_lossy().into_owned());
        let given = std::iter::once(source.to_owned()).chain(values).chain(arguments.iter().cloned());
        Self { trace, given: given.collect() }
    }

    /// Whether the script was given a text with this value.
    pub(super) fn has(&self, value: &str) -> bool {
        self.given.iter().any(|text| text.contains(value))
    }

    /// Whether the script made this value up, so that any other does. What is not known to be made up was given: by a
    /// file that the script reads, by its standard input, by another machine.
    pub(super) fn is_made_up(&self, value: &str) -> bool {
        let commands = &self.trace.commands;
        let first = commands.iter().position(|command| command.text.contains(value));
        let (Some(at), false) = (first, self.has(value)) else {
            return false;
        };
        // What the shell ran to put its output into this command.
        let within = commands[..at].iter().rev().take_while(|inner| inner.depth > commands[at].depth);
        let mut is_random = false;
        for command in within {
            if self.is_maker(command) {
                is_random = true;
            } else if !self.is_filter(command) {
                return false;
            }
        }
        is_random
    }

    fn is_maker(&self, command: &Command) -> bool {
        let (_, words) = as_user(command.words());
        let Some((program, arguments)) = words.split_first() else { return false };
        let named = MAKERS.iter().find(|(name, _)| *name == name_of(program));
        let is_asked = named.is_some_and(|(_, verbs)| {
            verbs.is_empty() || arguments.iter().any(|argument| verbs.contains(&argument.as_str()))
        });
        let names_random = |text: &str| RANDOM.iter().any(|file| text.contains(file));
        is_asked
            || FILTERS.contains(&name_of(program))
                && (names_random(&command.text) || names_random(self.trace.line_of(command)))
    }

    /// Whether a command adds nothing that comes from elsewhere.
    fn is_filter(&self, command: &Command) -> bool {
        let (_, words) = as_user(command.words());
        let Some((program, arguments)) = words.split_first() else { return false };
        let is_path = |word: &String| {
            word.strip_prefix('/').is_some_and(|rest| rest.starts_with(|first: char| first.is_alphanumeric()))
        };
        // A function is seen by what it runs.
        let is_known = FILTERS.contains(&name_of(program)) || program.contains('=') || {
            let begins = format!("{program}()");
            self.trace.lines().any(|(_, line)| line.replace(' ', "").contains(&begins))
        };
        is_known && !arguments.iter().any(is_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command with its depth, as the shell traces it, and its line.
    fn is_made_up(value: &str, commands: &[(usize, usize, &str)], source: &str) -> bool {
        let entries: Vec<String> = commands
            .iter()
            .map(|(depth, line, text)| format!("{}1.0 0 {line} /\u{2}{text}\n", "\u{1}".repeat(*depth)))
            .collect();
        Origin::of(&Trace::read(&entries.concat(), source), source, &[], &[]).is_made_up(value)
    }

    #[test]
    fn what_random_programs_print_is_made_up() {
        let source = "PW=$(openssl rand -hex 8)\n";
        assert!(is_made_up("abc123", &[(2, 1, "openssl rand -hex 8"), (1, 1, "PW=abc123")], source));
        let source =
            "gen() {\n  tr -dc a-z </dev/urandom | head -c \"$1\"\n}\necho \"pw = $(gen 6)\" > /etc/x\n";
        let commands =
            [(2, 4, "gen 6"), (2, 2, "tr -dc a-z"), (2, 2, "head -c 6"), (1, 4, "echo 'pw = abcdef'")];
        assert!(is_made_up("abcdef", &commands, source));
    }

    #[test]
    fn what_comes_from_elsewhere_is_given() {
        // The text of the script has it, or nothing shows where it comes from.
        assert!(!is_made_up("abc123", &[(1, 1, "PW=abc123")], "PW=abc123\n"));
        assert!(!is_made_up("abc123", &[], "cat > /etc/x < /root/y\n"));
        // A file that the script reads, and one that it sources.
        assert!(!is_made_up(
            "abc123",
            &[(2, 1, "cat /root/pw"), (1, 1, "PW=abc123")],
            "PW=$(cat /root/pw)\n"
        ));
        assert!(!is_made_up("abc123", &[(1, 1, ". /root/env"), (2, 7, "PW=abc123")], ". /root/env\n"));
        // Another value was made up before, or in the same command.
        let source = "openssl rand -hex 8 > /root/key\necho \"$pw\"\necho $(uuidgen) $(cat /root/pw)\n";
        assert!(!is_made_up("abc123", &[(1, 1, "openssl rand -hex 8"), (1, 2, "echo abc123")], source));
        let both = [(2, 3, "uuidgen"), (2, 3, "cat /root/pw"), (1, 3, "echo 00-11 abc123")];
        assert!(!is_made_up("abc123", &both, source));
    }
}
