//! The secrets that outlive a run, each in a file below the state directory, and the sources of others.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::account::Account;
use super::files::{self, Attributes, Contents, FileState};
use super::state_key::{self, StateKey};
use super::trusted;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::redaction::{Redactor, Remembered};

/// The tag of what is being stored.
const PREPARED: &str = "secret";

/// What is remembered, beside the directory of secrets, of every secret that was ever given: see [`Remembered`]. A line of
/// JSON each.
const REMEMBERED: &str = "remembered";

/// The directory of secrets: 0700, its files 0600.
#[derive(Clone, Debug)]
pub struct SecretStore {
    state: PathBuf,
    directory: PathBuf,
}

impl SecretStore {
    /// The store below the state directory `state`. Nothing is created until a secret is stored.
    pub fn below(state: &Path) -> Self {
        Self { state: state.to_owned(), directory: state.join("secrets") }
    }

    /// The stored secret of this name.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>> {
        let path = self.directory.join(name);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        text_of(&bytes).with_context(|| format!("cannot read the secret `{}`", path.display())).map(Some)
    }

    /// Stores a secret durably, replacing an earlier one of the same name.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .with_context(|| format!("cannot create `{}`", self.directory.display()))?;
        put(&self.directory.join(name), text.as_bytes())
    }

    /// What is remembered of the secrets that were ever given.
    pub fn remembered(&self) -> Result<Vec<Remembered>> {
        let path = self.state.join(REMEMBERED);
        let Some(bytes) = read_if_there(&path)? else { return Ok(Vec::new()) };
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let read = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
        read.with_context(|| format!("cannot read `{}`", path.display()))
    }

    /// Remembers a secret that a plan was given, by keyed hashes, so that later runs find it in what they show, whatever
    /// became of its value. `begin` takes the lock.
    pub fn remember(
        &self,
        plan: &str,
        name: &str,
        text: &str,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Some(key) = state_key::own() else { return Ok(()) };
        let new = Remembered::of(plan, name, text, &|parts| key.hash(parts));
        if self.remembered()?.contains(&new) {
            return Ok(());
        }
        begin()?;
        state_key::keep(&self.state)?;
        let mut all = self.remembered()?;
        all.push(new);
        self.put_remembered(&all)
    }

    fn put_remembered(&self, all: &[Remembered]) -> Result<()> {
        let mut lines = Vec::new();
        for one in all {
            serde_json::to_writer(&mut lines, one).context("cannot write what is remembered as JSON")?;
            lines.push(b'\n');
        }
        put(&self.state.join(REMEMBERED), &lines)
    }

    /// Teaches what is known here: the stored secrets, and what is remembered of all others.
    pub fn teach(&self, redactor: &mut Redactor) -> Result<()> {
        // Scripts that are only checked have no state.
        if self.state.as_os_str().is_empty() {
            return Ok(());
        }
        for (name, text) in self.all()? {
            redactor.learn(&name, &text);
        }
        let remembered = self.remembered()?;
        if !remembered.is_empty()
            && let Some(key) = StateKey::read(&self.state)?
        {
            redactor.recall(&remembered, Box::new(move |parts| key.hash(parts)));
        }
        Ok(())
    }

    /// The names of all that is stored.
    pub fn names(&self) -> Result<Vec<String>> {
        let named = || format!("cannot read `{}`", self.directory.display());
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(named),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.with_context(named)?.file_name();
            found.extend(name.to_str().filter(|name| is_name(name)).map(str::to_owned));
        }
        Ok(found)
    }

    /// All that is stored.
    pub fn all(&self) -> Result<Vec<(String, Zeroizing<String>)>> {
        let mut all = Vec::new();
        for name in self.names()? {
            if let Some(text) = self.read(&name)? {
                all.push((name, text));
            }
        }
        Ok(all)
    }

    /// Removes a stored secret durably; one that is not there is removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            removed => removed.and_then(|()| std::fs::File::open(&self.directory)?.sync_all()),
        };
        removed.with_context(|| format!("cannot remove the secret `{}`", path.display()))
    }

    /// A keyed hash of a secret: only with this machine's key can two be compared.
    ///
    /// # Errors
    /// When no key was taken: unkeyed, it could be guessed from.
    pub fn hash(name: &str, text: &str) -> Result<String> {
        let key = state_key::own().context("internal error: no key was taken")?;
        Ok(hex::encode(key.hash(&[name.as_bytes(), &[0], text.as_bytes()])))
    }

    /// Removes what a run that was killed had begun to store. The caller holds the lock.
    pub fn clear_unfinished(&self) -> Result<()> {
        files::clear_leftover(&self.directory.join("any"), PREPARED)?;
        files::clear_leftover(&self.state.join(REMEMBERED), PREPARED)
    }
}

