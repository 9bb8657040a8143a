//! The only code that reads and changes the file system on behalf of changes.
//!
//! **Where.** Every path is walked from `/` one directory at a time: links that root owns in directories that only root
//! can write are resolved, any other link on the way is refused, the last component is never followed. What is then
//! read or changed is addressed through the descriptor of its directory, so that no one can exchange the path in
//! between.
//!
//! **As whom.** The first directory on the way that does not belong to root decides who owns the path
//! ([`owner_of_place`]). Below a user's directory kkrun acts with that user's credentials, on a separate thread. What
//! the user may not do alone (give a file to another user, set a file capability, write in a directory that root
//! created there) is done as root, through the same descriptors: the temporary file then belongs to root from its first
//! moment until its owner is set, so that the user never holds it open.
//!
//! **How.** A file is replaced by a temporary one that is complete and synced before it takes the name. Nothing
//! is ever written in place; when a rename is impossible, that is an error.

mod build_tree;
mod content;
mod converge_tree;
mod credentials;
mod dating;
mod digest;
mod directory;
mod discarded;
mod exchange_tree;
mod failures;
mod file_state;
mod flags;
mod hard_link;
mod identity;
mod known;
mod link;
mod listing;
mod manifest;
mod matching;
mod metadata;
mod path_text;
mod place;
mod remove;
mod remove_tree;
mod replace;
mod replace_together;
mod rewrite;
mod set_metadata;
mod sync;
mod temporary;
mod together;
mod tree_access;
mod tree_walk;
mod xattrs;

pub use build_tree::{OpenFile, build_tree};
pub use content::{Content, Contents};
pub(crate) use content::{copy_content, digest_again, digest_if_known, digest_known};
pub use converge_tree::{Times, converge_tree, converge_tree_from};
pub use credentials::{User, as_user};
pub use digest::Digest;
pub(crate) use digest::Digester;
pub use directory::{make_directory, remove_directory};
pub use discarded::Discarded;
pub use exchange_tree::exchange_tree;
pub use file_state::{
    FileState, LONGEST_TEXT, SpecialKind, digest_following, read, read_following, read_if_file,
};
pub(crate) use file_state::{ReadFile, observe_with, read_open};
pub use flags::Flags;
pub use identity::Identity;
pub use link::link;
pub use listing::Listing;
pub use manifest::{Manifest, Ownership, Several, Summary, TreeFiles};
pub use matching::matching;
pub use metadata::{Attributes, Metadata, ModifiedAt};
pub use path_text::PathText;
pub use place::{canonical, owner_of_place};
pub use remove::remove;
pub use remove_tree::{identity, remove_tree};
pub use replace::replace;
pub use rewrite::{finish_rewrite, is_mounted_upon, rewrite};
pub use set_metadata::set_metadata;
pub use sync::sync_all;
pub use temporary::clear_leftover;
pub use tree_access::{Access, EntryKind, observe_access, set_access};
pub use xattrs::{Value, is_kept};

#[cfg(test)]
mod adversity;
#[cfg(test)]
mod testing;
