//! Captured commands as they are in setup scripts: what each leaves is previewed, applied and undone, and then everything is as
//! before, byte for byte. `captured_commands.sh` runs them in mounts of its own.

use std::process::Command;

/// Runs the situations of this name on this ground.
#[track_caller]
fn hold(which: &str, ground: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/captured_commands.sh");
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "bash",
            script,
            env!("CARGO_BIN_EXE_kkrun"),
            which,
            ground,
        ])
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{failed}");
}

#[test]
#[ignore = "needs root"]
fn commands_of_setup_scripts_are_previewed_applied_and_undone() {
    hold("all", "tmpfs");
}

#[test]
#[ignore = "needs root, a minute and 3 GB in memory"]
fn a_renamed_tree_of_fifty_thousand_files_is_applied_and_undone() {
    hold("many", "tmpfs");
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_changes_nothing() {
    hold("full", "tmpfs");
}

#[test]
#[ignore = "needs root and automake"]
fn an_autotools_package_is_installed_and_undone() {
    hold("autotools", "tmpfs");
}

#[test]
#[ignore = "needs root and xfsprogs"]
fn the_file_system_may_be_ext4_or_xfs() {
    hold("everything", "ext4");
    hold("everything", "xfs");
}

#[test]
#[ignore = "needs root, and btrfs in the kernel with btrfs-progs"]
fn the_file_system_may_be_btrfs() {
    hold("everything", "btrfs");
}

#[test]
#[ignore = "needs root, xfsprogs and btrfs-progs"]
fn home_and_var_may_be_mounts_of_their_own() {
    hold("everything", "parts");
}

#[test]
#[ignore = "needs root"]
fn the_root_may_be_an_overlay_itself() {
    hold("everything", "root");
}

#[test]
#[ignore = "needs root, and sets the kernel's defaults of overlays meanwhile"]
fn overlays_may_redirect_directories_and_copy_metadata_alone_by_default() {
    hold("everything", "options");
}
