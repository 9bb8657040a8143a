//! The scripts of a plan: each read once and compiled once; which imports which, and which functions reach which.
//!
//! The check, the fingerprints, the imports of a run and the secrets that are asked for beforehand all see a plan
//! through this graph.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Result, anyhow};
use rhai::Token;

use super::program::{Import, Parts, Program};
use super::source::{LIBRARY, Script, Source};
use crate::journal::ScriptDigests;
use crate::machine::files::{Digest, Identity, digest_again};
use crate::machine::trusted;

/// The key of the script that was called, whatever its file is named.
pub const MAIN: &str = "\0main";

/// The scripts below one root, by their keys: `01.rhai` for a file, `std/git` for a module of the library, [`MAIN`].
pub struct Graph {
    source: Source,
    texts: RefCell<HashMap<String, Rc<Script>>>,
    programs: RefCell<HashMap<String, Rc<Program>>>,
    digests: RefCell<HashMap<String, Digest>>,
    /// What an earlier run found, each for as long as its file is unmodified.
    earlier: RefCell<ScriptDigests>,
    consists_of: RefCell<HashMap<String, Rc<[String]>>>,
}

/// What a walk along the imports finds.
pub(super) enum Visited<'walk> {
    /// A script, after all that it imports.
    Script {
        /// Its key.
        key: &'walk str,
        /// The script.
        program: &'walk Rc<Program>,
    },
    /// An import that is not found.
    Unreadable {
        /// The script with the import.
        by: &'walk Program,
        /// The import.
        import: &'walk Import,
        /// Why; nothing if it does not name its module by a literal.
        error: Option<anyhow::Error>,
    },
    /// An import of a script that is being imported already.
    Circle {
        /// The script with the import.
        by: &'walk Program,
        /// The import.
        import: &'walk Import,
        /// The cycle, as it is shown.
        message: String,
    },
}

/// What a piece of code reaches: the tokens of functions by module and name. The script itself is the module without
/// a name, the top level of a module the function without one.
pub(super) type Reached = BTreeMap<(String, String), Rc<[Token]>>;

