//! A command that was run, with what undoes it: the removal of its product, or commands given beforehand.

mod plain;
mod product;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use plain::{PlainCommand, Probe};
use product::{
    Added, Product, Watch, Watched, blob, is_small, is_there, keep_before_run, keep_small, read_listing,
    remove, state_of,
};
pub use product::{CommandSource, CommandState};

use super::{
    Kind, Loss, OnDoubt, Payload, Position, UndoTerms, Undone, World, aside, is_volatile, missing,
    state_value, tree, unit,
};
use crate::event::Modification;
use crate::failure::sentence;
use crate::journal::{Class, Undoing};
use crate::machine::files::{self, Digest, Listing, PathText};
use crate::machine::mount;
use crate::machine::tree_size::TreeSize;
use crate::target::{States, Target};

/// How long a command that undoes something may take.
const LONGEST_UNDO: Duration = Duration::from_secs(1800);

/// Of what was modified in a product, so many entries are named.
const MOST_NAMED: usize = 5;

/// What is known of a command's product before the command is run.
#[derive(Clone, Debug, Default)]
pub struct ProductRecord {
    /// What kkrun last left there.
    pub recorded: Option<CommandState>,
    /// Whether a change that is not undone made what is there.
    pub own: bool,
    /// The change that an earlier attempt left half made: what was there before it counts.
    pub first: Option<CommandChange>,
    /// What kkrun last left of the product that the command changes.
    pub changed: Option<CommandState>,
    /// The user whose files alone the command can make; none if that is root, who can make any.
    pub user: Option<u32>,
    /// The name of the user as whom the command runs, if its script names one.
    pub runs_as: Option<String>,
    /// The paths at, in and above the product that kkrun itself changed otherwise.
    pub touched: Vec<PathBuf>,
}

/// What undoes a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandInverse {
    /// Its label.
    pub label: String,
    /// Its product: removed, if it was not there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<PathText>,
    /// The product of another command, which this command and its undo change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<PathText>,
    /// Commands that undo it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<PlainCommand>,
    /// How its state is observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// What undoing it costs.
    pub class: Class,
}

impl CommandInverse {
    /// Whether there is anything that a rollback does about it.
    pub fn has_undo(&self) -> bool {
        self.product.is_some() || !self.commands.is_empty()
    }
}

/// A command that was run.
///
/// Who owns a product: what was not there at the first attempt is the command's, up to the moment at which kkrun saw
/// the command end. Then kkrun lists it, without what the operator had put into it before, and without the files of
/// another user than the command's, if that is not root. That is all that can be known: what the operator adds as the
/// command's own user while it runs, or at all while root's command runs, counts as the command's. What is there and not
/// in the list is the operator's: a rollback asks. There is no list of what a killed attempt left; it cannot be told
/// apart from what the operator made since, so it is set aside instead of removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandChange {
    before: CommandState,
    after: CommandState,
    inverse: CommandInverse,
    /// Set where the command is run; a change that was read from the journal has none.
    #[serde(skip)]
    watch: Option<Box<Watch>>,
}

