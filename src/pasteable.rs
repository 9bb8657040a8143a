//! The commands that messages name, such as "`kkrun rollback --last`": they are shown as the operator has to type them for
//! the state directory that is in use.

use std::path::Path;
use std::sync::OnceLock;

/// What follows the name of the program: of one state directory, that of this process.
static OPTION: OnceLock<String> = OnceLock::new();

/// From now on the commands name this state directory, which the operator chose.
pub fn name_state_directory(directory: &Path) {
    let directory = directory.to_string_lossy();
    // Only the first call counts; a process has one.
    let _ = OPTION.set(shell_words::join(["--state-dir", &*directory]));
}

/// The command of a run with another option: what is behind `--` is the script's.
pub fn invocation_with(invocation: &str, option: &str) -> String {
    let Ok(mut words) = shell_words::split(invocation) else { return format!("{invocation} {option}") };
    let at = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.insert(at, option.to_owned());
    shell_words::join(words)
}

/// The text with its commands as they work when they are pasted.
pub fn pasteable(text: &str) -> String {
    OPTION.get().map_or_else(|| text.to_owned(), |option| with_option(text, option))
}

fn with_option(text: &str, option: &str) -> String {
    const CALL: &str = "`kkrun ";
    let mut parts = text.split(CALL);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str(CALL);
        if !part.starts_with("--state-dir ") {
            shown.push_str(option);
            shown.push(' ');
        }
        shown.push_str(part);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_a_run_goes_before_the_arguments_of_its_script() {
        assert_eq!(invocation_with("kkrun a.rhai", "--repair"), "kkrun a.rhai --repair");
        assert_eq!(
            invocation_with("kkrun --settings 'a -- b' a.rhai -- --dash 'two words'", "--repair"),
            "kkrun --settings 'a -- b' a.rhai --repair -- --dash 'two words'"
        );
    }

    #[test]
    fn a_command_in_a_text_names_the_state_directory_once() {
        let shown = |text: &str| with_option(text, "--state-dir '/a b'");
        let once = shown("run `kkrun rollback --last`, or `kkrun log`: kkrun has `kkrun`");
        assert_eq!(
            once,
            "run `kkrun --state-dir '/a b' rollback --last`, or `kkrun --state-dir '/a b' log`: kkrun has `kkrun`"
        );
        assert_eq!(shown(&once), once);
    }
}
