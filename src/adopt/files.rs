//! Files, directories and links: the calls that bring one machine's to another's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::account;
use super::action::{Action, Place};
use super::checkout::Checkout;
use super::diversion;
use super::noise::is_noise;
use super::output::Output;
use super::product::{self, Product};
use super::secret::Secrets;
use super::side::Side;
use super::trace::{Command, Trace, as_user, name_of};
use super::unit::{UnitLink, enables};
use super::{document, edit, literal};
use crate::machine::clone::root_files::{Seen, SeenKind};
use crate::script::lexically_normal;

/// A larger file is not put into a plan, in bytes.
const LARGEST: u64 = 32 * 1024 * 1024;
/// Why there is no call for a path.
const NOT_UTF_8: &str = "its name is not UTF-8, which plans are";
/// A longer text is a file of the plan, in bytes.
const LONGEST_IN_LINE: usize = 160;

/// From which machine to which, and what is known of the way.
pub(super) struct Towards<'sides> {
    pub(super) from: &'sides Side,
    pub(super) to: &'sides Side,
    pub(super) trace: &'sides Trace,
    /// When the script began and ended, in nanoseconds since 1970.
    pub(super) during: (i128, i128),
    pub(super) secrets: &'sides Secrets,
    /// What the packages alone changed.
    pub(super) packaged: Option<&'sides BTreeSet<PathBuf>>,
}

/// What was found at the paths that differ.
#[derive(Default)]
pub(super) struct Found {
    pub(super) actions: Vec<Action>,
    /// What cannot be expressed, with the reason.
    pub(super) unexpressed: Vec<(PathBuf, String)>,
    /// Files that not everyone may read, whose contents are in clear in the plan.
    pub(super) in_clear: Vec<PathBuf>,
    /// Products of commands, in which only the command decides what there is.
    pub(super) apart: BTreeSet<PathBuf>,
}