impl Graph {
    /// The scripts of this root, none of them read.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            texts: RefCell::default(),
            programs: RefCell::default(),
            digests: RefCell::default(),
            earlier: RefCell::default(),
            consists_of: RefCell::default(),
        }
    }

    /// Where the scripts come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Sets the text behind `key`.
    pub fn keep(&self, key: &str, script: Script) {
        self.texts.borrow_mut().insert(key.to_owned(), Rc::new(script));
    }

    /// The text behind `key`.
    pub(super) fn text(&self, key: &str) -> Result<Rc<Script>> {
        if let Some(known) = self.texts.borrow().get(key) {
            return Ok(Rc::clone(known));
        }
        let script = Rc::new(match key.strip_prefix(LIBRARY) {
            Some(module) => self.source.library(module)?,
            None => self.source.script(key)?,
        });
        self.texts.borrow_mut().insert(key.to_owned(), Rc::clone(&script));
        Ok(script)
    }

    /// A line of the script that is shown by this name, one-based; empty if there is none.
    pub(super) fn line_of(&self, name: &str, line: usize) -> String {
        let texts = self.texts.borrow();
        let script = texts.values().find(|script| script.name == name);
        let text = script.and_then(|script| script.text.lines().nth(line.checked_sub(1)?));
        text.unwrap_or_default().to_owned()
    }

    /// The script behind `key`.
    ///
    /// # Errors
    /// When it cannot be read or does not compile.
    pub fn program(&self, engine: &rhai::Engine, key: &str) -> Result<Rc<Program>> {
        if let Some(program) = self.programs.borrow().get(key) {
            return Ok(Rc::clone(program));
        }
        let program = Rc::new(Program::compile(engine, &*self.text(key)?)?);
        self.programs.borrow_mut().insert(key.to_owned(), Rc::clone(&program));
        Ok(program)
    }

    /// The module that `import` names.
    pub(super) fn module(&self, engine: &rhai::Engine, path: &str) -> Result<Rc<Program>> {
        self.program(engine, &key_of(path))
    }

    /// Visits the script behind `key` and all that it imports, directly or through others: each once, imports first.
    pub(super) fn visit(
        &self,
        engine: &rhai::Engine,
        (key, program): (&str, &Rc<Program>),
        seen: &mut BTreeSet<String>,
        visit: &mut dyn FnMut(Visited),
    ) {
        seen.insert(key.to_owned());
        Walk { graph: self, engine, seen, open: Vec::new(), visit }.script(key, program);
    }

    /// The keys of a script and of all that it imports, itself first.
    pub fn consists_of(&self, engine: &rhai::Engine, key: &str) -> Result<Rc<[String]>> {
        if let Some(known) = self.consists_of.borrow().get(key) {
            return Ok(Rc::clone(known));
        }
        let (mut keys, mut failed) = (Vec::new(), None);
        let program = self.program(engine, key)?;
        self.visit(engine, (key, &program), &mut BTreeSet::new(), &mut |visited| match visited {
            Visited::Script { key, .. } => keys.push(key.to_owned()),
            Visited::Unreadable { error, .. } => failed = failed.take().or(error),
            Visited::Circle { message, .. } => failed = Some(anyhow!(message)),
        });
        if let Some(error) = failed {
            return Err(error);
        }
        keys.reverse();
        let keys: Rc<[String]> = keys.into();
        self.consists_of.borrow_mut().insert(key.to_owned(), Rc::clone(&keys));
        Ok(keys)
    }

    /// What this code of a program reaches: itself, the functions that it names, the top levels of the modules that it
    /// imports, and all that these reach in turn.
    pub(super) fn reached(
        &self,
        engine: &rhai::Engine,
        program: &Rc<Program>,
        code: Rc<[Token]>,
    ) -> Result<Reached> {
        let mut search = Search { engine, reached: Reached::new(), queue: Vec::new() };
        search.reach("", "", program.parts(engine), code);
        while let Some((path, names)) = search.queue.pop() {
            let module = if path.is_empty() { Rc::clone(program) } else { self.module(engine, &path)? };
            search.follow(&path, &names, &module);
        }
        Ok(search.reached)
    }

    /// A hash over the bytes of these scripts and over what reads them: kkrun's version.
    pub fn digest_of<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<String> {
        let mut all = vec![(env!("CARGO_PKG_VERSION"), Digest::of(&[]))];
        for key in keys {
            let known = self.digests.borrow().get(key).copied();
            let digest = match known {
                Some(digest) => digest,
                None => match self.unmodified(key) {
                    Some(digest) => digest,
                    None => Digest::of(self.text(key)?.text.as_bytes()),
                },
            };
            self.digests.borrow_mut().insert(key.to_owned(), digest);
            all.push((key, digest));
        }
        Ok(Digest::of_all(all).to_string())
    }

    /// Takes over digests that an earlier run found: a script whose file is unmodified since need not be read to know its
    /// own.
    pub fn recall(&self, earlier: ScriptDigests) {
        self.earlier.replace(earlier);
    }

    fn unmodified(&self, key: &str) -> Option<Digest> {
        let earlier = self.earlier.borrow();
        let (identity, digest) = earlier.get(key)?;
        identity.is_at(&self.path_beside(key)?).then_some(*digest)
    }

    /// The digests of the scripts that were read, for [`Graph::recall`]: of those whose files are still as they were read,
    /// and that kkrun trusts for every caller. Scripts below other directories are not among them, because their
    /// directories are judged when they are read.
    pub fn settled_digests(&self) -> ScriptDigests {
        let caller = rustix::process::geteuid().as_raw();
        let settled = |(key, digest): (&String, &Digest)| {
            let path = self.path_beside(key)?;
            let file = trusted::file(&path).ok()?;
            let identity = Identity::settled(&file).filter(|identity| identity.is_at(&path))?;
            let is_own = file.metadata().is_ok_and(|metadata| metadata.uid() == caller);
            let (found, _) = digest_again(&file, &path).ok()?;
            (is_own && found == *digest).then(|| (key.clone(), (identity, *digest)))
        };
        self.digests.borrow().iter().filter_map(settled).collect()
    }

    /// The file of a script that is directly in the directory of the plan.
    fn path_beside(&self, key: &str) -> Option<PathBuf> {
        match &self.source {
            Source::Directory { root, .. } if !key.contains('/') && key != MAIN => Some(root.join(key)),
            _ => None,
        }
    }
}

