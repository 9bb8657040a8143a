//! A checkout of a git repository: what names where it came from can make it again.

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
        Some(Checkout { directory: directory.to_owned(), url, branch, user, has_submodules })
    }
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
        };
        assert_eq!(
            checkout.code(),
            "git::checkout(\"https://x/y.git\", \"main\", \"/srv/y\", \"kim\", #{ submodules: true });"
        );
        assert!(checkout.keeps(Path::new("/srv/y/.git/index")));
        assert!(!checkout.keeps(Path::new("/srv/y/.git/config")) && !checkout.keeps(Path::new("/srv/y/a")));
    }
}