impl Towards<'_> {
    /// The calls for these paths, which are in order. The contents that they need are put into the plan's directory.
    pub(super) fn of(&self, paths: &[PathBuf], output: &mut Output) -> Result<Found> {
        let mut found = Found::default();
        let mut seen: BTreeMap<&Path, (Option<Seen>, Option<Seen>)> = BTreeMap::new();
        for path in paths {
            seen.insert(path, (self.from.files.look(path)?, self.to.files.look(path)?));
        }
        // A directory in which only directories are made needs no call of its own.
        let new = seen.iter().filter(|(_, (before, _))| before.is_none());
        let homes = self.homes();
        let (directories, others): (Vec<_>, Vec<_>) = new
            // What makes a user makes no directory above its home.
            .filter(|(path, _)| !homes.contains_key(**path))
            .filter_map(|(path, (_, after))| Some((path.parent()?, after.as_ref()?)))
            .partition(|(_, after)| after.kind == SeenKind::Directory);
        let others: BTreeSet<&Path> = others.into_iter().map(|(above, _)| above).collect();
        let implied: BTreeSet<&Path> =
            directories.into_iter().map(|(above, _)| above).filter(|above| !others.contains(above)).collect();
        let gone: BTreeSet<&Path> =
            seen.iter().filter(|(_, (_, after))| after.is_none()).map(|(path, _)| *path).collect();
        // The command of a diversion moves the files, too.
        let diversions = diversion::diversions(&self.from.files, &self.to.files);
        let is_diverted = |path: &Path, after: &Option<Seen>| {
            diversions.iter().any(|(here, there)| path == here && after.is_none() || path == there)
        };
        let products = self.products(&seen);
        let is_made_again = |path: &Path, seen: &Seen| {
            products.iter().any(|product| product.makes(path, self.running(path, seen)))
        };
        let new: BTreeMap<PathBuf, Seen> = seen
            .iter()
            .filter(|(_, (before, _))| before.is_none())
            .filter_map(|(path, (_, after))| Some(((*path).to_owned(), after.clone()?)))
            .collect();
        let trees = self.trees(&new, &|path| {
            products.iter().any(|product| product.roots.iter().any(|root| path.starts_with(root)))
        });
        for tree in &trees {
            if let Some(directory) = new.get(tree.root()) {
                found.actions.extend(self.tree(tree, directory, output)?);
                found.in_clear.extend(self.private_files(tree));
            }
        }
        for (path, (before, after)) in &seen {
            if Self::is_in(&trees, path)
                || is_diverted(path, after)
                || after.as_ref().is_some_and(|after| before.is_none() && is_made_again(path, after))
            {
                continue;
            }
            let is_link =
                |seen: &Option<Seen>| seen.as_ref().is_none_or(|seen| matches!(seen.kind, SeenKind::Link(_)));
            let is_alternative = self.from.alternatives.holds(path) || self.to.alternatives.holds(path);
            if is_alternative && is_link(before) && is_link(after) {
                continue;
            }
            if *path == Path::new(LOCALES) || self.is_made_by_packages(path, after.as_ref()) {
                found.apart.insert((*path).to_owned());
                continue;
            }
            if self.is_swap(path) {
                found.apart.insert((*path).to_owned());
            }
            match (before, after) {
                (None, None) => {}
                (Some(before), None) => {
                    if path.ancestors().skip(1).any(|above| gone.contains(above)) {
                        continue;
                    }
                    if path.to_str().is_some() {
                        found.actions.push(self.removal(path, before));
                    } else {
                        found.unexpressed.push(((*path).to_owned(), NOT_UTF_8.to_owned()));
                    }
                }
                (before, Some(after)) => {
                    if before.is_none() && self.comes_with_user(path, after, &homes)? {
                        continue;
                    }
                    match self.there(path, before.as_ref(), after, implied.contains(path), output)? {
                        Ok(mut actions) => {
                            actions.extend(self.attributed(path, before.is_none())?);
                            if before.is_none() {
                                self.before_homes(path, &homes, &mut actions);
                            }
                            // What a command makes is not in the plan.
                            let writes = |action: &Action| {
                                let is_other = ["cmd::run(", "file::access("];
                                action.secrets.is_empty()
                                    && !is_other.iter().any(|call| action.code.starts_with(call))
                            };
                            if self.is_private(path, after) && actions.iter().any(writes) {
                                found.in_clear.push((*path).to_owned());
                            }
                            found.actions.extend(actions);
                        }
                        Err(why) => found.unexpressed.push(((*path).to_owned(), why)),
                    }
                }
            }
        }
        self.add_products(&products, &mut found);
        let mut known = BTreeSet::new();
        found.actions.retain(|action| known.insert(action.code.clone()));
        Ok(found)
    }

    fn add_products(&self, products: &[Product<'_>], found: &mut Found) {
        for product in products {
            if let Some(action) = self.product(product) {
                found.actions.push(action);
            } else {
                let why = "its command cannot be written as one of a plan: it holds a secret".to_owned();
                found.unexpressed.extend(product.roots.first().map(|root| (root.clone(), why)));
            }
            found.apart.extend(product.apart());
        }
        found.actions.extend(self.handed_over(products));
    }

    /// What commands of the script made that only they know how to make.
    fn products(&self, seen: &BTreeMap<&Path, (Option<Seen>, Option<Seen>)>) -> Vec<Product<'_>> {
        let mut products: Vec<Product<'_>> = Vec::new();
        for (path, (before, after)) in seen {
            let (None, Some(after)) = (before, after) else { continue };
            let command = self.running(path, after).filter(|command| product::is_maker(command));
            let Some(command) = command.filter(|_| path.to_str().is_some()) else { continue };
            let is_copy = |stamp| self.trace.copied_after(stamp, &path.to_string_lossy());
            if self.stamp(after).is_some_and(is_copy) {
                continue;
            }
            if product::is_git(command) {
                // The outermost: what is below it are its submodules.
                let is_new = |above: &&Path| {
                    let repository = seen.get(above.join(".git").as_path());
                    matches!(repository, Some((None, Some(made))) if made.kind == SeenKind::Directory)
                };
                let Some(directory) = path.ancestors().filter(is_new).last() else { continue };
                if products.iter().any(|product| product.roots.iter().any(|root| root == directory)) {
                    continue;
                }
                if let Some(checkout) = Checkout::at(self.to, directory, product::user_of(command)) {
                    let roots = vec![directory.to_owned()];
                    products.push(Product { command, roots, checkout: Some(checkout) });
                }
                continue;
            }
            if !self.can_run_again(command) {
                continue;
            }
            let is_its = |product: &Product<'_>| product.command == command;
            let at = products.iter().position(is_its).unwrap_or(products.len());
            if at == products.len() {
                products.push(Product { command, roots: Vec::new(), checkout: None });
            }
            let roots = &mut products[at].roots;
            if !roots.iter().any(|root| path.starts_with(root)) {
                roots.push((*path).to_owned());
            }
        }
        // What a command makes is recognised by where most of it is: a stamp can be that of the next command.
        let count = |root: &PathBuf| {
            let inside = seen.range::<&Path, _>(root.as_path()..);
            inside.take_while(|(path, _)| path.starts_with(root)).count()
        };
        for product in &mut products {
            product.roots.sort_by_cached_key(|root| std::cmp::Reverse(count(root)));
        }
        products
    }

    /// Whether the plan can run a command again. What it runs in, or reads, may have been temporary.
    fn can_run_again(&self, command: &Command) -> bool {
        let is_there = |path: &PathBuf| {
            let stays = path == Path::new("/") || path.starts_with("/dev") || !is_noise(path, true);
            stays && self.to.files.look(path).is_ok_and(|seen| seen.is_some())
        };
        product::needed(command).iter().all(is_there)
    }

    /// Whether not everyone may read a file, or enter a directory above it.
    pub(super) fn is_private(&self, path: &Path, seen: &Seen) -> bool {
        let is_closed = |above: &Path| {
            self.to.files.look(above).ok().flatten().is_some_and(|above| above.mode & 0o001 == 0)
        };
        seen.kind == SeenKind::File && (seen.mode & 0o004 == 0 || path.ancestors().skip(1).any(is_closed))
    }

    /// The calls that give a path the access control lists and capabilities that the script gave it, if only these are missing.
    fn attributed(&self, path: &Path, is_new: bool) -> Result<Vec<Action>> {
        if !is_new && self.from.files.has_same_attributes(path, &self.to.files)? {
            return Ok(Vec::new());
        }
        let givers = ["setcap", "setfacl", "setfattr"];
        let name = path.to_string_lossy();
        let is_it = |command: &&Command| {
            let (_, words) = as_user(command.words());
            let words: Vec<&String> = words.iter().skip_while(|word| *word == "sudo").collect();
            // A script may try one that is not there.
            let is_there = |program: &str| {
                let places =
                    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|place| Path::new(place).join(program));
                places.iter().any(|place| self.to.files.look(place).is_ok_and(|seen| seen.is_some()))
            };
            let program = words.first().map_or("", |program| name_of(program));
            let is_giver = givers.contains(&program) && is_there(program);
            is_giver && words.iter().any(|word| lexically_normal(&command.directory.join(word)) == path)
        };
        let calls = self.trace.commands.iter().filter(is_it).map(|command| {
            let (_, words) = as_user(command.words());
            let named = words.iter().skip_while(|word| *word == "sudo");
            let named = named.map(|word| {
                let is_path = lexically_normal(&command.directory.join(word)) == path;
                if is_path { name.as_ref() } else { word.as_str() }
            });
            let code = format!("cmd::run({}, #{{ capture: #{{}} }});", literal::array(named));
            Action::new(Place::Files, code).by(Some(command))
        });
        Ok(calls.collect())
    }

    /// Whether a path is a swap file. Source: fstab(5).
    fn is_swap(&self, path: &Path) -> bool {
        let fstab = self.to.files.text("/etc/fstab");
        let mut lines = fstab.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.any(|fields| fields.get(2) == Some(&"swap") && Path::new(fields[0]) == path)
    }

    /// Whether both machines got this from the packages that were installed, with other bytes: a key, an identity.
    fn is_made_by_packages(&self, path: &Path, after: Option<&Seen>) -> bool {
        let Some(command) = after.and_then(|after| self.maker(path, after)) else { return false };
        let words = command.words();
        let installs =
            words.iter().any(|word| ["apt", "apt-get", "aptitude", "dpkg"].contains(&word.as_str()));
        installs
            && words.iter().any(|word| word == "install")
            && self.packaged.is_some_and(|packaged| packaged.contains(path))
    }

    /// The call that runs the command of a product again.
    fn product(&self, product: &Product<'_>) -> Option<Action> {
        let plain = product.code()?;
        let secrets = self.secrets.within(&plain);
        let code = self.secrets.named(&plain)?;
        let made = Action::new(Place::Files, code).by(Some(product.command));
        let first = product.roots.first().cloned();
        Some(Action { secrets, path: first, ..made })
    }

    /// The calls that give products to their users, if the script did after the last command that made a part of them.
    fn handed_over(&self, products: &[Product<'_>]) -> Vec<Action> {
        let roots: Vec<&PathBuf> = products.iter().flat_map(|product| &product.roots).collect();
        let owners = |root: &Path| {
            let seen = self.to.files.look(root).ok().flatten()?;
            let is_owned = seen.kind != SeenKind::Special && !matches!(seen.kind, SeenKind::Link(_));
            is_owned.then(|| (self.to.owners(&seen), seen.kind == SeenKind::Directory))
        };
        let mut actions = Vec::new();
        for root in &roots {
            let Some((owned, is_directory)) = owners(root) else { continue };
            let is_outer = |other: &&&PathBuf| root.starts_with(other) && root != *other;
            let outer = roots.iter().filter(is_outer).min();
            if outer.and_then(|outer| owners(outer)).is_some_and(|(outer, _)| outer == owned) {
                continue;
            }
            let inside = |product: &&Product<'_>| product.roots.iter().any(|inner| inner.starts_with(root));
            let makers = products.iter().filter(inside).map(|product| product.command);
            if makers.clone().all(|command| product::user_of(command) == owned.0) {
                continue;
            }
            let mut options = self.ownership(owned, &("root".to_owned(), "root".to_owned()));
            if is_directory {
                options.push(("recursive", "true".to_owned()));
            }
            let mut action = self.access(root, &options);
            if let Some(last) = makers.max_by_key(|command| command.when)
                && action.when <= Some(last.when)
            {
                (action.when, action.line) = (Some(last.when + 1), Some(last.line));
            }
            actions.push(action);
        }
        actions
    }

    fn removal(&self, path: &Path, before: &Seen) -> Action {
        if let SeenKind::Link(target) = &before.kind
            && let Some(link) = UnitLink::of(path, target)
        {
            return link.action(false).by(self.naming(&["systemctl"], path));
        }
        let code = format!("file::remove({});", quoted(path));
        let mut action =
            Action::new(Place::Files, code).by(self.naming(&["rm", "unlink", "mv", "find"], path));
        action.is_file = true;
        action.path = Some(path.to_owned());
        action
    }

    /// The first command of these programs that names the path, or its last part.
    fn naming(&self, programs: &[&str], path: &Path) -> Option<&Command> {
        let name = name_in(path);
        let named = self.trace.naming(programs, &path.to_string_lossy());
        named
            .or_else(|| self.trace.naming(programs, &name))
            .or_else(|| self.trace.naming(programs, name.trim_end_matches(".service")))
    }

    /// The homes that are made with new users, and whose they are.
    fn homes(&self) -> BTreeMap<PathBuf, String> {
        let accounts = &self.to.accounts;
        let made = accounts.users.iter().filter(|(name, _)| {
            !self.from.accounts.users.contains_key(*name) && accounts.has_made_home(name, self.trace)
        });
        made.map(|(name, user)| (PathBuf::from(&user.home), name.clone())).collect()
    }

    /// Puts what makes a directory above homes before their users.
    fn before_homes(&self, path: &Path, homes: &BTreeMap<PathBuf, String>, actions: &mut [Action]) {
        for (_, user) in homes.iter().filter(|(home, _)| *home != path && home.starts_with(path)) {
            for action in actions.iter_mut().filter(|action| action.path.is_some()) {
                action.place = Place::Accounts;
                if let Some(command) = account::maker(user, true, self.trace)
                    && action.when.is_none_or(|when| when >= command.when)
                {
                    (action.when, action.line) = (Some(command.when - 1), Some(command.line));
                }
            }
        }
    }

    /// The command that made the owner or the group of this, if that was later.
    fn account_after(&self, seen: &Seen) -> Option<&Command> {
        let (owner, group) = self.to.owners(seen);
        let (old, stamp) = (&self.from.accounts, self.stamp(seen)?);
        let user =
            (!old.users.contains_key(&owner)).then(|| account::maker(&owner, true, self.trace)).flatten();
        let group = (!old.has_group(&group)).then(|| account::maker(&group, false, self.trace)).flatten();
        user.into_iter()
            .chain(group)
            .filter(|command| command.when > stamp)
            .max_by_key(|command| command.when)
    }

    /// Whether making a user makes this, too: the home, and what it begins with.
    fn comes_with_user(&self, path: &Path, seen: &Seen, homes: &BTreeMap<PathBuf, String>) -> Result<bool> {
        for (home, name) in homes {
            let Ok(inside) = path.strip_prefix(home) else { continue };
            if self.to.owners(seen).0 != *name {
                return Ok(false);
            }
            if inside.as_os_str().is_empty() {
                return Ok(true);
            }
            let model = Path::new("/etc/skel").join(inside);
            return Ok(match self.to.files.look(&model)? {
                Some(model_seen) if model_seen.kind == SeenKind::File => {
                    model_seen.mode == seen.mode
                        && self.to.files.bytes(&model)? == self.to.files.bytes(path)?
                }
                _ => false,
            });
        }
        Ok(false)
    }

    /// What a file of a new home was when its user was made.
    fn model_of(&self, path: &Path, seen: &Seen) -> Result<Option<Vec<u8>>> {
        let homes = self.homes();
        let is_above = |(home, _): &(&PathBuf, &String)| path.starts_with(home);
        let Some((home, name)) = homes.iter().find(is_above) else { return Ok(None) };
        let (Ok(inside), true) = (path.strip_prefix(home), self.to.owners(seen).0 == *name) else {
            return Ok(None);
        };
        let model = Path::new("/etc/skel").join(inside);
        let is_file = |model: &Seen| model.kind == SeenKind::File && model.mode == seen.mode;
        if self.to.files.look(&model)?.is_some_and(|model| is_file(&model)) {
            self.to.files.bytes(&model)
        } else {
            Ok(None)
        }
    }

    /// The calls for what is at a path, or why there are none.
    fn there(
        &self,
        path: &Path,
        before: Option<&Seen>,
        after: &Seen,
        is_implied: bool,
        output: &mut Output,
    ) -> Result<Result<Vec<Action>, String>> {
        let same_kind = before
            .filter(|before| std::mem::discriminant(&before.kind) == std::mem::discriminant(&after.kind));
        let mut actions = Vec::new();
        if path.to_str().is_none() {
            return Ok(Err(NOT_UTF_8.to_owned()));
        }
        match &after.kind {
            SeenKind::Link(target) if target.to_str().is_none() => {
                return Ok(Err("its target is not UTF-8, which plans are".to_owned()));
            }
            SeenKind::Special => return Ok(Err("it is a device, a pipe or a socket".to_owned())),
            SeenKind::Link(target) => {
                if same_kind.is_some_and(|before| before.kind == after.kind) {
                    return Ok(Ok(Vec::new()));
                }
                if let Some(link) = UnitLink::of(path, target) {
                    actions.push(link.action(true).by(self.maker(path, after)));
                    return Ok(Ok(actions));
                }
                let code = format!("file::link({}, {});", quoted(target), quoted(path));
                actions.push(self.made(path, after, code));
            }
            SeenKind::Directory => {
                if is_of_units(path) {
                    return Ok(Ok(Vec::new()));
                }
                let mut options = self.attributes(path, same_kind, after, 0o755);
                if same_kind.is_none() {
                    // The account may need it: a directory above its home.
                    let account = self.account_after(after);
                    let is_later = |option: &(&str, String)| account.is_some() && option.0 != "mode";
                    let (later, now): (Vec<_>, Vec<_>) = options.drain(..).partition(is_later);
                    if !(now.is_empty() && is_implied) {
                        let code = format!("file::make_dir({}{});", quoted(path), literal::options(&now));
                        actions.push(self.made(path, after, code));
                    }
                    if !later.is_empty() {
                        let mut given = vec![self.access(path, &later)];
                        not_before(&mut given, account);
                        actions.append(&mut given);
                    }
                } else if !options.is_empty() {
                    actions.push(self.access(path, &options));
                }
            }
            SeenKind::File => {
                let mut made = self.file(path, same_kind, after, output)?;
                if let Ok(actions) = &mut made {
                    not_before(actions, self.account_after(after));
                }
                return Ok(made);
            }
        }
        Ok(Ok(actions))
    }

    /// The calls for a file, or why there are none.
    fn file(
        &self,
        path: &Path,
        same_kind: Option<&Seen>,
        after: &Seen,
        output: &mut Output,
    ) -> Result<Result<Vec<Action>, String>> {
        let mut actions = Vec::new();
        let options = self.attributes(path, same_kind, after, 0o644);
        let same = same_kind.is_some() && self.from.files.has_same_bytes(path, &self.to.files)?;
        if same {
            if !options.is_empty() {
                actions.push(self.access(path, &options));
            }
            return Ok(Ok(actions));
        }
        if self.is_swap(path) {
            let count = after.size / 1024 / 1024;
            let make = format!(
                "umask 077; dd if=/dev/zero of=\"$1\" bs=1M count={count} status=none; mkswap --quiet \"$1\""
            );
            let command = literal::array(["sh", "-ec", &make, "swap", &path.to_string_lossy()]);
            let code = format!("cmd::run({command}, #{{ creates: {} }});", quoted(path));
            return Ok(Ok(vec![self.made(path, after, code)]));
        }
        if after.size > LARGEST {
            return Ok(Err(format!("it has {}", crate::rehearse::difference::size(after.size))));
        }
        let Some(bytes) = self.to.files.bytes(path)? else {
            return Ok(Err("it cannot be read".to_owned()));
        };
        let is_text = std::str::from_utf8(&bytes).is_ok();
        if !is_text && !self.secrets.within(&String::from_utf8_lossy(&bytes)).is_empty() {
            return Ok(Err("it is no text, and holds a secret".to_owned()));
        }
        let earlier =
            if same_kind.is_some() { self.from.files.bytes(path)? } else { self.model_of(path, after)? };
        let secrets = std::str::from_utf8(&bytes).map(|text| self.secrets.within(text)).unwrap_or_default();
        if let (Some(earlier), Ok(text)) = (&earlier, std::str::from_utf8(&bytes))
            && let Ok(earlier) = std::str::from_utf8(earlier)
            && let Some(calls) = document::edits(&path.to_string_lossy(), earlier, text)
                .or_else(|| edit::edits(&path.to_string_lossy(), earlier, text))
            && let Some(calls) = self.without_secrets(&calls)
        {
            let calls = if path == Path::new("/etc/locale.gen") { vec![generating(&calls)] } else { calls };
            actions.extend(calls.into_iter().map(|code| {
                let mut action = self.made(path, after, code);
                action.secrets.clone_from(&secrets);
                action
            }));
            if !options.is_empty() {
                // With the edits, unless a command for it comes later.
                let (mut access, edited) =
                    (self.access(path, &options), self.made(path, after, String::new()));
                if access.when < edited.when {
                    (access.when, access.line) = (edited.when, edited.line);
                }
                actions.push(access);
            }
            return Ok(Ok(actions));
        }
        if let Some(code) = self.derived(path, after).filter(|_| same_kind.is_none() && secrets.is_empty()) {
            let made = self.made(path, after, code);
            let mut access = self.access(path, &self.attributes(path, None, after, 0));
            if access.when <= made.when {
                (access.when, access.line) = (made.when.map(|when| when + 1), made.line);
            }
            return Ok(Ok(vec![made, access]));
        }
        let code = self.whole(path, &bytes, (&secrets, &options), (same_kind, after), output)?;
        let mut action = self.made(path, after, code);
        action.secrets = secrets;
        actions.push(action);
        Ok(Ok(actions))
    }

    /// The call that makes a file out of one with a secret, as a picture or a public key is: a copy would tell the secret, or be
    /// that of another.
    fn derived(&self, path: &Path, after: &Seen) -> Option<String> {
        let command = self.maker(path, after)?;
        let line = self.trace.expanded(command)?;
        let (_, input) = line.split_once('<').filter(|(_, input)| !input.starts_with('<'))?;
        let source = shell_words::split(input.split('>').next()?).ok()?.into_iter().next()?;
        let source = lexically_normal(&command.directory.join(source));
        let name = path.to_str()?;
        let words = shell_words::split(&line.replace(['<', '>'], " ")).ok()?;
        let is_named = words.iter().any(|word| lexically_normal(&command.directory.join(word)) == path);
        let is_made =
            is_named && source.is_absolute() && source != path && self.secrets.within(&line).is_empty();
        if !is_made || !self.holds_secret(&source) {
            return None;
        }
        Some(format!(
            "cmd::run({}, #{{ creates: {}, made_from: || file::sha256({}), capture: #{{}}, cwd: {} }});",
            literal::array(["sh", "-ec", &line]),
            literal::string(name),
            quoted(&source),
            quoted(&command.directory)
        ))
    }

    /// The call that writes a whole file.
    fn whole(
        &self,
        path: &Path,
        bytes: &[u8],
        (secrets, options): (&[String], &[(&'static str, String)]),
        (same_kind, after): (Option<&Seen>, &Seen),
        output: &mut Output,
    ) -> Result<String> {
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) if !secrets.is_empty() => {
                let options = &self.attributes(path, same_kind, after, 0o600);
                let kept = output.keep(path, self.secrets.template(text).as_bytes())?;
                let values: Vec<String> = secrets.iter().map(|name| format!("{name}: {name}")).collect();
                let render =
                    format!("file::render({}, #{{ {} }})", literal::string(&kept), values.join(", "));
                format!("file::write({}, {render}{});", quoted(path), literal::options(options))
            }
            Ok(text) if text.len() <= LONGEST_IN_LINE && text.lines().count() < 3 && !text.contains('\0') => {
                format!(
                    "file::write({}, {}{});",
                    quoted(path),
                    literal::string(text),
                    literal::options(options)
                )
            }
            _ => {
                let kept = output.keep(path, bytes)?;
                format!(
                    "file::copy({}, {}{});",
                    literal::string(&kept),
                    quoted(path),
                    literal::options(options)
                )
            }
        })
    }

    /// The calls with the names of secrets instead of their values; `None` if a secret is a part of a value, or of a line,
    /// which is recorded.
    fn without_secrets(&self, calls: &[String]) -> Option<Vec<String>> {
        let named = |code: &String| {
            let named = self.secrets.named(code)?;
            (named == *code || code.starts_with("config::set(")).then_some(named)
        };
        calls.iter().map(named).collect()
    }

    /// Owner, group and mode that must be said: those that differ from what is there, or from what something new gets.
    fn attributes(
        &self,
        path: &Path,
        before: Option<&Seen>,
        after: &Seen,
        mode: u32,
    ) -> Vec<(&'static str, String)> {
        let (owner, group) = self.to.owners(after);
        let usual = if let Some(before) = before {
            (self.from.owners(before), before.mode)
        } else {
            let above = path.parent().and_then(|above| self.to.files.look(above).ok().flatten());
            (above.map(|above| self.to.owners(&above)).unwrap_or_default(), mode)
        };
        let mut options = self.ownership((owner, group), &usual.0);
        if after.mode != usual.1 {
            options.push(("mode", literal::string(&format!("{:04o}", after.mode))));
        }
        options
    }

    /// Owner and group that must be said. Where only the owner is, its primary group is the group.
    pub(super) fn ownership(
        &self,
        (owner, group): (String, String),
        usual: &(String, String),
    ) -> Vec<(&'static str, String)> {
        let mut options = Vec::new();
        let mut usual_group = Some(usual.1.as_str());
        if owner != usual.0 {
            options.push(("owner", literal::string(&owner)));
            usual_group = self.to.accounts.primary_group(&owner);
        }
        if usual_group != Some(&group) {
            options.push(("group", literal::string(&group)));
        }
        options
    }

    fn access(&self, path: &Path, options: &[(&'static str, String)]) -> Action {
        let code = format!("file::access({}{});", quoted(path), literal::options(options));
        let programs = ["chmod", "chown", "chgrp", "install"];
        // `chown -R` names a directory above.
        let above = || {
            path.ancestors()
                .skip(1)
                .find_map(|above| self.trace.naming(&programs[..3], &above.to_string_lossy()))
        };
        let mut action = Action::new(Place::Files, code).by(self.naming(&programs, path).or_else(above));
        action.is_file = true;
        action
    }

    pub(super) fn made(&self, path: &Path, seen: &Seen, code: String) -> Action {
        let mut action = Action::new(Place::Files, code);
        action.path = Some(path.to_owned());
        action.when = self.stamp(seen);
        action.line = self.maker(path, seen).map(|command| command.line);
        action.is_file = true;
        action
    }

    /// When something was made during the script: the time of its content, or else of its birth.
    pub(super) fn stamp(&self, seen: &Seen) -> Option<i128> {
        let content = (seen.kind == SeenKind::File).then_some(seen.modified);
        let (begin, end) = self.during;
        content.into_iter().chain(seen.born).find(|when| (begin..=end).contains(when))
    }

    /// The command that had begun when something was made, whatever it names: what reads a list is not what wrote it.
    fn running(&self, path: &Path, seen: &Seen) -> Option<&Command> {
        let stamp = self.stamp(seen)?;
        self.trace.written_next(stamp, &path.to_string_lossy()).or_else(|| self.trace.at(stamp, ""))
    }

    fn maker(&self, path: &Path, seen: &Seen) -> Option<&Command> {
        self.trace.at(self.stamp(seen)?, &path.to_string_lossy())
    }
}

/// The last part of a path.
fn name_in(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Puts actions after the command that made an account, if there is one.
fn not_before(actions: &mut [Action], account: Option<&Command>) {
    for action in actions {
        if let Some(command) = account
            && action.when.is_some_and(|when| when <= command.when)
        {
            (action.when, action.line) = (Some(command.when + 1), Some(command.line));
        }
    }
}

/// What locale-gen makes.
const LOCALES: &str = "/usr/lib/locale/locale-archive";

/// The calls that choose locales, with the program that makes them.
fn generating(calls: &[String]) -> String {
    format!("step::on_change(#{{ run: [[\"locale-gen\"]] }}, || {{\n    {}\n}});", calls.join("\n    "))
}

/// A path as a plan writes it.
pub(super) fn quoted(path: &Path) -> String {
    literal::string(&path.to_string_lossy())
}

/// The directories that systemctl makes for its links.
fn is_of_units(path: &Path) -> bool {
    let is_of = |above: &Path| above.ends_with("systemd/system") || above.ends_with("systemd/user");
    enables(path) && path.parent().is_some_and(is_of)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::super::live::Live;
    use super::super::output;
    use super::*;
    use crate::machine::clone::root_files::RootFiles;

    /// What is found at these paths of one root directory and another, and the calls.
    fn found(before: &Path, after: &Path, trace: &Trace, paths: &[&OsStr]) -> (Found, Vec<String>) {
        let plan = tempfile::tempdir().unwrap();
        let [from, to] = [before, after].map(|root| Side::of(RootFiles::new(root, None), Live::default()));
        let secrets = Secrets::default();
        let during = (0, i128::MAX);
        let towards = Towards { from: &from, to: &to, trace, during, secrets: &secrets, packaged: None };
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let found = towards.of(&paths, &mut Output::create(plan.path()).unwrap()).unwrap();
        let calls =
            found.actions.iter().map(|action| action.code.split(',').next().unwrap().to_owned()).collect();
        (found, calls)
    }

    #[test]
    fn names_that_are_not_utf_8_are_said_and_get_no_call() {
        let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [latin, gone] = [&b"/latin-\xe9"[..], b"/gone-\xe9"].map(OsStr::from_bytes);
        let at = |root: &tempfile::TempDir, name: &OsStr| {
            root.path().join(Path::new(name).strip_prefix("/").unwrap())
        };
        std::fs::write(at(&after, latin), "z").unwrap();
        std::fs::write(at(&before, gone), "z").unwrap();
        std::os::unix::fs::symlink(OsStr::from_bytes(b"a\xffb"), after.path().join("link")).unwrap();
        let paths = [gone, latin, OsStr::new("/link")];
        let (found, calls) = found(before.path(), after.path(), &Trace::default(), &paths);
        assert_eq!(calls, [""; 0]);
        let why: Vec<&str> = found.unexpressed.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(why, [NOT_UTF_8, NOT_UTF_8, "its target is not UTF-8, which plans are"]);
    }

    #[test]
    fn what_a_command_made_in_a_directory_that_has_gone_is_files() {
        let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::create_dir(after.path().join("build")).unwrap();
        std::fs::write(after.path().join("tool"), "#!/bin/sh\n").unwrap();
        let made = RootFiles::new(after.path(), None).look(Path::new("/tool")).unwrap().unwrap().modified;
        for (directory, call) in [("/build", "cmd::run([\"make\""), ("/gone", "file::write(\"/tool\"")] {
            let entry = format!("\u{1}{}.0 0 2 {directory}\u{2}make install\n", made / 1_000_000_000);
            let paths = [OsStr::new("/tool")];
            let (_, calls) = found(before.path(), after.path(), &Trace::read(&entry, ""), &paths);
            assert_eq!(calls[0], call);
        }
    }

    #[test]
    fn a_file_of_a_new_home_is_edited_beyond_what_it_begins_with() {
        let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for directory in ["etc/skel", "home/kim"] {
            std::fs::create_dir_all(after.path().join(directory)).unwrap();
        }
        let id = std::fs::metadata(after.path()).unwrap();
        let write = |name: &str, text: String| std::fs::write(after.path().join(name), text).unwrap();
        write("etc/passwd", format!("kim:x:{}:{}::/home/kim:/bin/sh\n", id.uid(), id.gid()));
        write("etc/group", format!("kim:x:{}:\n", id.gid()));
        write("etc/skel/.bashrc", "# rc\n".to_owned());
        write("home/kim/.bashrc", "# rc\numask 027\n".to_owned());
        let trace = Trace::read("\u{1}1.0 0 2 /\u{2}useradd -m kim\n", "");
        let (_, calls) = found(before.path(), after.path(), &trace, &[OsStr::new("/home/kim/.bashrc")]);
        assert_eq!(calls, ["config::line(\"/home/kim/.bashrc\""]);
    }

    #[test]
    fn what_most_of_a_product_is_in_names_it() {
        let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::create_dir_all(after.path().join("usr/lib/tool")).unwrap();
        for name in ["etc-conf", "usr/lib/tool/a", "usr/lib/tool/b"] {
            std::fs::write(after.path().join(name), "x\n").unwrap();
        }
        let made = RootFiles::new(after.path(), None).look(Path::new("/etc-conf")).unwrap().unwrap().modified;
        let entry = format!("\u{1}{}.0 0 2 /\u{2}npm install -g tool\n", made / 1_000_000_000);
        let paths = ["/etc-conf", "/usr/lib/tool", "/usr/lib/tool/a", "/usr/lib/tool/b"].map(OsStr::new);
        let (found, _) = found(before.path(), after.path(), &Trace::read(&entry, ""), &paths);
        assert!(found.actions[0].code.contains("creates: \"/usr/lib/tool\""), "{:?}", found.actions);
    }

    #[test]
    fn a_directory_comes_before_the_user_whose_home_is_in_it() {
        let [before, after, plan] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let home = after.path().join("srv/backup/home");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(after.path().join("etc")).unwrap();
        let found = std::fs::metadata(&home).unwrap();
        let (id, group) = (found.uid(), found.gid());
        let passwd = format!("backupper:x:{id}:{group}::/srv/backup/home:/bin/sh\n");
        std::fs::write(after.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(after.path().join("etc/group"), format!("backupper:x:{group}:\n")).unwrap();
        let side =
            |directory: &tempfile::TempDir| Side::of(RootFiles::new(directory.path(), None), Live::default());
        let (from, to) = (side(&before), side(&after));
        // The user is made an hour after the directory.
        let born = to.files.look(Path::new("/srv/backup")).unwrap().unwrap().born.unwrap();
        let made = born / 1_000_000_000;
        let trace = Trace::read(
            &format!(
                "\u{1}{made}.0 0 2 /\u{2}mkdir -p /srv/backup\n\u{1}{}.0 0 3 /\u{2}useradd -m -d /srv/backup/home backupper\n",
                made + 3600
            ),
            "",
        );
        let secrets = Secrets::default();
        let towards = Towards {
            from: &from,
            to: &to,
            trace: &trace,
            during: (0, i128::MAX),
            secrets: &secrets,
            packaged: None,
        };
        let mut kept = Output::create(plan.path()).unwrap();
        let paths = ["/srv/backup", "/srv/backup/home"].map(PathBuf::from);
        let found = towards.of(&paths, &mut kept).unwrap();
        let (mut actions, _) = from.accounts.towards(&to.accounts, &trace, &secrets);
        actions.extend(found.actions);
        output::parents_first(&mut actions);
        actions.sort_by_key(|action| (action.when.is_none(), action.when));
        let calls: Vec<&str> = actions.iter().map(|action| action.code.split(',').next().unwrap()).collect();
        assert_eq!(calls, ["file::make_dir(\"/srv/backup\");", "user::ensure(\"backupper\""]);
        assert_eq!(actions[0].place, Place::Accounts);
    }

    #[test]
    fn what_a_command_made_of_a_secret_is_not_in_the_plan() {
        let [before, after, plan] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let inside = after.path().join("etc/wg");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("laptop.conf"), "PrivateKey = 0123456789abcdef\n").unwrap();
        std::fs::write(inside.join("laptop.txt"), "picture\n").unwrap();
        let [from, to] =
            [&before, &after].map(|root| Side::of(RootFiles::new(root.path(), None), Live::default()));
        let made = to.files.look(Path::new("/etc/wg/laptop.txt")).unwrap().unwrap().modified / 1_000_000_000;
        let source = "CLIENT=laptop\nqrencode -o \"/etc/wg/$CLIENT.txt\" < \"/etc/wg/${CLIENT}.conf\"\n";
        let trace = Trace::read(
            &format!(
                "\u{1}{}.0 0 1 /\u{2}CLIENT=laptop\n\u{1}{made}.0 0 2 /\u{2}qrencode -o /etc/wg/laptop.txt\n",
                made - 1
            ),
            source,
        );
        let mut secrets = Secrets::default();
        let text = to.files.text("/etc/wg/laptop.conf");
        let origin = super::super::origin::Origin::of(&trace, source, &[], &[]);
        secrets.learn(&origin, Path::new("/etc/wg/laptop.conf"), &text, false);
        let during = (0, i128::MAX);
        let towards =
            Towards { from: &from, to: &to, trace: &trace, during, secrets: &secrets, packaged: None };
        let mut output = Output::create(plan.path()).unwrap();
        let found = towards.of(&[PathBuf::from("/etc/wg/laptop.txt")], &mut output).unwrap();
        assert_eq!(
            found.actions[0].code,
            "cmd::run([\"sh\", \"-ec\", \"qrencode -o \\\"/etc/wg/laptop.txt\\\" < \\\"/etc/wg/laptop.conf\\\"\"], \
             #{ creates: \"/etc/wg/laptop.txt\", made_from: || file::sha256(\"/etc/wg/laptop.conf\"), capture: #{}, cwd: \"/\" });"
        );
        assert_eq!((found.in_clear.len(), output.kept().len()), (0, 0));
    }

    #[test]
    fn a_file_below_a_closed_directory_is_private_and_a_capability_is_its_command() {
        use std::os::unix::fs::PermissionsExt as _;
        let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::create_dir(after.path().join("closed")).unwrap();
        std::fs::write(after.path().join("closed/ping"), "one\ntwo\nthree\n").unwrap();
        for (path, mode) in [("", 0o755), ("closed/ping", 0o755), ("closed", 0o700)] {
            std::fs::set_permissions(after.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(after.path().join("sbin")).unwrap();
        std::fs::write(after.path().join("sbin/setcap"), "").unwrap();
        let trace = Trace::read(
            "\u{1}1.0 0 2 /closed\u{2}setcap cap_net_raw+ep ping\n\u{1}2.0 0 2 /closed\u{2}setfattr -n user.x ping\n",
            "",
        );
        let (found, _) = found(before.path(), after.path(), &trace, &[OsStr::new("/closed/ping")]);
        assert_eq!(found.in_clear, [PathBuf::from("/closed/ping")]);
        let last = &found.actions.last().unwrap().code;
        assert_eq!(last, "cmd::run([\"setcap\", \"cap_net_raw+ep\", \"/closed/ping\"], #{ capture: #{} });");
    }
}