/// The key of the module that `import` names.
pub(super) fn key_of(path: &str) -> String {
    if path.starts_with(LIBRARY) { path.to_owned() } else { format!("{path}.rhai") }
}

/// The message about a cycle of imports: `open` are being imported, the last of them imports `path`.
pub(super) fn cycle(open: &[String], path: &str) -> Option<String> {
    let start = open.iter().position(|module| module == path)?;
    let names: Vec<&str> = open[start..].iter().map(String::as_str).chain([path]).collect();
    Some(format!("imports form a cycle: `{}`", names.join("` → `")))
}

/// A walk along the imports, depth first.
struct Walk<'walk> {
    graph: &'walk Graph,
    engine: &'walk rhai::Engine,
    seen: &'walk mut BTreeSet<String>,
    /// The modules on the way to here, as they are imported.
    open: Vec<String>,
    visit: &'walk mut dyn FnMut(Visited),
}

impl Walk<'_> {
    fn script(&mut self, key: &str, program: &Rc<Program>) {
        for import in &program.parts(self.engine).imports {
            let Some(path) = &import.module else {
                (self.visit)(Visited::Unreadable { by: program, import, error: None });
                continue;
            };
            if let Some(message) = cycle(&self.open, path) {
                (self.visit)(Visited::Circle { by: program, import, message });
                continue;
            }
            let key = key_of(path);
            if !self.seen.insert(key.clone()) {
                continue;
            }
            match self.graph.program(self.engine, &key) {
                Ok(module) => {
                    self.open.push(path.clone());
                    self.script(&key, &module);
                    self.open.pop();
                }
                Err(error) => (self.visit)(Visited::Unreadable { by: program, import, error: Some(error) }),
            }
        }
        (self.visit)(Visited::Script { key, program });
    }
}

/// The search for what a piece of code reaches.
struct Search<'search> {
    engine: &'search rhai::Engine,
    reached: Reached,
    /// Modules, each with the function in it that is called, by way of the names of modules that it imports; or with
    /// nothing, for its top level.
    queue: Vec<(String, Vec<String>)>,
}

impl Search<'_> {
    /// Adds what is reached and queues what it names in turn.
    fn reach(&mut self, module: &str, function: &str, parts: &Parts, tokens: Rc<[Token]>) {
        let place = (module.to_owned(), function.to_owned());
        if self.reached.contains_key(&place) {
            return;
        }
        for (at, token) in tokens.iter().enumerate() {
            match (token, tokens.get(at + 1)) {
                (Token::Import, Some(Token::StringConstant(path))) => {
                    self.queue.push((path.to_string(), Vec::new()));
                }
                (Token::Identifier(name), Some(Token::DoubleColon)) => {
                    let names = members(&tokens[at + 1..]);
                    let modules = parts.modules(name);
                    self.queue.extend(modules.into_iter().map(|module| (module.to_owned(), names.clone())));
                }
                // A function may be named by a string, too: `Fn("name")`.
                (Token::Identifier(name) | Token::StringConstant(name), _)
                    if parts.functions.contains_key(name.as_str()) =>
                {
                    self.queue.push((module.to_owned(), vec![name.to_string()]));
                }
                _ => {}
            }
        }
        self.reached.insert(place, tokens);
    }

    fn follow(&mut self, path: &str, names: &[String], module: &Program) {
        let parts = module.parts(self.engine);
        // Of the script itself, only the given code is reached.
        if !path.is_empty() {
            self.reach(path, "", parts, Rc::clone(&parts.top));
        }
        match names {
            [] => {}
            [name] => {
                if let Some(tokens) = parts.functions.get(name) {
                    self.reach(path, name, parts, Rc::clone(tokens));
                }
            }
            [alias, further @ ..] => {
                let modules = parts.modules(alias).into_iter();
                self.queue.extend(modules.map(|module| (module.to_owned(), further.to_vec())));
            }
        }
    }
}

/// The names behind `::`, one after the other.
fn members(tokens: &[Token]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = tokens;
    while let [Token::DoubleColon, Token::Identifier(name), behind @ ..] = rest {
        names.push(name.to_string());
        rest = behind;
    }
    names
}
