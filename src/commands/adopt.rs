//! `kkrun adopt SCRIPT`: turns an old script into a plan, by what it does to a throwaway clone.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use super::rehearse::{emit, provide_tools};
use crate::adopt::{self, Adopted, Adoption, Stage};
use crate::cli::{self, Options};
use crate::event::Reporter;
use crate::exit_code::ExitCode;
use crate::machine::signal::Signals;
use crate::machine::tool;
use crate::rehearse::{Base, SCRATCH};

/// Variables of the operator's own session, which say nothing about the script.
const OF_THE_SESSION: [&str; 12] = [
    "BASH_ENV", "ENV", "HOME", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL", "TMPDIR", "USER",
];
const OF_SESSIONS: [&str; 7] = ["DBUS_", "KKRUN_", "LC_", "LD_", "SSH_", "SUDO_", "XDG_"];

/// Adopts as the command line says.
pub(super) fn execute(options: &Options, wanted: cli::Adopt) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    let signals = Signals::install()?;
    adopt::check(&wanted.script)?;
    provide_tools(&reporter)?;
    let output = wanted.output.unwrap_or_else(|| {
        PathBuf::from(wanted.script.file_stem().map_or_else(|| OsString::from("adopted"), OsString::from))
    });
    let adoption = Adoption {
        script: wanted.script,
        arguments: wanted.words,
        environment: std::env::vars_os().filter(|(name, _)| is_passed(&name.to_string_lossy())).collect(),
        answers: wanted.answers,
        base: wanted.base.map_or(Base::RunningMachine, Base::Directory),
        output,
        scratch: tool::temporary_directory()
            .map_or_else(|| SCRATCH.into(), |place| place.join("kkrun-rehearsals")),
        binary: tool::own_binary()?,
    };
    let adopted = adopt::adopt(&adoption, &signals, &mut |stage| say(&reporter, stage))?;
    conclude(&reporter, &adopted);
    if !matches!(adoption.base, Base::RunningMachine) {
        return Ok(adopt::exit_code(&adopted));
    }
    let plan = adoption.output.join("master.rhai");
    reporter.note(format!(
        "next: `kkrun {} --dry-run` shows what a run would change on this machine",
        shell_words::quote(&plan.to_string_lossy())
    ));
    Ok(adopt::exit_code(&adopted))
}

fn is_passed(name: &str) -> bool {
    !OF_THE_SESSION.contains(&name) && !OF_SESSIONS.iter().any(|prefix| name.starts_with(prefix))
}

fn say(reporter: &Reporter, stage: Stage) {
    reporter.note(match stage {
        Stage::Clone(progress) => return emit(reporter, &progress),
        Stage::ScriptStarted => "the script runs in the clone".to_owned(),
        Stage::ScriptEnded(code) => format!("the script ended with exit status {code}"),
        Stage::Packages(count) => {
            let packages =
                if count == 1 { "the package".to_owned() } else { format!("the {count} packages") };
            format!("installing {packages} in another clone, to know what comes with them")
        }
        Stage::Written(directory) => format!("the plan is in `{}`", directory.display()),
        Stage::Proving => "the plan runs in a clone of its own".to_owned(),
    });
}

fn conclude(reporter: &Reporter, adopted: &Adopted) {
    if let (code @ 1.., place) = &adopted.script {
        let place = place.as_deref().map(|place| format!(" at `{place}`")).unwrap_or_default();
        reporter.note(format!(
            "the script stopped with exit status {code}{place}; the plan does what it did until then"
        ));
    }
    if adopted.run != 0 {
        let failed = adopted.failed.as_deref().map(|failed| format!(": {failed}")).unwrap_or_default();
        reporter.note(format!("the plan itself ended with exit status {}{failed}", adopted.run));
    }
    match adopted.in_clear.len() {
        0 => {}
        1 => reporter.note("1 file that not everyone may read is in clear in the plan: REPORT.md names it"),
        count => reporter.note(format!(
            "{count} files that not everyone may read are in clear in the plan: REPORT.md names them"
        )),
    }
    let comparison = &adopted.comparison;
    let rest = comparison.remaining.len();
    let several = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let listed = match rest {
        0 => String::new(),
        1 => "; 1 is listed in REPORT.md".to_owned(),
        _ => format!("; {rest} are listed in REPORT.md"),
    };
    let second = match adopted.second_run {
        Some(0) => "a second run changes nothing".to_owned(),
        Some(count) => format!("a second run changes {}", several(count, "thing")),
        None if adopted.run != 0 => "no second run was made".to_owned(),
        None => "a second run fails".to_owned(),
    };
    let packages = match adopted.left_by_packages {
        0 => String::new(),
        count => format!(", besides {} that removed packages leave", several(count as u64, "path")),
    };
    let rollback = match (adopted.rollback, adopted.left.len()) {
        (0, 0) => format!("after a rollback all is as before{packages}"),
        (0, 1) => format!("after a rollback 1 path is not as before{packages}"),
        (0, count) => format!("after a rollback {count} paths are not as before{packages}"),
        (code, _) => format!("a rollback ends with exit status {code}"),
    };
    reporter.note(format!("{second}; {rollback}"));
    let counts = format!("{} of {} differences", comparison.reproduced(), comparison.differences);
    reporter.note(if adopted.run == 0 {
        format!("the plan reproduces {counts} that the script made{listed}")
    } else {
        format!("the plan fails: until then it reproduced {counts} that the script made{listed}")
    });
}
