//! Which line of a key counts where a configuration is read from several files: a line of a file that is included may
//! leave the edited one without effect.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::entry::{EntryKind, FileEntry};
use super::format::{Inclusion, Key};
use super::key::every_line_of;
use super::lines::Lines;
use super::read_together::read_together;
use super::section::Region;
use crate::failure::{Failure, FailureKind};
use crate::machine::files;

/// Reads another file; none if there is none, or its content is not known by then.
type Read<'a> = &'a dyn Fn(&Path) -> Result<Option<Vec<u8>>>;

/// What a line does.
#[derive(Clone, Copy)]
enum Does {
    /// Sets the key.
    Sets,
    /// Includes the files that match its patterns.
    IncludesFiles,
    /// Includes what is in the directory that it names.
    IncludesDirectory,
}

/// A line that sets the key.
struct Setting {
    path: PathBuf,
    /// Counted from one.
    line: usize,
    value: Vec<u8>,
}

/// A file and those it includes, searched for one key.
struct Search<'a> {
    entry: &'a FileEntry,
    inclusion: &'a Inclusion,
    key: Key<'a>,
    /// The edited file, as it will be.
    edited: (&'a Path, &'a [u8]),
    read: Read<'a>,
    /// The files that were searched, without success: no file is searched twice, however they include each other.
    searched: RefCell<BTreeSet<PathBuf>>,
}

/// Refuses a value that would have no effect: what is edited is `edited`, as it will be, and a line of another file, which
/// belongs to the same configuration, counts instead and says something else.
///
/// # Errors
/// Names that line.
pub fn refuse_without_effect(
    entry: &FileEntry,
    value: &[u8],
    edited: (&Path, &[u8]),
    read: Read<'_>,
) -> Result<()> {
    let syntax = entry.format.syntax();
    let (EntryKind::Line { key, separator }, Some(inclusion)) = (&entry.kind, syntax.inclusion()) else {
        return Ok(());
    };
    if syntax.adds_up(key) {
        return Ok(());
    }
    let key = Key { name: key, separator: separator.as_deref() };
    let search = Search { entry, inclusion, key, edited, read, searched: RefCell::default() };
    let Some(setting) = search.counting_of(read_together(&inclusion.together, edited.0))? else {
        return Ok(());
    };
    if setting.path == edited.0 || plain(&setting.value) == plain(value) {
        return Ok(());
    }
    let (shown, other) = (edited.0.display(), setting.path.display());
    let when = if inclusion.first_counts { "before" } else { "after" };
    bail!(
        Failure::new(format!(
            "cannot set {} in `{shown}`: it would have no effect, for line {} of `{other}` sets it to something else and \
             is read {when} it",
            entry.shown(),
            setting.line
        ))
        .kind(FailureKind::Refused)
        .hint(format!("set it in `{other}`, or remove it there with `config::remove` first"))
    )
}

