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