impl CommandChange {
    /// The change by a command about to be run. What it was made from is remembered with its success.
    ///
    /// # Errors
    /// When the product, or what is recorded of it, cannot be read.
    pub fn about_to_run(
        world: &World,
        inverse: CommandInverse,
        source: CommandSource,
        record: &ProductRecord,
    ) -> Result<Self> {
        let mut before = CommandState::default();
        let mut watch = Watch {
            found: Listing::default(),
            theirs: Listing::default(),
            changed: None,
            user: record.user,
            runs_as: record.runs_as.clone(),
            modified: Vec::new(),
            added: Vec::new(),
        };
        if let (Some(path), Some(recorded)) = (&inverse.changes, &record.changed) {
            watch.changed = Some(Watched::observe(path, recorded.clone())?);
        }
        if let Some(product) = &inverse.product {
            let known = record.recorded.as_ref().and_then(|state| state.left);
            let known =
                known.map(|left| read_listing(world, left)).transpose()?.flatten().unwrap_or_default();
            watch.found = Listing::observe_beside(product.as_path(), &known)?;
            watch.theirs = watch.found.without(&known);
            let by_kkrun = |path: &Path| {
                let at = product.as_path().join(path);
                let at = if path == Path::new(".") { product.as_path() } else { &at };
                record.touched.iter().any(|touched| at.starts_with(touched) || touched.starts_with(at))
            };
            // What a killed attempt left of it is on the way.
            let added = watch.theirs.beyond(&known);
            watch.added = added
                .into_iter()
                .filter(|path| !known.has(path) && !by_kkrun(path))
                .map(|path| Added::look(product.as_path(), path))
                .collect();
            if record.first.is_none() {
                let modified = known.without(&watch.found);
                watch.modified =
                    modified.paths().filter(|path| !by_kkrun(path)).map(Path::to_owned).collect();
            }
            before.product = Some(!watch.found.is_empty());
            before.own = !watch.found.is_empty() && record.own;
            if !watch.found.is_empty() && !before.own {
                watch.found = watch.found.with_contents(product.as_path())?;
                watch.theirs = watch.found.without(&known);
                before.left = Some(Digest::of(&blob(&watch.found)?));
            }
        }
        if let Some(first) = &record.first {
            before.product = first.before.product;
            before.own = first.before.own;
            before.left = first.before.left;
            if before.product == Some(false) {
                // It is cleared away before the command is run.
                watch.theirs = Listing::default();
                watch.added = Vec::new();
            }
        }
        before.probed = inverse.probe.as_ref().map(|probe| probe.state(world)).transpose()?.flatten();
        let after = CommandState { product: before.product.map(|_| true), source, ..CommandState::default() };
        Ok(Self { before, after, inverse, watch: Some(Box::new(watch)) })
    }

    /// What undoes it.
    pub fn inverse(&self) -> &CommandInverse {
        &self.inverse
    }

    fn product(&self) -> Option<&Path> {
        self.inverse.product.as_ref().map(PathText::as_path)
    }

    /// The product, if undoing this change removes it.
    fn made_product(&self) -> Option<&Path> {
        self.product().filter(|_| self.before.product == Some(false))
    }

    /// Removes what is left of a product whose removal was interrupted.
    fn clear_leftover(&self) -> Result<()> {
        match self.product() {
            Some(product) => files::clear_leftover(product, &super::tag(product)),
            None => Ok(()),
        }
    }

    /// What the command may remove of what kkrun did not make, if it is too much to be kept.
    fn too_much_added(&self, watch: &Watch) -> Option<String> {
        if !self.before.own {
            return None;
        }
        let mut size = TreeSize::default();
        for added in &watch.added {
            size.files += added.size.files;
            size.bytes += added.size.bytes;
        }
        let names = watch.added.iter().filter(|added| !added.is_cache).map(|added| added.name.clone());
        let names = tree::others(names.collect());
        (!is_small(size))
            .then(|| format!("the command may remove {names} ({size}), which is too much to be kept"))
    }

    /// Says what of that the command, which has ended, removed, and where it is kept.
    fn name_removed(&self, world: &World, watch: &Watch) {
        let Some(product) = self.product() else { return };
        let is_gone = |added: &&Added| !added.is_cache && !is_there(&added.path).unwrap_or(true);
        let (kept, lost): (Vec<_>, Vec<_>) =
            watch.added.iter().filter(is_gone).partition(|added| added.is_kept());
        let backups =
            format!("the contents are kept in `{}`", world.state_directory().join("backups").display());
        for (gone, what) in [(kept, backups.as_str()), (lost, "they were too large to be kept")] {
            if !gone.is_empty() {
                world.reporter.note(format!(
                    "`{}` removed {} in `{}`; {what}",
                    self.inverse.label,
                    tree::others(gone.into_iter().map(|added| added.name.clone()).collect()),
                    product.display(),
                ));
            }
        }
    }

    /// Saves what the command, which has ended, left of its product.
    fn listed(&self, world: &World, watch: &Watch) -> Result<Option<Digest>> {
        let Some(product) = self.product().filter(|_| self.before.product == Some(false) || self.before.own)
        else {
            return Ok(None);
        };
        let left = Listing::observe_beside(product, &watch.theirs)?.without(&watch.theirs);
        let left = match watch.user {
            Some(user) => left.of_user(user),
            None => left,
        };
        Ok(Some(world.backups()?.save(&blob(&left.with_contents(product)?)?)?))
    }