impl Search<'_> {
    /// The line that counts of those in these files, which are read in this order.
    fn counting_of(&self, mut files: Vec<PathBuf>) -> Result<Option<Setting>> {
        if !self.inclusion.first_counts {
            files.reverse();
        }
        for file in files {
            if let Some(setting) = self.counting(&file)? {
                return Ok(Some(setting));
            }
        }
        Ok(None)
    }

    /// The line that counts of those in this file and in what it includes.
    fn counting(&self, path: &Path) -> Result<Option<Setting>> {
        if !self.searched.borrow_mut().insert(path.to_owned()) {
            return Ok(None);
        }
        let (own, text) = self.edited;
        let text = if path == own {
            Cow::Borrowed(text)
        } else {
            match (self.read)(path)? {
                Some(text) => Cow::Owned(text),
                None => return Ok(None),
            }
        };
        let (lines, syntax, shown) =
            (Lines::of(&text), self.entry.format.syntax(), path.display().to_string());
        let region = |section| Region::find(&lines, self.entry.format, section, &shown).ok().flatten();
        let (outside, section) = (region(None), self.entry.section.as_deref());
        let own_section = section.and_then(|section| region(Some(section)));
        // In the edited file the entry says where.
        let is_outside = section.is_none() || self.inclusion.outside_counts && path != own;
        let regions = [outside.as_ref().filter(|_| is_outside), own_section.as_ref()];
        let setting =
            regions.into_iter().flatten().flat_map(|region| every_line_of(syntax, &lines, region, self.key));
        let mut found: Vec<_> = setting.map(|line| (line, Does::Sets)).collect();
        let Inclusion { files, directories, .. } = self.inclusion;
        let directives = files.iter().map(|name| (name, Does::IncludesFiles));
        let directives = directives.chain(directories.iter().map(|name| (name, Does::IncludesDirectory)));
        for (name, does) in directives {
            let key = Key { name, separator: None };
            let including = outside.iter().flat_map(|region| every_line_of(syntax, &lines, region, key));
            found.extend(including.map(|line| (line, does)));
        }
        found.sort_by_key(|(line, _)| line.lines.start);
        if !self.inclusion.first_counts {
            found.reverse();
        }
        for (line, does) in found {
            let body = lines.bodies(&line.lines);
            let value = &body[syntax.value(body, line.value_at)];
            let files = match does {
                Does::Sets => {
                    let line = line.lines.start + 1;
                    return Ok(Some(Setting { path: path.to_owned(), line, value: value.to_vec() }));
                }
                Does::IncludesFiles => self.included(path, value, false),
                Does::IncludesDirectory => self.included(path, value, true),
            };
            if let Some(setting) = self.counting_of(files)? {
                return Ok(Some(setting));
            }
        }
        Ok(None)
    }

    /// The files that a line of `path` includes, in the order in which they are read. The edited one may not be there yet.
    fn included(&self, path: &Path, value: &[u8], is_directory: bool) -> Vec<PathBuf> {
        let beside = path.parent().unwrap_or(Path::new("/"));
        let patterns = words(value).into_iter().map(|word| beside.join(word));
        let patterns = patterns.map(|named| if is_directory { named.join("*.conf") } else { named });
        patterns.flat_map(|pattern| files::matching(&pattern, self.edited.0)).collect()
    }
}

