//! A checkout of a git repository: what names where it came from can make it again.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::literal;
use super::side::Side;

/// A directory that `git clone` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkout {
    pub(super) directory: PathBuf,
    url: String,
    /// A branch, a tag or a commit.
    branch: String,
    user: String,
    has_submodules: bool,
    /// The list of the files that git knows.
    index: Vec<u8>,
}

impl Checkout {
    /// The call that makes it; it may contain secrets.
    pub(super) fn code(&self) -> String {
        let directory = self.directory.to_string_lossy();
        let arguments = [&*self.url, &*self.branch, &*directory, &*self.user].map(literal::string).join(", ");
        let options = if self.has_submodules { vec![("submodules", "true".to_owned())] } else { Vec::new() };
        format!("git::checkout({arguments}{});", literal::options(&options))
    }

    /// What is compared as one: the commits come in packs that git makes as it likes.
    pub(super) fn repository(&self) -> PathBuf {
        self.directory.join(".git")
    }

    /// Whether git knows nothing of this path in the working tree. What is in submodules is not looked at.
    pub(super) fn is_untracked(&self, path: &Path) -> bool {
        let Ok(inner) = path.strip_prefix(&self.directory) else { return false };
        let inside = inner.as_os_str().as_bytes();
        !self.has_submodules
            && !inside.is_empty()
            && !path.starts_with(self.repository())
            && !is_listed(&self.index, inside)
    }

    /// Whether git itself keeps this path, but for what people write there.
    pub(super) fn keeps(&self, path: &Path) -> bool {
        path.strip_prefix(self.repository())
            .is_ok_and(|inner| !["config", "hooks", "info"].iter().any(|own| inner.starts_with(own)))
    }

    /// The checkout at this directory of `side` that a command of `user` made; `None` if it names no origin, has what the
    /// origin does not have, or belongs to someone else.
    pub(super) fn at(side: &Side, directory: &Path, user: String) -> Option<Self> {
        let files = &side.files;
        let text = |name: &str| files.text(&directory.join(".git").join(name).to_string_lossy());
        if side.owners(&files.look(directory).ok()??).0 != user {
            return None;
        }
        let (head, packed) = (text("HEAD"), text("packed-refs"));
        let commit_of = |reference: &str| {
            let loose = text(reference).trim().to_owned();
            if loose.is_empty() { in_packed(reference, &packed) } else { Some(loose) }
        };
        let branch = match head.trim().strip_prefix("ref: refs/heads/") {
            // What the origin does not have it cannot give.
            Some(branch) => {
                let here = commit_of(&format!("refs/heads/{branch}"))?;
                let there = commit_of(&format!("refs/remotes/origin/{branch}"))?;
                (here == there).then(|| branch.to_owned())?
            }
            None => tag_of(head.trim(), &packed).unwrap_or_else(|| head.trim().to_owned()),
        };
        let has_submodules = files.look(&directory.join(".git/modules")).ok()?.is_some();
        let url = origin(&text("config"))?;
        let index = files.bytes(&directory.join(".git/index")).ok()??;
        Some(Checkout { directory: directory.to_owned(), url, branch, user, has_submodules, index })
    }
}

/// Whether an index has an entry of this name, or one below it. Before a name is its length, in the lower twelve bits of two
/// bytes, behind it a zero byte. Source: gitformat-index(5), of the versions 2 and 3.
fn is_listed(index: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find_iter(index, name).any(|at| {
        let length = at
            .checked_sub(2)
            .map(|before| usize::from(index[before] & 0xf) << 8 | usize::from(index[at - 1]));
        let Some(length) = length.filter(|length| *length >= name.len()) else { return false };
        let behind = index.get(at + name.len());
        if length == name.len() {
            behind == Some(&0)
        } else {
            behind == Some(&b'/') && index.get(at + length) == Some(&0)
        }
    })
}

/// The address of the remote `origin`. Source: git-config(1).
fn origin(config: &str) -> Option<String> {
    let inside = config.lines().map(str::trim).skip_while(|line| *line != "[remote \"origin\"]").skip(1);
    let mut settings = inside.take_while(|line| !line.starts_with('['));
    settings
        .find_map(|line| Some(line.strip_prefix("url")?.trim_start().strip_prefix('=')?.trim().to_owned()))
}

/// The commit of a reference. Source: git-pack-refs(1).
fn in_packed(reference: &str, packed: &str) -> Option<String> {
    packed.lines().find_map(|line| {
        let (commit, name) = line.split_once(' ')?;
        (name == reference).then(|| commit.to_owned())
    })
}

/// A tag of a commit. Source: git-pack-refs(1); behind a tag with a message is `^` and its commit.
fn tag_of(commit: &str, packed: &str) -> Option<String> {
    let mut name = None;
    for line in packed.lines() {
        if let Some(tagged) = line.strip_prefix('^') {
            if tagged == commit {
                return name;
            }
            continue;
        }
        let (id, reference) = line.split_once(' ')?;
        name = reference.strip_prefix("refs/tags/").map(str::to_owned);
        if id == commit && name.is_some() {
            return name;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_named_by_its_origin_and_its_branch_or_tag() {
        const CONFIG: &str = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://x/y.git\n\tfetch = +a\n[branch \"z\"]\n";
        assert_eq!(origin(CONFIG).as_deref(), Some("https://x/y.git"));
        assert_eq!(origin("[remote \"other\"]\n\turl = x\n"), None);
        let packed = "# pack-refs with: peeled\naa refs/heads/main\nbb refs/tags/v1\n^cc\naa refs/tags/v2\n";
        assert_eq!(tag_of("cc", packed).as_deref(), Some("v1"));
        assert_eq!(tag_of("aa", packed).as_deref(), Some("v2"));
        assert_eq!(tag_of("dd", packed), None);
        assert_eq!(in_packed("refs/heads/main", packed).as_deref(), Some("aa"));
        assert_eq!(in_packed("refs/heads/work", packed), None);
        let checkout = Checkout {
            directory: "/srv/y".into(),
            url: "https://x/y.git".into(),
            branch: "main".into(),
            user: "kim".into(),
            has_submodules: true,
            index: Vec::new(),
        };
        assert_eq!(
            checkout.code(),
            "git::checkout(\"https://x/y.git\", \"main\", \"/srv/y\", \"kim\", #{ submodules: true });"
        );
        assert!(checkout.keeps(Path::new("/srv/y/.git/index")));
        assert!(!checkout.keeps(Path::new("/srv/y/.git/config")) && !checkout.keeps(Path::new("/srv/y/a")));
        let index = b"DIRC....\x00\x05a/b/c\0\0\0....\x00\x04page\0";
        let checkout = Checkout { has_submodules: false, index: index.to_vec(), ..checkout };
        let is_untracked = |name: &str| checkout.is_untracked(&Path::new("/srv/y").join(name));
        assert!(["page", "a/b/c", "a/b", "a", ".git/x", ""].iter().all(|name| !is_untracked(name)));
        assert!(["c", "b", "pag", "page/x", "a/b/c/d", "local"].iter().all(|name| is_untracked(name)));
    }
}