    /// The products that its undo commands may write into, and that stay for now.
    fn watched(&self, terms: UndoTerms<'_>) -> Result<Vec<Watched>> {
        let is_last = terms.commands_ended + 1 >= self.inverse.commands.len();
        let mut watched = Vec::new();
        if let (Some(path), Some(recorded)) = (&self.inverse.changes, terms.recorded_file.and_then(state_of))
        {
            watched.push(Watched::observe(path, recorded)?);
        }
        if let (Some(path), Some(recorded)) = (&self.inverse.product, terms.recorded.and_then(state_of))
            && terms.recorded_since
            && (self.before.own || !is_last)
        {
            watched.push(Watched::observe(path, recorded)?);
        }
        Ok(watched)
    }

    /// Runs one of its undo commands.
    ///
    /// A single one that a killed undo, or a killed command, may have left nothing to do need not succeed, if the probe
    /// reads as before. Of several, each must: a probe says nothing of the others.
    fn run_undo_command(&self, world: &World, command: &PlainCommand, terms: UndoTerms<'_>) -> Result<()> {
        let label = command.label();
        let ended = world.run(&command.command(world, LONGEST_UNDO)?, &label)?;
        if ended.status.code().is_some_and(|code| command.ok_codes.contains(&code)) {
            return Ok(());
        }
        unit::succeeded(&ended, &label).or_else(|error| {
            let may_be_done = self.inverse.commands.len() == 1 && !terms.failed;
            let was_killed = terms.begun || !terms.was_made;
            let is_as_before = || self.state(world).is_ok_and(|now| self.is_as_before(&now));
            if may_be_done && was_killed && is_as_before() { Ok(()) } else { Err(error) }
        })
    }

    fn state(&self, world: &World) -> Result<CommandState> {
        Ok(CommandState {
            product: self.product().map(is_there).transpose()?,
            probed: self.inverse.probe.as_ref().map(|probe| probe.state(world)).transpose()?.flatten(),
            ..CommandState::default()
        })
    }

    /// Whether its probe and its product read as before.
    fn is_as_before(&self, now: &CommandState) -> bool {
        let product_gone = now.product == Some(false) && self.before.product == Some(false);
        let probed_before = now.probed.is_some() && now.probed == self.before.probed;
        match (&self.inverse.product, &self.inverse.probe) {
            (Some(_), None) => product_gone,
            (None, Some(_)) => probed_before,
            (Some(_), Some(_)) => product_gone && (probed_before || self.inverse.commands.is_empty()),
            (None, None) => false,
        }
    }

    /// Leaves a product that an older change made as it is: what it was before is not kept.
    fn undo_in_own(&self, now: CommandState, terms: UndoTerms<'_>) -> Option<Undone> {
        if !self.before.own || !self.inverse.commands.is_empty() {
            return None;
        }
        let how = if now.product == Some(false) { Undoing::Already } else { Undoing::InPart };
        let recorded = terms.recorded.filter(|_| terms.recorded_since).and_then(state_of);
        // No command is known to have made it as it is, so the next run makes it again.
        let source = CommandSource { made_from: None, made_by: Some(String::new()) };
        let left = CommandState { left: recorded.and_then(|state| state.left), source, ..now };
        Some(Undone::Back(how, [(self.target(), state_value(&left))].into()))
    }

    /// Keeps a product that was there before and is not kkrun's: what the command changed in it cannot be told apart.
    fn undo_in_what_was_there(&self, world: &World, now: &CommandState) -> Result<Option<Undone>> {
        let Some(product) = self.product() else { return Ok(None) };
        if self.before.product != Some(true) || self.before.own || !self.inverse.commands.is_empty() {
            return Ok(None);
        }
        let found = self.before.left.map(|left| read_listing(world, left)).transpose()?.flatten();
        if found.is_some_and(|found| Listing::observe_beside(product, &found).is_ok_and(|now| now == found)) {
            return Ok(Some(Undone::Back(Undoing::Already, [(self.target(), state_value(now))].into())));
        }
        Ok(Some(Undone::Kept(format!(
            "`{}` was there before `{}` was run: what the command changed in it cannot be undone",
            product.display(),
            self.inverse.label
        ))))
    }
}

