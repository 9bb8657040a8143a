//! Given these files, when kkrun is run with these words, then status, standard output and standard error are
//! those: compared together, so that a failing test shows all of it.
//!
//! `@` in files and in what is compared stands for the scratch directory. In expectations a line `...` stands for
//! any lines, `[..]` for any text within a line.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long something may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A scratch directory that kkrun trusts: scripts in `plan/`, what they set up in `m/`, the journal in `state/`.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

/// The outcome of one run.
pub(crate) struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// With this plan.
    pub(crate) fn new(plan: &str) -> Self {
        Self::empty().with("plan/plan.rhai", plan)
    }

    /// With no plan.
    pub(crate) fn empty() -> Self {
        // Root runs nothing below a directory that others can write.
        let is_root = rustix::process::geteuid().is_root();
        // Both names are as long: what is wrapped on a terminal is the same for both.
        let (prefix, parent) = if is_root { (".tmp", "/var/lib") } else { (".tmpfile", "/tmp") };
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
        let place = Self { directory: directory.unwrap() };
        fs::create_dir(place.path("plan")).unwrap();
        fs::create_dir(place.path("m")).unwrap();
        place
    }

    /// The same with one more file.
    pub(crate) fn with(self, name: &str, text: &str) -> Self {
        self.write(name, text);
        self
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace('@', &self.root())).unwrap();
    }

    /// The same with a built-in script, without its need for root.
    pub(crate) fn with_built_in(self, name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
        let text = fs::read_to_string(path).unwrap().replace("const REQUIRES = #{ root: true };", "");
        self.with(&format!("plan/{name}"), &text)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> String {
        self.directory.path().display().to_string()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap().replace(&self.root(), "@")
    }

    /// Whether there is a file that holds this text by now.
    pub(crate) fn holds(&self, name: &str, text: &str) -> bool {
        fs::read_to_string(self.path(name)).is_ok_and(|content| content.contains(text))
    }

    pub(crate) fn remove(&self, name: &str) {
        let path = self.path(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// Replaces in a file.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "`{from}` is not in {name}:\n{text}");
        self.write(name, &text.replace(from, to));
    }

    /// kkrun with these words, in an environment of its own and without a terminal.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kkrun"));
        command.arg("--state-dir").arg(self.path("state"));
        command.args(words).current_dir(self.path("plan"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("NO_COLOR", "1").env("LANG", "C.UTF-8").env("TZ", "UTC");
        command.stdin(Stdio::null());
        command
    }

    /// Runs kkrun with these words, which are separated by spaces.
    pub(crate) fn run(&self, words: &str) -> Ran {
        self.run_words(&words.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn run_words(&self, words: &[&str]) -> Ran {
        self.ran(&self.command(words).output().unwrap())
    }

    /// Runs these commands of a shell, `@` for the scratch directory, with mounts of their own; `kkrun` is this one, with
    /// the options that every test gives.
    pub(crate) fn run_apart(&self, commands: &str) -> Ran {
        let kkrun = self.command(&[]);
        let mut apart = Command::new("unshare");
        let script = format!(
            "run=(\"$@\"); kkrun() {{ \"${{run[@]}}\" \"$@\"; }}\n{}",
            commands.replace('@', &self.root())
        );
        apart.args(["--mount", "--propagation", "private", "bash", "-euc", &script]);
        apart.arg("bash").arg(kkrun.get_program()).args(kkrun.get_args());
        apart.env_clear().envs(kkrun.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.ran(&apart.current_dir(self.path("plan")).output().unwrap())
    }

    /// Runs kkrun until a file of it grows over so many KiB: the kernel kills it then, in the middle of the write. For
    /// small files that is the journal's, so this is a power cut at any of its bytes.
    pub(crate) fn run_until(&self, kibibytes: u64, words: &str) -> Ran {
        let kkrun = self.command(&words.split_whitespace().collect::<Vec<_>>());
        let mut limited = Command::new("bash");
        limited.args(["-c", &format!("ulimit -c 0 -f {kibibytes} && exec \"$@\""), "bash"]);
        limited.arg(kkrun.get_program()).args(kkrun.get_args());
        limited.env_clear().envs(kkrun.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.current_dir(self.path("plan")).stdin(Stdio::null());
        self.ran(&limited.output().unwrap())
    }

    /// Every path below a directory with its mode, size and content.
    pub(crate) fn listing(&self, name: &str) -> String {
        let script = "find . | sort | while read -r path; do stat -c '%n %A %F' \"$path\"; test -f \"$path\" && cat \"$path\"; done; true";
        let output = Command::new("bash").args(["-c", script]).current_dir(self.path(name)).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Starts kkrun and does not wait.
    pub(crate) fn start(&self, words: &str) -> Started<'_> {
        let mut command = self.command(&words.split_whitespace().collect::<Vec<_>>());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Started { place: self, child }
    }

    pub(crate) fn ran(&self, output: &Output) -> Ran {
        use std::os::unix::process::ExitStatusExt as _;
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).replace(&self.root(), "@");
            // Every test gives it; `commands_in_messages_work_when_they_are_pasted` looks at what is left out here.
            text.replace("`kkrun --state-dir @/state ", "`kkrun ")
        };
        Ran {
            status: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap()),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// The contents in the backups.
    pub(crate) fn backups(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("state/backups")) else { return Vec::new() };
        entries
            .flatten()
            .map(|entry| String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned())
            .collect()
    }

    /// The backup with this content.
    pub(crate) fn backup_of(&self, content: &str) -> PathBuf {
        let mut entries =
            fs::read_dir(self.path("state/backups")).unwrap().flatten().map(|entry| entry.path());
        entries.find(|path| fs::read_to_string(path).is_ok_and(|text| text == content)).unwrap()
    }

    /// The kinds of the journal's records, in order.
    pub(crate) fn records(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("state/journal")).unwrap_or_default();
        // The last record may be incomplete.
        let kind = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line.get(9..)?).ok()?;
            let entry = &record["entry"];
            Some(entry.as_str().or_else(|| entry.as_object()?.keys().next().map(String::as_str))?.to_owned())
        };
        text.lines().map_while(kind).collect()
    }

    /// Cuts the journal behind its newest record of this kind, as a run leaves it that was killed right then.
    pub(crate) fn cut_journal_behind(&self, kind: &str) {
        let path = self.path("state/journal");
        let text = fs::read_to_string(&path).unwrap();
        let at = self.records().iter().rposition(|known| known == kind);
        let kept = at.unwrap_or_else(|| panic!("no record of the kind `{kind}`")) + 1;
        let kept: Vec<&str> = text.split_inclusive('\n').take(kept).collect();
        fs::write(path, kept.concat()).unwrap();
        self.remove("state/journal.end");
    }

    /// Writes a journal with these records, with the checksums that they need, and no mark beside it.
    pub(crate) fn write_journal(&self, lines: &str) {
        let mut previous = "00000000".to_owned();
        let chained = |line: &str| {
            let json = &line[9..];
            let at = json.find("\"prev\":\"").unwrap() + 8;
            let json = format!("{}{previous}{}", &json[..at], &json[at + 8..]);
            previous = format!("{:08x}", kkrun::checksum::crc_32c(json.as_bytes()));
            format!("{previous} {json}\n")
        };
        let text: Vec<String> = lines.lines().map(chained).collect();
        fs::write(self.path("state/journal"), text.concat()).unwrap();
        self.remove("state/journal.end");
    }

    /// Every path below a directory, with the metadata that stays the same when nothing is changed.
    pub(crate) fn prints_of(&self, name: &str) -> Vec<(PathBuf, u64, i64, i64, u32)> {
        let mut found = Vec::new();
        collect(&self.path(name), &mut found);
        found.sort();
        found
    }
}

fn collect(path: &Path, found: &mut Vec<(PathBuf, u64, i64, i64, u32)>) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    found.push((path.to_owned(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.mode()));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    }
}

