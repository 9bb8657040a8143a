//! Where a script and everything that belongs to it come from: one directory, or the binary.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use include_dir::{Dir, include_dir};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::machine::files::{Content, Digest, digest_known, read_open};
use crate::machine::trusted;
use crate::text::nearest;

/// How the names of standard library modules begin.
pub const LIBRARY: &str = "std/";

/// Where operators put scripts that are found by their bare name.
const INSTALLED: &str = "/etc/kkrun/scripts";

static SCRIPTS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/scripts");
static STDLIB: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/stdlib");

/// The scripts that are built into the binary.
pub fn built_in() -> [(&'static str, &'static Dir<'static>); 2] {
    [("scripts", &SCRIPTS), ("stdlib", &STDLIB)]
}

/// A script's text and the name that errors call it by.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name for people: the path as given, or `built in: …`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The one root that a plan's scripts, imports, settings and files come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory on disk.
    Directory {
        /// The directory, as it is to be named.
        shown: PathBuf,
        /// The directory, absolute.
        root: PathBuf,
    },
    /// The binary.
    BuiltIn,
}

/// A file of the plan.
pub enum PlanFile {
    /// A file.
    File(PlanContent),
    /// A directory: the files in it by their paths from it, sorted.
    Tree(Vec<(PathBuf, PlanContent)>),
}

/// The content of a file of the plan. It is read only when needed, because it may be more than fits into
/// memory.
pub struct PlanContent {
    digest: Digest,
    size: u64,
    place: Place,
}

enum Place {
    Binary(&'static [u8]),
    Disk(PathBuf),
}

impl PlanContent {
    fn embedded(bytes: &'static [u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64, place: Place::Binary(bytes) }
    }

    fn on_disk(path: &Path) -> Result<Self> {
        let (digest, size) = digest_known(&trusted::file(path)?, path)?;
        Ok(Self { digest, size, place: Place::Disk(path.to_owned()) })
    }

    /// The digest of it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How long it is, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens it. Whether the file is trusted is checked again; a caller that copies it compares the digest.
    ///
    /// # Errors
    /// When it cannot be read, or when users other than root could have written it by now.
    pub fn open(&self) -> Result<Content<'static>> {
        Ok(match &self.place {
            Place::Binary(bytes) => Content::Bytes(Cow::Borrowed(bytes)),
            Place::Disk(path) => Content::File(trusted::file(path)?),
        })
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`PlanContent::open`]; and when it is too large for a text, or was changed since it was hashed.
    pub fn read(&self) -> Result<Cow<'static, [u8]>> {
        let path = match &self.place {
            Place::Binary(bytes) => return Ok(Cow::Borrowed(bytes)),
            Place::Disk(path) => path,
        };
        let (bytes, digest) = read_open(&trusted::file(path)?, path)?;
        if digest != self.digest {
            bail!(
                Failure::new(format!("`{}` was modified while it was read", path.display()))
                    .kind(FailureKind::Conflict)
            );
        }
        Ok(Cow::Owned(bytes))
    }
}

impl PlanFile {
    /// A hash over the names and bytes.
    pub fn hash(&self) -> String {
        match self {
            Self::File(content) => content.digest.to_string(),
            Self::Tree(files) => {
                let listed =
                    files.iter().map(|(path, content)| format!("{} {}\n", content.digest, path.display()));
                Digest::of(listed.collect::<String>().as_bytes()).to_string()
            }
        }
    }
}