/// Writes a file of mode 0600 durably.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let path = files::canonical(path)?;
    let found = FileState::observe(&path)?;
    let (owner, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let attributes = Attributes::new(0o600, owner, group);
    files::replace(&path, Contents::Bytes(bytes), &attributes, &found, PREPARED).map(drop)
}

/// Whether a secret may have this name: lower-case letters, digits and underscores, a letter first.
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// All that the environment hands over, by name; what is no text is left to [`from_environment`].
pub fn all_from_environment() -> BTreeMap<String, Zeroizing<String>> {
    let start = variable("");
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.to_str()?.strip_prefix(&start)?.to_ascii_lowercase();
        Some((name, Zeroizing::new(value.into_string().ok()?)))
    });
    variables.collect()
}

/// The variable that hands over the secret of this name.
pub fn variable(name: &str) -> String {
    format!("KKRUN_SECRET_{}", name.to_ascii_uppercase())
}

/// The secret that the environment hands over.
pub fn from_environment(name: &str) -> Result<Option<Zeroizing<String>>> {
    let variable = variable(name);
    let Some(value) = std::env::var_os(&variable) else { return Ok(None) };
    match value.into_string() {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(_) => bail!("the variable `{variable}` is not UTF-8"),
    }
}

/// The secret that systemd hands over, without a line end behind it.
/// Source: systemd.exec(5), "Credentials".
pub fn from_credentials(name: &str) -> Result<Option<Zeroizing<String>>> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    let path = Path::new(&directory).join(name);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let mut text =
        text_of(&bytes).with_context(|| format!("cannot read the credential `{}`", path.display()))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(Some(text))
}

/// Reads a file of `KEY=VALUE` lines; empty ones and those that begin with `#` are skipped. A value is everything after
/// the first `=`, unchanged.
///
/// # Errors
/// With [`ExitCode::REFUSED`] and the command that corrects it when others could read or write the file, with
/// [`ExitCode::USAGE`] when a line is invalid. No message holds a value.
pub fn from_file(path: &Path) -> Result<BTreeMap<String, Zeroizing<String>>> {
    let named = || format!("cannot read the secrets file `{}`", path.display());
    let (_, mut file) = trusted::open(path).map_err(|error| match error.downcast_ref::<Failure>() {
        Some(_) => error,
        None => Failure::new(format!("{}: {}", named(), error.root_cause()))
            .exit(ExitCode::USAGE)
            .kind(FailureKind::Missing)
            .into(),
    })?;
    let metadata = file.metadata().with_context(named)?;
    if !metadata.is_file() {
        bail!(Failure::new(format!("`{}` is not a regular file", path.display())).exit(ExitCode::USAGE));
    }
    judge(path, metadata.uid(), metadata.mode())?;
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).with_context(named)?;
    from_lines(&format!("`{}`", path.display()), &text)
}

/// Reads the same lines from standard input, up to its end: what another program hands over needs no file.
///
/// # Errors
/// With [`ExitCode::USAGE`] when a line is invalid, or when standard input is a terminal or cannot be read. No message
/// holds a value.
pub fn from_standard_input() -> Result<BTreeMap<String, Zeroizing<String>>> {
    if std::io::stdin().is_terminal() {
        bail!(
            Failure::new(
                "cannot read secrets from standard input: it is a terminal, which shows what is typed"
            )
            .exit(ExitCode::USAGE)
            .hint("hand them over with a pipe")
            .hint("or leave out `--secrets -`: kkrun asks for each secret, and shows nothing of it")
        );
    }
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().read_to_string(&mut text).map_err(|error| {
        Failure::new(format!("cannot read secrets from standard input: {error}")).exit(ExitCode::USAGE)
    })?;
    from_lines("standard input", &text)
}

