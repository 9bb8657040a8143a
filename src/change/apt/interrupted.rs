//! What a dpkg left that was interrupted: completed, kept, installed again, or forgotten.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{Apt, failure, install};
use crate::change::installed::Installed;
use crate::change::unit::succeeded;
use crate::failure::{FailureKind, sentence};
use crate::machine::debconf_files::complete_saves;
use crate::machine::package_locks;
use crate::machine::process::Stdin;

/// Where dpkg notes what is not yet in its list. Source: dpkg's "Format of the status database".
const UPDATES: &str = "/var/lib/dpkg/updates";
/// Where dpkg keeps the scripts of packages. Source: dpkg(1), "FILES".
const INFORMATION: &str = "/var/lib/dpkg/info";

impl Apt<'_> {
    /// Completes what an interrupted dpkg left, if it left anything.
    pub(crate) fn repair(self) -> Result<bool> {
        if has_unmerged_records()? {
            // A dpkg that is at work has them too.
            self.wait_for_locks()?;
        }
        if !self.was_interrupted()? {
            return Ok(false);
        }
        self.world.reporter.note("dpkg was interrupted: configuring what it left");
        self.wait_for_locks()?;
        // A package's script may have been killed while debconf saved.
        complete_saves()?;
        let label = "dpkg --configure -a";
        let argv = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"];
        let ended = self.world.run(&self.command(&argv, true), label)?;
        if has_unmerged_records()? {
            bail!(failure(&ended, label, FailureKind::Packages));
        }
        Ok(true)
    }

    /// Keeps those of these packages that dpkg was going to remove when it was interrupted.
    pub(crate) fn keep(self, names: &[&str]) -> Result<()> {
        let known = Installed::look(self.world)?;
        let going: Vec<&str> = names.iter().copied().filter(|name| known.is_going(name)).collect();
        self.select(&going, "install")
    }

    /// Sets dpkg's selection of these packages.
    fn select(self, names: &[&str], selection: &str) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        self.wait_for_locks()?;
        let label = "dpkg --set-selections";
        let mut command = self.command(&["dpkg", "--set-selections"], true);
        let selections = names.iter().fold(String::new(), |text, name| text + *name + " " + selection + "\n");
        command.stdin = Stdin::Bytes(selections.into_bytes().into());
        let ended = self.world.run(&command, label)?;
        succeeded(&ended, label)
    }

    /// Repairs packages that were left in part: what dpkg could not configure for lack of others gets those, and what
    /// neither works nor can be configured is installed again. Nothing is removed.
    pub(crate) fn complete(self) -> Result<()> {
        if !self.repair()? {
            return Ok(());
        }
        if Installed::look(self.world)?.has_unfinished() {
            // What this cannot do either is reported by the next use of apt.
            self.run_patiently(&install(&[], false, &[]), true)?;
        }
        let known = Installed::look(self.world)?;
        self.reinstall(&known.half_installed().collect::<Vec<_>>())
    }

    fn reinstall(self, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let automatic = self.automatic(names)?;
        let label = format!("apt-get install --reinstall {}", names.join(" "));
        let ended = self.run_patiently(&install(names, false, &["--reinstall"]), true)?;
        if !ended.is_success() {
            bail!(failure(&ended, &label, FailureKind::Packages));
        }
        let automatic: Vec<&str> = automatic.iter().map(String::as_str).collect();
        self.mark("auto", &automatic)
    }

    /// Installs those of these packages again that were interrupted while they were unpacked: dpkg then knows their
    /// files, and removes them with the packages. Where a package is not available, a note says that files may stay,
    /// and [`Apt::remove_without_apt`] removes it.
    pub(crate) fn complete_to_remove(self, names: &[&str]) -> Result<()> {
        let known = Installed::look(self.world)?;
        let is_own = |broken: &&str| names.iter().any(|name| known.named(name) == *broken);
        let broken: Vec<&str> = known.broken().filter(is_own).collect();
        if broken.is_empty() {
            return Ok(());
        }
        let shown = broken.join(", ");
        if let Err(error) = self.reinstall(&broken) {
            self.world.processes.check_interruption()?;
            self.world.reporter.note(format!(
                "cannot install {shown} again, which was interrupted while it was unpacked: some of its files may stay \
                 ({error})", error = sentence(&error)));
        }
        Ok(())
    }

    /// Unpacks these archives by dpkg. For when apt does nothing because a package that was interrupted while it was
    /// unpacked is no longer available.
    pub(crate) fn unpack(self, archives: &[&str]) -> Result<()> {
        self.wait_for_locks()?;
        let argv: Vec<&str> = ["dpkg", "--force-confdef", "--force-confold", "--unpack"]
            .iter()
            .chain(archives)
            .copied()
            .collect();
        let label = format!("dpkg --unpack {}", archives.join(" "));
        let ended = self.world.run(&self.command(&argv, true), &label)?;
        if !ended.is_success() {
            bail!(failure(&ended, &label, FailureKind::Packages));
        }
        Ok(())
    }

    /// Removes exactly these by dpkg, which refuses when others need them. For when apt does nothing because a
    /// package that was interrupted while it was unpacked is no longer available.
    pub(crate) fn remove_without_apt(self, names: &[&str]) -> Result<()> {
        self.wait_for_locks()?;
        let argv: Vec<&str> =
            ["dpkg", "--force-remove-reinstreq", "--remove"].iter().chain(names).copied().collect();
        let label = format!("dpkg --remove {}", names.join(" "));
        let ended = self.world.run(&self.command(&argv, true), &label)?;
        if !ended.is_success() {
            bail!(failure(&ended, &label, FailureKind::Packages));
        }
        Ok(())
    }

    /// Lets dpkg forget those of these packages of which nothing is there but its own notes, as it does when neither an
    /// installation nor a removal is interrupted.
    pub(crate) fn forget(self, names: &[&str]) -> Result<()> {
        self.forget_desired(names)?;
        self.forget_removals(names)
    }

    /// Lets dpkg forget that those of these packages are to be installed of which nothing is there.
    pub(crate) fn forget_desired(self, names: &[&str]) -> Result<()> {
        let known = Installed::look(self.world)?;
        let names: Vec<&str> = names.iter().copied().filter(|name| !known.is_there(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let fixed = ["dpkg-query", "--show", "--showformat=${db:Status-Want}\t${binary:Package}\n"];
        let argv: Vec<&str> = fixed.into_iter().chain(names).collect();
        // It fails when it knows nothing of one of them.
        let ended = self.world.look(&self.command(&argv, false))?;
        let listing = ended.stdout.text();
        let desired: Vec<&str> = listing.lines().filter_map(|line| line.strip_prefix("install\t")).collect();
        self.select(&desired, "unknown")
    }

    fn forget_removals(self, names: &[&str]) -> Result<()> {
        let known = Installed::look(self.world)?;
        let removed: Vec<&str> = names.iter().copied().filter(|name| known.is_removed(name)).collect();
        if removed.is_empty() {
            return Ok(());
        }
        let fixed = ["dpkg-query", "--show", "--showformat=${binary:Package}\t${Conffiles}\n"];
        let argv: Vec<&str> = fixed.into_iter().chain(removed).collect();
        let ended = self.world.look(&self.command(&argv, false))?;
        succeeded(&ended, "dpkg-query --show")?;
        let listing = ended.stdout.text();
        let exists = |name: &str| Path::new(INFORMATION).join(format!("{name}.postrm")).exists();
        // The files of most packages go by the name without the architecture.
        let has_script = |name: &str| exists(name) || name.split(':').next().is_some_and(exists);
        let left: Vec<&str> = without_configuration(&listing).filter(|name| !has_script(name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        self.wait_for_locks()?;
        let argv: Vec<&str> = ["dpkg", "--purge"].into_iter().chain(left).collect();
        let ended = self.world.run(&self.command(&argv, true), &argv.join(" "))?;
        succeeded(&ended, "dpkg --purge")
    }

    fn was_interrupted(self) -> Result<bool> {
        Ok(has_unmerged_records()? || Installed::look(self.world)?.has_unfinished())
    }
}

/// Whether a dpkg that no longer runs did not complete what it began.
pub(crate) fn is_dpkg_interrupted() -> Result<bool> {
    Ok(has_unmerged_records()? && package_locks::holder()?.is_none())
}

/// The packages of a listing that have no configuration files: those would follow on the line.
fn without_configuration(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| line.strip_suffix('\t'))
}

/// Whether dpkg has noted what is not yet in its list: it does so while it works.
fn has_unmerged_records() -> Result<bool> {
    let named = || format!("cannot read `{UPDATES}`");
    match std::fs::read_dir(UPDATES) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.with_context(named)?.file_name();
                // What dpkg takes for its own. Source: dpkg's parsing of that directory.
                if name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_without_configuration_files_are_told_from_those_with() {
        let listing = "adduser\t /etc/adduser.conf cc34\n /etc/deluser.conf 11a0\ncurl\t\nlibc6:amd64\t\n";
        assert_eq!(without_configuration(listing).collect::<Vec<_>>(), ["curl", "libc6:amd64"]);
    }
}