impl Source {
    /// Finds a script by what the operator typed: a path, or a bare name that is looked for in the working
    /// directory, in /etc/kkrun/scripts and in the binary. Returns its root and its name there.
    ///
    /// # Errors
    /// With [`ExitCode::USAGE`] when it is not found.
    pub fn find(typed: &Path) -> Result<(Self, String)> {
        let given = Self::of_path(typed)?;
        if let Some(found) = given {
            return Ok(found);
        }
        let bare = typed.components().count() == 1 && typed.file_name().is_some();
        if bare {
            if let Some(found) = Self::of_path(&Path::new(INSTALLED).join(typed))? {
                return Ok(found);
            }
            if let Some(name) = typed.to_str()
                && SCRIPTS.get_file(name).is_some()
            {
                return Ok((Self::BuiltIn, name.to_owned()));
            }
        }
        let mut failure =
            Failure::new(format!("script `{}` not found", typed.display())).exit(ExitCode::USAGE);
        if let Some(near) = similar(typed, bare) {
            failure = failure.hint(format!("did you mean `{}`?", near.display()));
        } else if bare {
            failure = failure.hint(format!(
                "looked in the working directory, in {INSTALLED} and among the built-in scripts: {}",
                built_in_scripts().join(", ")
            ));
            if typed.extension().is_none() {
                failure = failure.hint("`kkrun --help` lists the commands");
            }
        }
        Err(failure.into())
    }

    fn of_path(path: &Path) -> Result<Option<(Self, String)>> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the attributes of `{}`", path.display()));
            }
        };
        if metadata.is_dir() {
            bail!(
                Failure::new(format!("`{}` is a directory, not a script", path.display()))
                    .exit(ExitCode::USAGE)
            );
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // By the path that was typed: the root's own path has its symlinks resolved.
        trusted::check_directory(directory)?;
        let root = directory
            .canonicalize()
            .with_context(|| format!("cannot resolve the directory `{}`", directory.display()))?;
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            bail!(Failure::new(format!("invalid script name `{}`", path.display())).exit(ExitCode::USAGE));
        };
        Ok(Some((Self::Directory { shown: directory.to_owned(), root }, name.to_owned())))
    }

    /// Where a script on disk comes from and its name, to check it: a module of a library is read as the scripts beside
    /// the library import it.
    ///
    /// # Errors
    /// As [`Source::find`].
    pub fn to_check(script: &Path) -> Result<(Self, String)> {
        let importer = script
            .parent()
            .filter(|directory| directory.file_name().is_some_and(|name| name == "stdlib"))
            .and_then(importer_beside);
        let (Some(importer), Some(module)) = (importer, module_name(script)) else {
            return Self::find(script);
        };
        let (source, _) = Self::find(&importer)?;
        Ok((source, format!("{LIBRARY}{module}")))
    }

    /// The name of the root in messages and in the journal.
    pub fn describe(&self) -> String {
        match self {
            Self::Directory { root, .. } => root.display().to_string(),
            Self::BuiltIn => "built in".to_owned(),
        }
    }

    /// Reads the script of this name beside the others of the plan.
    pub fn script(&self, name: &str) -> Result<Script> {
        plain_relative(name)?;
        match self {
            Self::Directory { shown, root } => {
                let shown = shown.strip_prefix(".").unwrap_or(shown).join(name).display().to_string();
                Ok(Script { text: read_text(&root.join(name), &shown)?, name: shown })
            }
            Self::BuiltIn => embedded(&SCRIPTS, name, &format!("scripts/{name}")),
        }
    }

    /// Whether there is a script of this name.
    pub fn has_script(&self, name: &str) -> bool {
        match self {
            Self::Directory { root, .. } => root.join(name).is_file(),
            Self::BuiltIn => SCRIPTS.get_file(name).is_some(),
        }
    }

    /// Reads a module of the standard library: from a `stdlib` beside the root if there is one, else built in.
    pub fn library(&self, name: &str) -> Result<Script> {
        plain_relative(name)?;
        let file = format!("{name}.rhai");
        if let Self::Directory { shown, root } = self
            && let Some(stdlib) = root.parent().map(|parent| parent.join("stdlib"))
            && stdlib.is_dir()
        {
            let shown = shown.strip_prefix(".").unwrap_or(shown).join("../stdlib").join(&file);
            let shown = lexically_normal(&shown).display().to_string();
            return Ok(Script { text: read_text(&stdlib.join(&file), &shown)?, name: shown });
        }
        embedded(&STDLIB, &file, &format!("stdlib/{file}"))
    }

    /// What scripts of this root can import: the standard library and the scripts beside.
    pub fn modules(&self) -> Vec<String> {
        let listed = |directory: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.filter_map(|entry| module_name(Path::new(&entry.file_name()))).collect()
        };
        let embedded = |directory: &Dir| -> Vec<String> {
            directory.files().filter_map(|file| module_name(file.path())).collect()
        };
        let (beside, library) = match self {
            Self::BuiltIn => (embedded(&SCRIPTS), embedded(&STDLIB)),
            Self::Directory { root, .. } => {
                let stdlib = root.parent().map(|parent| parent.join("stdlib")).filter(|path| path.is_dir());
                (listed(root), stdlib.map_or_else(|| embedded(&STDLIB), |path| listed(&path)))
            }
        };
        let mut names: Vec<String> = library.iter().map(|name| format!("{LIBRARY}{name}")).collect();
        names.extend(beside);
        names.sort();
        names
    }

    /// Refuses the plan if users other than root could have written any of its files: before it is evaluated, not when a
    /// step comes to them.
    pub fn check_files(&self) -> Result<()> {
        match self {
            Self::Directory { root, .. } => trusted::check_tree(&root.join("files")),
            Self::BuiltIn => Ok(()),
        }
    }

    /// Whether there is a file or directory of the plan at `path`.
    pub fn has_plan_file(&self, path: &str) -> bool {
        match self {
            Self::Directory { root, .. } => root.join(path).symlink_metadata().is_ok(),
            Self::BuiltIn => SCRIPTS.get_entry(path).is_some(),
        }
    }

    /// Reads a file or directory of the plan; `path` begins with `files/`.
    pub fn plan_file(&self, path: &str) -> Result<PlanFile> {
        plain_relative(path)?;
        match self {
            Self::Directory { root, .. } => {
                let full = root.join(path);
                let metadata = std::fs::symlink_metadata(&full)
                    .with_context(|| format!("`{path}` not found in the plan"))?;
                if metadata.is_dir() {
                    let mut files = Vec::new();
                    read_tree(&full, &full, &mut files)?;
                    files.sort_by(|one, other| one.0.cmp(&other.0));
                    return Ok(PlanFile::Tree(files));
                }
                Ok(PlanFile::File(PlanContent::on_disk(&full)?))
            }
            Self::BuiltIn => {
                if let Some(file) = SCRIPTS.get_file(path) {
                    return Ok(PlanFile::File(PlanContent::embedded(file.contents())));
                }
                let Some(directory) = SCRIPTS.get_dir(path) else {
                    bail!("`{path}` not found in the built-in plan");
                };
                let mut files = Vec::new();
                embedded_tree(directory, Path::new(path), &mut files);
                files.sort_by(|one, other| one.0.cmp(&other.0));
                Ok(PlanFile::Tree(files))
            }
        }
    }
}

