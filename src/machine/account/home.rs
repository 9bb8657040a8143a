//! A new home: a copy of `/etc/skel`, or of the directory configured in its place. Source: useradd(8).

use std::path::Path;

use anyhow::Result;

use super::login_defs::LoginDefs;
use crate::machine::clock;
use crate::machine::files::{self, Attributes, Content, FileState, Manifest, ModifiedAt, Ownership};

/// Creates the home of a user in one instant, at a path where nothing exists. `mode` is its mode; by default the
/// machine's. `tag` names what is prepared beside it.
pub fn make_home(home: &Path, (uid, gid): (u32, u32), mode: Option<u32>, tag: &str) -> Result<()> {
    let skeleton = LoginDefs::read().skeleton();
    let tree = new_home((uid, gid), mode)?;
    let mut open = |relative: &Path| Ok(Content::File(std::fs::File::open(skeleton.join(relative))?));
    let built = files::build_tree(home, tag, &tree, &mut open)?;
    files::exchange_tree(&built, home)
}

/// What is in a new home.
pub fn new_home((uid, gid): (u32, u32), mode: Option<u32>) -> Result<Manifest> {
    let defs = LoginDefs::read();
    let ownership = Ownership { owner: Some(uid), group: Some(gid), ..Ownership::default() };
    let mut tree = Manifest::observe(&defs.skeleton())?.owned(&ownership);
    let attributes = Attributes::new(mode.unwrap_or(defs.home_mode()), uid, gid);
    let root = Attributes { mtime: Some(ModifiedAt::from(clock::now())), ..attributes };
    tree.set(".", FileState::directory(&root));
    Ok(tree)
}
