//! Puts a prepared tree in place in one instant.

use std::path::Path;

use anyhow::Result;
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::failures::failed;
use super::file_state::FileState;
use super::place::Place;
use crate::failure::FailureKind;

/// Gives the tree at `new` the path `live`, durably and in one instant, so that no reader sees half of it. What was
/// there is at `new` afterwards; nothing, if nothing was there. Both must be on one file system.
///
/// # Errors
/// As [`super::replace()`]; `crossdevice` also for a directory of the lower layer of an overlay file system.
pub fn exchange_tree(new: &Path, live: &Path) -> Result<()> {
    let flags =
        if FileState::observe(live)?.is_absent() { RenameFlags::NOREPLACE } else { RenameFlags::EXCHANGE };
    let (from, to) = (Place::open(new)?, Place::open(live)?);
    renameat_with(from.directory(), &from.name, to.directory(), &to.name, flags).map_err(
        |errno| match errno {
            Errno::INVAL => crate::failure::Failure::new(format!(
                "cannot replace `{}`: its file system cannot exchange two directories",
                live.display()
            ))
            .kind(FailureKind::Io)
            .into(),
            errno => failed("replace", &to.path, errno),
        },
    )?;
    to.sync()?;
    if from.path.parent() == to.path.parent() { Ok(()) } else { from.sync() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn the_two_change_places_or_the_new_one_moves() {
        let (_directory, path) = scratch();
        std::fs::create_dir_all(path.join("there/old")).unwrap();
        std::fs::create_dir_all(path.join("new/one")).unwrap();
        exchange_tree(&path.join("new"), &path.join("there/live")).unwrap();
        assert_eq!(names(&path), ["there"]);
        exchange_tree(&path.join("there/old"), &path.join("there/live")).unwrap();
        assert_eq!(names(&path.join("there/old")), ["one"]);
        assert_eq!(names(&path.join("there/live")), [""; 0]);
        assert_eq!(kind(exchange_tree(&path.join("none"), &path.join("there/live"))), "missing");
    }
}