/// The name that a script is imported by.
fn module_name(file: &Path) -> Option<String> {
    let is_script = file.extension().is_some_and(|extension| extension == "rhai");
    if is_script { file.file_stem()?.to_str().map(str::to_owned) } else { None }
}

/// The script whose name is nearly that: beside it, or of a bare name among the built-in ones.
fn similar(typed: &Path, bare: bool) -> Option<PathBuf> {
    let name = typed.file_name()?.to_str()?;
    let directory = typed.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = std::fs::read_dir(directory.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let mut known: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| module_name(Path::new(name)).is_some())
        .collect();
    if bare {
        known.extend(built_in_scripts());
    }
    let with_ending = format!("{name}.rhai");
    let near = known.iter().find(|known| **known == with_ending).map(String::as_str);
    let near = near.or_else(|| nearest(name, known.iter().map(String::as_str)))?;
    Some(typed.with_file_name(near))
}

/// A script of the plan beside a library; of several plans, of one that has files.
fn importer_beside(library: &Path) -> Option<PathBuf> {
    let paths_in = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let parent = library.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut plans = paths_in(parent.unwrap_or(Path::new(".")));
    plans.retain(|path| path.file_name() != library.file_name() && path.is_dir());
    plans.sort_by_key(|path| !path.join("files").is_dir());
    let script_in = |plan: &PathBuf| paths_in(plan).into_iter().find(|path| module_name(path).is_some());
    plans.iter().find_map(script_in)
}