/// The arguments of a line, without the quotes around them.
fn words(value: &[u8]) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in String::from_utf8_lossy(value).chars() {
        match quote {
            Some(sign) if sign == character => quote = None,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if character.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// A value without the quotes around it.
fn plain(value: &[u8]) -> &[u8] {
    let inside = |quote: &[u8]| value.strip_prefix(quote)?.strip_suffix(quote);
    inside(b"'").or_else(|| inside(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::change::edit::{Asked, recognise};

    /// What is said of a value for a key that `edited`, one of these files, has already.
    fn said(files: &[(&str, &str)], edited: &str, key: &str, value: &str) -> String {
        said_of(None, files, edited, key, value)
    }

    /// The same where the edited file is to be made.
    fn said_of_new(files: &[(&str, &str)], edited: &str, text: &str, key: &str, value: &str) -> String {
        of(None, files, (edited, Some(text)), key, value)
    }

    /// The same of a key in a section.
    fn said_of(
        section: Option<&str>,
        files: &[(&str, &str)],
        edited: &str,
        key: &str,
        value: &str,
    ) -> String {
        of(section, files, (edited, None), key, value)
    }

    fn of(
        section: Option<&str>,
        files: &[(&str, &str)],
        (edited, new): (&str, Option<&str>),
        key: &str,
        value: &str,
    ) -> String {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let path = root.join(edited);
        let format = recognise(&Path::new("/etc").join(edited), &[], Asked::default()).unwrap();
        let kind = EntryKind::Line { key: key.to_owned(), separator: None };
        let section = section.map(str::to_owned);
        let entry = FileEntry { section, comment: "#".to_owned(), format, kind };
        let text = new.map_or_else(|| fs::read(&path).unwrap(), |text| text.as_bytes().to_vec());
        let read = |path: &Path| Ok(fs::read(path).ok());
        match refuse_without_effect(&entry, value.as_bytes(), (&path, &text), &read) {
            Ok(()) => "it has effect".to_owned(),
            Err(error) => error.to_string().replace(&format!("{}/", root.display()), ""),
        }
    }

    const WITH_EFFECT: &str = "it has effect";

    #[test]
    fn what_sshd_reads_before_the_line_counts() {
        let main =
            ("ssh/sshd_config", "Include ssh.d/none sshd_config.d/*.conf\nPort 22\nX11Forwarding no\n");
        let cloud = ("ssh/sshd_config.d/50-cloud.conf", "# its own\nx11forwarding yes\nMatch all\nPort 23\n");
        assert_eq!(
            said(&[main, cloud], "ssh/sshd_config", "X11Forwarding", "no"),
            "cannot set X11Forwarding in `ssh/sshd_config`: it would have no effect, for line 2 of \
             `ssh/sshd_config.d/50-cloud.conf` sets it to something else and is read before it"
        );
        assert_eq!(said(&[main, cloud], "ssh/sshd_config", "X11Forwarding", "yes"), WITH_EFFECT);
        // In a block, and of a key that adds up.
        assert_eq!(said(&[main, cloud], "ssh/sshd_config", "Port", "22"), WITH_EFFECT);
        let below = ("ssh/sshd_config", "X11Forwarding no\nInclude sshd_config.d/*.conf\n");
        assert_eq!(said(&[below, cloud], "ssh/sshd_config", "X11Forwarding", "no"), WITH_EFFECT);
    }

    /// A `Match` of the server overrides what is outside of it; for the client the first line counts, wherever it is.
    #[test]
    fn what_is_outside_of_a_section_counts_in_it_for_the_client_alone() {
        let of = |section, name: &str, line: &str| {
            let (main, other) = (format!("ssh/{name}"), format!("ssh/{name}.d/a.conf"));
            let text = format!("Include {name}.d/*.conf\n{section}\n    LogLevel QUIET\n");
            said_of(Some(section), &[(&main, &text), (&other, line)], &main, "LogLevel", "QUIET")
        };
        assert_eq!(of("Match User kim", "sshd_config", "LogLevel INFO\n"), WITH_EFFECT);
        let refused = of("Match User kim", "sshd_config", "Match User kim\nLogLevel INFO\n");
        assert!(refused.contains("line 2 of `ssh/sshd_config.d/a.conf`"), "{refused}");
        let refused = of("Host git", "ssh_config", "LogLevel INFO\n");
        assert!(refused.contains("line 1 of `ssh/ssh_config.d/a.conf`"), "{refused}");
    }

    #[test]
    fn a_drop_in_counts_unless_one_before_it_or_the_file_itself_does() {
        let (first, second) =
            (("ssh/sshd_config.d/10-a.conf", "UseDNS yes\n"), ("ssh/sshd_config.d/20-b.conf", "UseDNS no\n"));
        let main = ("ssh/sshd_config", "Include sshd_config.d/*.conf\nUseDNS no\n");
        assert_eq!(said(&[main, first, second], first.0, "UseDNS", "yes"), WITH_EFFECT);
        let refused = said(&[main, first, second], second.0, "UseDNS", "no");
        assert!(refused.contains("line 1 of `ssh/sshd_config.d/10-a.conf`"), "{refused}");
        let main = ("ssh/sshd_config", "UseDNS no\nInclude sshd_config.d/*.conf\n");
        let refused = said(&[main, first], first.0, "UseDNS", "yes");
        assert!(refused.contains("line 1 of `ssh/sshd_config`"), "{refused}");
        assert_eq!(
            said(&[first], first.0, "UseDNS", "yes"),
            WITH_EFFECT,
            "there is no file that includes it"
        );
    }

    #[test]
    fn a_drop_in_that_is_to_be_made_counts_where_its_name_puts_it() {
        let main = ("ssh/sshd_config", "Include sshd_config.d/*.conf\n");
        let cloud = ("ssh/sshd_config.d/50-cloud.conf", "UseDNS yes\n");
        let new = |name, text| said_of_new(&[main, cloud], name, text, "UseDNS", "no");
        assert_eq!(new("ssh/sshd_config.d/10-own.conf", "UseDNS no\n"), WITH_EFFECT);
        let refused = new("ssh/sshd_config.d/60-own.conf", "UseDNS no\n");
        assert!(refused.contains("line 1 of `ssh/sshd_config.d/50-cloud.conf`"), "{refused}");
    }

    #[test]
    fn what_systemd_reads_after_the_line_counts() {
        let journal = Some("Journal");
        let main = ("systemd/journald.conf", "[Journal]\n#SystemMaxUse=\nSystemMaxUse=1G\n");
        let drop_in = ("systemd/journald.conf.d/50.conf", "[Journal]\nSystemMaxUse=2G\n");
        let refused = said_of(journal, &[main, drop_in], main.0, "SystemMaxUse", "1G");
        assert!(refused.contains("line 2 of `systemd/journald.conf.d/50.conf` sets it"), "{refused}");
        assert_eq!(said_of(journal, &[main, drop_in], drop_in.0, "SystemMaxUse", "2G"), WITH_EFFECT);
        let reset = ("systemd/journald.conf.d/60.conf", "[Journal]\nSystemMaxUse=\n");
        let refused = said_of(journal, &[main, drop_in, reset], drop_in.0, "SystemMaxUse", "2G");
        assert!(refused.contains("line 2 of `systemd/journald.conf.d/60.conf`"), "{refused}");
        // What adds up.
        let (main, drop_in) = (
            ("systemd/resolved.conf", "[Resolve]\nDNS=1.1.1.1\n"),
            ("systemd/resolved.conf.d/a.conf", "[Resolve]\nDNS=9.9.9.9\n"),
        );
        assert_eq!(said_of(Some("Resolve"), &[main, drop_in], main.0, "DNS", "1.1.1.1"), WITH_EFFECT);
        // A unit's own: which of its keys add up is not known.
        let (main, drop_in) = (
            ("systemd/system/a.service", "[Service]\nUser=a\n"),
            ("systemd/system/a.service.d/a.conf", "[Service]\nUser=b\n"),
        );
        assert_eq!(said_of(Some("Service"), &[main, drop_in], main.0, "User", "a"), WITH_EFFECT);
    }

    #[test]
    fn the_last_fragment_of_sysctl_counts() {
        let (first, last) =
            (("sysctl.d/10.conf", "vm.swappiness = 1\n"), ("sysctl.d/90.conf", "vm/swappiness=5\n"));
        let refused = said(&[first, last], first.0, "vm.swappiness", "1");
        assert!(refused.contains("line 1 of `sysctl.d/90.conf` sets it to something else"), "{refused}");
        assert_eq!(said(&[first, last], last.0, "vm.swappiness", "5"), WITH_EFFECT);
    }

    #[test]
    fn what_postgresql_reads_after_the_line_counts() {
        let directory = "postgresql/15/main";
        let path = |name: &str| format!("{directory}/{name}");
        let (main, late) = (path("postgresql.conf"), path("conf.d/late.conf"));
        let text = "max_connections = 20\ninclude_dir = 'conf.d'\n";
        let refused =
            said(&[(&main, text), (&late, "max_connections 30 # more\n")], &main, "max_connections", "20");
        assert!(refused.contains("late.conf` sets it to something else and is read after it"), "{refused}");
        let early = path("conf.d/early.conf");
        let both = [(&*main, text), (&early, "max_connections = 20\n"), (&late, "max_connections = 30\n")];
        let refused = said(&both, &main, "max_connections", "20");
        assert!(refused.contains("late.conf` sets it to something else"), "{refused}");
        let same = [(&*main, text), (&late, "max_connections = '20'\n")];
        assert_eq!(said(&same, &main, "max_connections", "20"), WITH_EFFECT);
        let above =
            [(&*main, "include_dir 'conf.d'\nmax_connections = 20\n"), (&late, "max_connections = 30\n")];
        assert_eq!(said(&above, &main, "max_connections", "20"), WITH_EFFECT);
        let refused = said(&above, &late, "max_connections", "30");
        assert!(refused.contains("line 2 of `postgresql/15/main/postgresql.conf`"), "{refused}");
    }

    #[test]
    fn files_that_include_each_other_are_followed_to_an_end() {
        let files = [
            ("ssh/sshd_config", "Include sshd_config.d/*.conf\nUseDNS no\n"),
            ("ssh/sshd_config.d/a.conf", "Include a.conf \"b.conf\" c.conf\n"),
            ("ssh/sshd_config.d/b.conf", "Include a.conf b.conf c.conf\n"),
            ("ssh/sshd_config.d/c.conf", "Include a.conf b.conf c.conf\n"),
        ];
        assert_eq!(said(&files, "ssh/sshd_config", "UseDNS", "no"), WITH_EFFECT);
    }
}