/// Reads secrets from a text that messages call `shown`.
fn from_lines(shown: &str, text: &str) -> Result<BTreeMap<String, Zeroizing<String>>> {
    let mut secrets = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong =
            |why: &str| Failure::new(format!("{shown}, line {}: {why}", at + 1)).exit(ExitCode::USAGE);
        let Some((name, value)) = line.split_once('=') else {
            bail!(wrong("expected NAME=VALUE, found no `=`"))
        };
        if !is_name(name) {
            bail!(wrong("invalid name of a secret before `=`").hint("write one secret a line, such as db_password=VALUE: a name has lower-case letters, digits and underscores"));
        }
        if secrets.insert(name.to_owned(), Zeroizing::new(value.to_owned())).is_some() {
            bail!(wrong(&format!("duplicate secret `{name}`")));
        }
    }
    Ok(secrets)
}

fn judge(path: &Path, owner: u32, mode: u32) -> Result<()> {
    let shown = shell_words::quote(&path.display().to_string()).into_owned();
    let is_ours = owner == rustix::process::geteuid().as_raw()
        || owner == 0
        || Account::sudo_caller()?.is_some_and(|caller| caller.uid == owner);
    let (why, command) = if !is_ours {
        ("belongs to another user", format!("chown root {shown}"))
    } else if mode & 0o077 != 0 {
        ("can be read by others", format!("chmod 600 {shown}"))
    } else {
        return Ok(());
    };
    bail!(
        Failure::new(format!("refused: the secrets file `{}` {why}", path.display()))
            .exit(ExitCode::REFUSED)
            .kind(FailureKind::Refused)
            .hint(format!("run `{command}`, and change the secrets if others may have read them"))
    )
}

fn read_if_there(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

fn text_of(bytes: &[u8]) -> Result<Zeroizing<String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| anyhow::anyhow!("it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store() -> (tempfile::TempDir, SecretStore) {
        let state = tempfile::tempdir().unwrap();
        let store = SecretStore::below(state.path());
        (state, store)
    }

    fn secrets_file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        // Root trusts nothing below a directory that others can write to.
        let is_root = rustix::process::geteuid().is_root();
        let directory = if is_root { tempfile::tempdir_in("/var/lib") } else { tempfile::tempdir() };
        let directory = directory.unwrap();
        let path = directory.path().join("secrets");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn what_was_stored_is_read_again_by_its_owner_alone() {
        let (_state, store) = store();
        assert_eq!(store.read("db_password").unwrap(), None);
        store.write("db_password", "first").unwrap();
        store.write("db_password", "p@ss \"word\"\n").unwrap();
        assert_eq!(&**store.read("db_password").unwrap().unwrap(), "p@ss \"word\"\n");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&store.directory), 0o700);
        assert_eq!(mode(&store.directory.join("db_password")), 0o600);
        assert_eq!(store.all().unwrap().len(), 1);
    }

    #[test]
    fn what_a_killed_run_had_begun_to_store_is_cleared() {
        let (_state, store) = store();
        store.clear_unfinished().unwrap();
        store.write("db_password", "first").unwrap();
        let prepared = store.directory.join(".kkrun-secret");
        std::fs::write(&prepared, "half").unwrap();
        store.clear_unfinished().unwrap();
        assert!(!prepared.exists() && store.read("db_password").unwrap().is_some());
    }

    #[test]
    fn a_secrets_file_holds_values_as_they_stand() {
        let (_directory, path) = secrets_file("# mine\n\na=b=c #d\ndb_password= \"x\" \r\n", 0o600);
        let secrets = from_file(&path).unwrap();
        assert_eq!(&*secrets["a"], "b=c #d");
        assert_eq!(&*secrets["db_password"], " \"x\" ");
    }

    #[test]
    fn a_secrets_file_that_others_can_read_is_refused_with_the_command_that_corrects_it() {
        for mode in [0o644, 0o640, 0o602] {
            let (_directory, path) = secrets_file("a=b\n", mode);
            let error = from_file(&path).unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.exit, ExitCode::REFUSED);
            assert!(failure.hints[0].contains("chmod 600"), "{:?}", failure.hints);
        }
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_not_shown() {
        for (text, line) in [("a=1\nhunter2hunter2\n", 2), ("a=1\na=2\n", 2), ("A B=hunter2\n", 1)] {
            let (_directory, path) = secrets_file(text, 0o600);
            let error = from_file(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")) && !error.contains("hunter2"), "{error}");
        }
    }
}