impl Kind for CommandChange {
    fn target(&self) -> Target {
        match self.product() {
            Some(product) => Target::product(product),
            None => Target::Command(self.inverse.label.clone()),
        }
    }

    fn whole(&self) -> Option<Target> {
        self.inverse.changes.as_ref().map(|product| Target::product(product.as_path()))
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        // Without its listing, what it made is set aside.
        self.before.left.filter(|_| self.inverse.commands.is_empty()).into_iter().collect()
    }

    fn needs(&self) -> Result<Vec<Target>> {
        let users = self.inverse.commands.iter().filter_map(|command| command.user.clone());
        // What it made as a user belongs to that user.
        let runs_as = self.watch.as_ref().filter(|_| self.inverse.has_undo());
        let runs_as = runs_as.and_then(|watch| watch.runs_as.clone());
        let users: BTreeSet<String> = users.chain(runs_as).collect();
        Ok(users.into_iter().map(Target::User).collect())
    }

    fn removed_by_undo(&self, _world: &World) -> Vec<PathBuf> {
        self.made_product().map(Path::to_owned).into_iter().collect()
    }

    fn undo_takes(&self, world: &World, recorded: Option<&Value>) -> Option<String> {
        let product = self.made_product()?;
        let size = TreeSize::at(product);
        match Product::look_at(product, world, recorded).ok()? {
            Product::Absent => None,
            Product::Known(_) => Some(format!("remove `{}` ({size})", product.display())),
            Product::Unknown => Some(format!(
                "move `{}` ({size}) to `{}`: it may hold what kkrun did not make",
                product.display(),
                aside::directory(world).display()
            )),
        }
    }

    fn left_by_failure(&self, world: &World) -> Result<States> {
        let Some(watch) = &self.watch else { return Ok(BTreeMap::new()) };
        let mut states = BTreeMap::new();
        self.name_removed(world, watch);
        if let Some(left) = self.listed(world, watch)? {
            let product = self.product().map(is_there).transpose()?;
            let state = CommandState { product, left: Some(left), ..CommandState::default() };
            states.insert(self.target(), state_value(&state));
        }
        if let Some(watched) = &watch.changed {
            states.extend(watched.recorded(world, watch.user)?);
        }
        Ok(states)
    }

    fn clear_attempt(&self, world: &World, recorded: Option<&Value>) -> Result<Option<Value>> {
        let Some(product) = self.made_product() else { return Ok(None) };
        if !is_there(product)? {
            return Ok(None);
        }
        let aside = Product::clear_away(product, world, recorded)?.map(PathText::new);
        Ok(Some(state_value(&CommandState { product: Some(false), aside, ..CommandState::default() })))
    }

    fn summary(&self) -> String {
        format!("run {}", self.inverse.label)
    }

    fn class(&self) -> Class {
        if self.inverse.has_undo() { self.inverse.class } else { Class::Irreversible }
    }

    fn may_be_lost(&self) -> bool {
        !self.inverse.has_undo() && self.inverse.changes.is_none()
    }