/// The names of the built-in scripts.
pub fn built_in_scripts() -> Vec<String> {
    let names = SCRIPTS.files().filter_map(|file| file.path().file_name()?.to_str().map(str::to_owned));
    let mut names: Vec<String> =
        names.filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "rhai")).collect();
    names.sort();
    names
}

/// The names of all that is built in, as scripts of the built-in source and as what they import.
pub fn built_in_names() -> Vec<String> {
    let mut names = Vec::new();
    let mut open: Vec<&Dir> = vec![&SCRIPTS];
    while let Some(directory) = open.pop() {
        let files = directory.files().filter(|file| module_name(file.path()).is_some());
        names.extend(files.map(|file| file.path().display().to_string()));
        open.extend(directory.dirs());
    }
    names.sort();
    names.extend(Source::BuiltIn.modules().into_iter().filter(|name| name.starts_with(LIBRARY)));
    names
}

fn embedded(directory: &'static Dir<'static>, name: &str, shown: &str) -> Result<Script> {
    let Some(file) = directory.get_file(name) else {
        bail!(
            Failure::new(format!("`{shown}` not found among the built-in scripts and modules"))
                .exit(ExitCode::USAGE)
        );
    };
    let text = file.contents_utf8().with_context(|| format!("the built-in `{shown}` is not UTF-8"))?;
    Ok(Script { name: shown.to_owned(), text: text.to_owned() })
}

fn embedded_tree(directory: &'static Dir<'static>, base: &Path, files: &mut Vec<(PathBuf, PlanContent)>) {
    for file in directory.files() {
        let relative = file.path().strip_prefix(base).unwrap_or(file.path());
        files.push((relative.to_owned(), PlanContent::embedded(file.contents())));
    }
    for below in directory.dirs() {
        embedded_tree(below, base, files);
    }
}

fn read_tree(base: &Path, directory: &Path, files: &mut Vec<(PathBuf, PlanContent)>) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read `{}`", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read `{}`", directory.display()))?;
        let path = entry.path();
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot read the attributes of `{}`", path.display()))?;
        if kind.is_dir() {
            // Packages that a package manager installed beside the sources are a product, not part of the plan.
            if entry.file_name() != trusted::INSTALLED {
                read_tree(base, &path, files)?;
            }
        } else if kind.is_file() {
            let relative = path.strip_prefix(base).unwrap_or(&path).to_owned();
            files.push((relative, PlanContent::on_disk(&path)?));
        } else {
            bail!("`{}` must be a file or a directory, as everything in a plan's `files/`", path.display());
        }
    }
    Ok(())
}

/// Reads a script that is called `shown`.
///
/// # Errors
/// With [`ExitCode::USAGE`] when it is not found or not text, with [`ExitCode::REFUSED`] when users other than root could
/// write it.
pub fn read_text(path: &Path, shown: &str) -> Result<String> {
    let bytes = trusted::read(path).map_err(|error| {
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Failure::new(format!("script `{shown}` not found")).exit(ExitCode::USAGE).into()
            }
            _ => error,
        }
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let readable = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = readable.split(|byte| *byte == b'\n').count();
        Failure::new(format!("`{shown}` is not a script: line {line} is not UTF-8 text"))
            .exit(ExitCode::USAGE)
            .into()
    })
}

/// Refuses names that point outside their directory.
fn plain_relative(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && Path::new(name).components().all(|component| matches!(component, Component::Normal(_)));
    if plain {
        return Ok(());
    }
    bail!(
        Failure::new(format!("`{name}` is outside the plan's directory"))
            .exit(ExitCode::USAGE)
            .hint("name scripts, imports and files of a plan by relative paths without `..`")
    )
}

/// A path without `.` and `..`, as it is written: symlinks are not asked.
pub(crate) fn lexically_normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}
