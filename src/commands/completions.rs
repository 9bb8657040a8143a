//! `kkrun completions SHELL`: writes completions to standard output.

use crate::cli::command_line;
use crate::exit_code::ExitCode;
use crate::ui::line_to_stdout;

/// Writes them.
pub(super) fn execute(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line(), "kkrun", &mut script);
    line_to_stdout(String::from_utf8_lossy(&script).trim_end());
    ExitCode::DONE
}
