//! Captured commands as they are in setup scripts: what each leaves is previewed, applied and undone, and then everything is as
//! before, byte for byte. `captured_commands.sh` runs them in mounts of its own.

use std::process::Command;

/// Runs the situations of this name.
#[track_caller]
fn hold(which: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/captured_commands.sh");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", script, env!("CARGO_BIN_EXE_kkrun"), which])
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{failed}");
}

#[test]
#[ignore = "needs root"]
fn commands_of_setup_scripts_are_previewed_applied_and_undone() {
    hold("all");
}

#[test]
#[ignore = "needs root, a minute and 3 GB in memory"]
fn a_renamed_tree_of_fifty_thousand_files_is_applied_and_undone() {
    hold("many");
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_changes_nothing() {
    hold("full");
}