    /// The next run asks a product alone whether its command is to run again, and that says nothing of what the command
    /// wrote beside it. Where another command is asked, that one decides.
    fn is_made_again(&self) -> bool {
        self.inverse.product.is_some() && self.inverse.probe.is_none()
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn conflict(&self, recorded: &Value, world: &World) -> Option<Modification> {
        let (recorded, watch) = (state_of(recorded)?, self.watch.as_ref()?);
        if let (Some(probe @ Probe::Output { .. }), Some(known)) = (&self.inverse.probe, &recorded.probed)
            && self.before.probed.as_ref() != Some(known)
        {
            return Some(Modification::shown(&probe.difference(world)));
        }
        let product = self.product()?;
        if watch.modified.iter().any(|path| path == Path::new(".")) && watch.found.is_empty() {
            return (!is_volatile(product)).then_some(Modification::Removed);
        }
        let name = |path: &PathBuf| match path.to_str() {
            Some(".") => product.display().to_string(),
            _ => PathText::new(path).to_string(),
        };
        let names: Vec<String> = watch.modified.iter().map(name).collect();
        let (first, others) = names.split_at(names.len().min(MOST_NAMED));
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        if names.is_empty() {
            self.too_much_added(watch).map(|added| Modification::shown(&added))
        } else {
            Some(Modification::shown(&format!("modified or removed: {}{more}", first.join(", "))))
        }
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if let (Some(watch), Some(product)) = (&self.watch, self.product()) {
            keep_before_run(world, &watch.added);
            // The operator agreed to have it overwritten.
            for path in &watch.modified {
                let path = if path == Path::new(".") { product.to_owned() } else { product.join(path) };
                if is_there(&path)? {
                    tree::keep_copy(world, &path)?;
                }
            }
        }
        if let (Some(watch), Some(_)) = (&self.watch, self.before.left) {
            world.backups()?.save(&blob(&watch.found)?)?;
        }
        self.clear_leftover()
    }

    fn repair(&self, _world: &World) -> Result<()> {
        self.clear_leftover()
    }

    fn act(&self, world: &World, payload: Payload<'_>) -> Result<()> {
        let Payload::Command(attempts) = payload else { return Err(missing()) };
        attempts.run(world).map(drop)
    }

    fn position(&self, world: &World) -> Result<Position> {
        self.repair(world)?;
        let now = self.state(world)?;
        if self.before.product == Some(false)
            && now.product == Some(false)
            && self.inverse.commands.is_empty()
        {
            return Ok(Position::Before);
        }
        // A probe that succeeded before the command proves nothing of it.
        let proves = self.before.probed != now.probed;
        if let (Some(Probe::Success { .. }), Some("true"), true) =
            (&self.inverse.probe, now.probed.as_deref(), proves)
        {
            return Ok(Position::After);
        }
        Ok(Position::Neither(format!("`{}` may have been stopped half-way", self.inverse.label)))
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let mut now = self.state(world)?;
        if let (Some(product), Some(false)) = (&self.inverse.product, now.product) {
            anyhow::bail!("`{}` did not make `{product}`", self.inverse.label);
        }
        if let Some(Probe::Success { look }) = &self.inverse.probe
            && now.probed.as_deref() != Some("true")
        {
            anyhow::bail!("after `{}`, `{}` still fails", self.inverse.label, look.label());
        }
        if let (Some(probe @ Probe::Output { .. }), None) = (&self.inverse.probe, &now.probed) {
            probe.failure(world).with_context(|| format!("after `{}`", self.inverse.label))?;
        }
        now.source.clone_from(&self.after.source);
        let mut states = BTreeMap::new();
        if let Some(watch) = &self.watch {
            self.name_removed(world, watch);
            now.left = self.listed(world, watch)?;
            if let Some(watched) = &watch.changed {
                states.extend(watched.recorded(world, watch.user)?);
            }
        }
        states.insert(self.target(), state_value(&now));
        Ok(states)
    }

    fn loss(&self, world: &World, recorded: Option<&Value>) -> Result<Option<Loss>> {
        let Some(product) = self.made_product() else { return Ok(None) };
        let Product::Known(theirs) = Product::look_at(product, world, recorded)? else { return Ok(None) };
        if theirs.is_empty() {
            return Ok(None);
        }
        let shown = product.display();
        let what = if theirs == [product] {
            format!("`{shown}`, which is not what `{}` made", self.inverse.label)
        } else {
            let name = |path: &PathBuf| PathText::new(path.strip_prefix(product).unwrap_or(path)).to_string();
            let others = tree::others(theirs.iter().map(name).collect());
            format!("`{shown}`, made by `{}`, with {others}", self.inverse.label)
        };
        Ok(Some(Loss { class: Class::Data, what }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        if !terms.dry_run {
            self.clear_leftover()?;
        }
        let looked = self.state(world);
        let now = looked.as_ref().cloned().unwrap_or_default();
        // A command or an undo that was stopped half-way may have left more than the probe looks at.
        let is_whole = terms.was_made && !terms.begun && self.inverse.commands.len() < 2;
        let is_product = self.product().is_some() && self.inverse.commands.is_empty();
        if self.is_as_before(&now) && (is_whole || is_product) {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&now))].into()));
        }
        let recorded = terms.recorded.and_then(state_of);
        if let (Some(probe @ Probe::Output { .. }), Some(recorded)) = (&self.inverse.probe, &recorded)
            && recorded.probed.is_some()
            && recorded.probed != now.probed
            // What an undo left that was stopped half-way is unpredictable.
            && !terms.begun
            && !terms.force
        {
            return Ok(Undone::Conflict(match looked {
                Ok(_) => probe.difference(world),
                Err(error) => format!("{error}, and kkrun recorded its output", error = sentence(&error)),
            }));
        }
        if !self.inverse.has_undo() {
            return Ok(Undone::Kept("its script names no undo action".to_owned()));
        }
        if let Some(undone) = self.undo_in_what_was_there(world, &now)? {
            return Ok(undone);
        }
        if let Some(undone) = self.undo_in_own(now, terms) {
            return Ok(undone);
        }
        let recorded = terms.recorded.filter(|_| terms.recorded_since);
        if let Some(product) = self.made_product() {
            mount::refuse_within([files::canonical(product)?])?;
            if !terms.dry_run
                && !terms.agreed
                && let Some(loss) = self.loss(world, recorded)?
            {
                return Ok(Undone::Kept(loss.what));
            }
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        let watched = self.watched(terms)?;
        // Before the command below runs: what it writes into the product is kkrun's, and no one was asked about it.
        let found =
            self.made_product().map(|product| Product::look_at(product, world, recorded)).transpose()?;
        let commands = self.inverse.commands.get(terms.commands_ended..).unwrap_or_default();
        if let Some(command) = commands.first() {
            self.run_undo_command(world, command, terms)?;
        }
        let mut states = BTreeMap::new();
        for watched in &watched {
            states.extend(watched.recorded(world, None)?);
        }
        if commands.len() > 1 {
            return Ok(Undone::InProgress(states));
        }
        let mut aside = None;
        match (self.made_product(), found) {
            (Some(product), Some(Product::Known(theirs))) => {
                keep_small(world, &theirs)?;
                remove(product)?;
            }
            (Some(product), Some(Product::Unknown)) => {
                aside = Product::clear_away(product, world, None)?.map(PathText::new);
            }
            _ => {}
        }
        let mut restored = self.state(world).unwrap_or_default();
        restored.aside = aside;
        if self.before.own {
            // It stays, because an older change made it.
            restored.left = states.get(&self.target()).and_then(state_of).and_then(|state| state.left);
        }
        if let (Some(Probe::Success { look }), Some("true")) =
            (&self.inverse.probe, restored.probed.as_deref())
            && !self.inverse.commands.is_empty()
        {
            anyhow::bail!("after the undo of `{}`, `{}` still holds", self.inverse.label, look.label());
        }
        states.insert(self.target(), state_value(&restored));
        Ok(Undone::Back(Undoing::Restored, states))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::change::testing::{undo, world};

    #[test]
    fn what_is_left_of_a_half_removed_product_goes_and_is_never_taken_for_the_product() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let mut world = world(&path);
        let product = path.join("product");
        let inverse = CommandInverse {
            label: "make".to_owned(),
            product: Some(PathText::new(&*product)),
            changes: None,
            commands: Vec::new(),
            probe: None,
            class: Class::Safe,
        };
        let change = Change::Command(
            CommandChange::about_to_run(&world, inverse, CommandSource::default(), &ProductRecord::default())
                .unwrap(),
        );
        std::fs::create_dir_all(product.join("inner")).unwrap();
        undo(&mut world, &change, None, false);
        assert!(!product.exists());

        let left = path.join(format!(".kkrun-{}", super::super::tag(&product)));
        std::fs::create_dir_all(left.join("inner")).unwrap();
        assert_eq!(change.kind().position(&world).unwrap(), Position::Before);
        assert!(!left.exists());
        std::fs::create_dir_all(left.join("inner")).unwrap();
        let undone = undo(&mut world, &change, None, false);
        assert!(matches!(undone, Undone::Back(Undoing::Already, _)) && !left.exists());
    }
}