/// A kkrun that is at work.
pub(crate) struct Started<'place> {
    place: &'place Place,
    pub child: Child,
}

impl Started<'_> {
    /// Waits for its end.
    pub(crate) fn end(self) -> Ran {
        self.place.ran(&self.child.wait_with_output().unwrap())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits until something is true.
#[track_caller]
pub(crate) fn until(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Ran {
    /// Compares status, standard output and standard error together.
    #[track_caller]
    pub(crate) fn shows(self, status: i32, stdout: &str, stderr: &str) -> Self {
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        let expected =
            page(&status.to_string(), stdout.trim_start_matches('\n'), stderr.trim_start_matches('\n'));
        let actual = page(&self.status.to_string(), &self.stdout, &self.stderr);
        snapbox::assert_data_eq!(trimmed(&actual), trimmed(&expected));
        self
    }

    /// Compares the status; shows everything when it is another.
    #[track_caller]
    pub(crate) fn ends(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}", self.page());
        self
    }

    /// Standard error holds this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is not said:\n{}", self.page());
        self
    }

    /// Standard error does not hold this.
    #[track_caller]
    pub(crate) fn never_says(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "`{text}` is said:\n{}", self.page());
        self
    }

    /// Standard output is this.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(self.stdout, text, "{}", self.page());
        self
    }

    /// Standard output as lines of JSON, each as the schema in docs/ says.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json");
            let schema = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            jsonschema::validator_for(&schema).unwrap()
        });
        let line = |line| {
            let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            SCHEMA.validate(&value).unwrap_or_else(|error| panic!("{error}: {line}"));
            value
        };
        self.stdout.lines().map(line).collect()
    }

    pub(crate) fn page(&self) -> String {
        page(&self.status.to_string(), &self.stdout, &self.stderr)
    }
}

fn page(status: &str, stdout: &str, stderr: &str) -> String {
    format!("exit {status}\n--- stdout\n{stdout}--- stderr\n{stderr}")
}
