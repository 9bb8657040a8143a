//! What a command of the script makes that no call says better: the packages of a language, what a build installs. The plan
//! runs that command again, captured, so that all it changes can be undone.

use std::path::{Path, PathBuf};

use super::checkout::Checkout;
use super::literal;
use super::noise::is_noise;
use super::trace::{Command, as_user, name_of};
use crate::script::lexically_normal;

/// Programs that install or build, and the arguments of which one must be there; none is any.
const MAKERS: [(&str, &[&str]); 26] = [
    ("bundle", &["install"]),
    ("bundler", &["install"]),
    ("cargo", &["build", "install"]),
    ("cmake", &["--install", "--build"]),
    ("composer", &["create-project", "install", "require"]),
    ("corepack", &["enable", "prepare"]),
    ("gem", &["install"]),
    ("git", &["checkout", "clone", "pull", "reset", "submodule", "switch"]),
    ("go", &["build", "get", "install"]),
    ("make", &[]),
    ("meson", &["install"]),
    ("newaliases", &[]),
    ("ninja", &[]),
    ("npm", &["add", "build", "ci", "i", "install", "run"]),
    ("npx", &["build"]),
    ("pip", &["install"]),
    ("pip3", &["install"]),
    ("pipx", &["install"]),
    ("pnpm", &["add", "build", "i", "install", "run"]),
    ("poetry", &["install"]),
    ("postalias", &[]),
    ("postmap", &[]),
    ("rbenv", &["install"]),
    ("uv", &["pip", "sync", "tool", "venv"]),
    ("virtualenv", &[]),
    ("yarn", &["add", "build", "install", "run"]),
];

/// A command, and the outermost of the new paths that are its doing.
pub(super) struct Product<'trace> {
    pub(super) command: &'trace Command,
    pub(super) roots: Vec<PathBuf>,
    /// If it is a checkout, how it is made.
    pub(super) checkout: Option<Checkout>,
}

impl Product<'_> {
    /// The call that runs the command again; it may contain secrets.
    pub(super) fn code(&self) -> Option<String> {
        if let Some(checkout) = &self.checkout {
            return Some(checkout.code());
        }
        let (user, words) = as_user(self.command.words());
        if words.is_empty() {
            return None;
        }
        let mut options = Vec::new();
        options.extend(self.roots.first().map(|root| ("creates", literal::string(&root.to_string_lossy()))));
        let sources = sources(&self.command.directory, &words);
        if !sources.is_empty() {
            let digests: Vec<String> = sources
                .iter()
                .map(|source| format!("file::sha256({})", literal::string(&source.to_string_lossy())))
                .collect();
            options.push(("made_from", format!("|| {}", digests.join(" + "))));
        }
        options.push(("capture", "#{}".to_owned()));
        // Another user cannot enter the home of root, in which scripts begin; sudo only stays in it.
        let is_entered = user.is_none() || !self.command.directory.starts_with("/root");
        // What does not depend on a directory needs none that may have gone.
        let is_kept = !is_noise(&self.command.directory, true);
        if self.command.directory != Path::new("/") && is_entered && is_kept {
            options.push(("cwd", literal::string(&self.command.directory.to_string_lossy())));
        }
        options.extend(user.map(|user| ("user", literal::string(&user))));
        options.push(("timeout", "1800".to_owned()));
        Some(format!("cmd::run({}{});", literal::array(words), literal::options(&options)))
    }

    /// Whether its command makes what is at this new path, which was made while `command` ran.
    pub(super) fn makes(&self, path: &Path, command: Option<&Command>) -> bool {
        self.roots.iter().any(|root| {
            path == root
                || path.starts_with(root)
                    && match &self.checkout {
                        Some(checkout) if checkout.keeps(path) => true,
                        Some(checkout) if checkout.is_untracked(path) => false,
                        _ => command.is_none_or(is_maker),
                    }
        })
    }

    /// The paths that are compared as one.
    pub(super) fn apart(&self) -> Vec<PathBuf> {
        self.checkout.as_ref().map_or_else(|| self.roots.clone(), |checkout| vec![checkout.repository()])
    }
}

/// What has to be there for a command: its directory, and what its arguments name.
pub(super) fn needed(command: &Command) -> Vec<PathBuf> {
    let (_, words) = as_user(command.words());
    let mut directory = command.directory.clone();
    let mut needed = Vec::new();
    if !is_everywhere_the_same(&words) {
        needed.push(directory.clone());
    }
    for words in simple(words) {
        if let [program, to, ..] = &words[..]
            && program == "cd"
        {
            directory = lexically_normal(&directory.join(to));
            needed.push(directory.clone());
            continue;
        }
        needed.extend(words.iter().filter_map(|word| {
            let path = word.rsplit_once('=').map_or(word.as_str(), |(_, value)| value);
            let is_path = ["/", "./", "../"].iter().any(|begin| path.starts_with(begin));
            is_path.then(|| lexically_normal(&directory.join(path)))
        }));
    }
    needed
}

/// Whether a command does the same in any directory: it installs by names or absolute paths only.
fn is_everywhere_the_same(words: &[String]) -> bool {
    const OF_FILES: [&str; 8] =
        ["-r", "-c", "-e", "-t", "--requirement", "--constraint", "--editable", "--target"];
    if let [to, into, ..] = &simple(words.to_vec()).first().cloned().unwrap_or_default()[..]
        && to == "cd"
    {
        return into.starts_with('/');
    }
    let Some((program, arguments)) = words.split_first() else { return false };
    let (program, arguments) = match arguments {
        [option, module, rest @ ..] if option == "-m" && name_of(program).starts_with("python") => {
            (module.as_str(), rest)
        }
        _ => (name_of(program), arguments),
    };
    let is_named = match program {
        "gem" | "newaliases" | "pip" | "pip3" | "pipx" => true,
        "npm" => arguments.iter().any(|word| ["-g", "--global"].contains(&word.as_str())),
        "venv" | "virtualenv" => arguments.last().is_some_and(|to| to.starts_with('/')),
        _ => false,
    };
    let is_relative = |at: usize, word: &str| {
        let value = word.rsplit_once('=').map_or(word, |(_, value)| value);
        let is_file = at > 0 && OF_FILES.contains(&arguments[at - 1].as_str())
            || OF_FILES.iter().any(|option| word.starts_with(&format!("{option}=")));
        let is_path = value.starts_with('.') || value.contains('/') && !value.contains("://");
        let is_archive = [".whl", ".gz", ".tgz", ".zip", ".gem"].iter().any(|end| value.ends_with(end));
        !value.starts_with('/')
            && !value.contains("://")
            && !value.starts_with('@')
            && (is_file || is_path || is_archive)
    };
    is_named && !arguments.iter().enumerate().any(|(at, word)| is_relative(at, word))
}

/// The commands of what a shell is given to run, if that is what it is; else this one. Source: bash(1), `-c`.
fn simple(words: Vec<String>) -> Vec<Vec<String>> {
    let is_shell = words.first().is_some_and(|word| ["bash", "dash", "sh"].contains(&name_of(word)));
    let at = words.iter().position(|word| {
        word.strip_prefix('-').is_some_and(|letters| !letters.starts_with('-') && letters.ends_with('c'))
    });
    let Some(text) = at.filter(|_| is_shell).and_then(|at| words.get(at + 1)) else { return vec![words] };
    let lines = text.split(['\n', ';']).flat_map(|line| line.split("&&")).flat_map(|part| part.split("||"));
    let commands = lines.filter_map(|part| shell_words::split(part).ok());
    commands.filter(|words| !words.is_empty()).collect()
}

/// The files that a command makes into tables; it has to run again when they change. Source: postmap(1), newaliases(1).
fn sources(directory: &Path, words: &[String]) -> Vec<PathBuf> {
    let Some((program, arguments)) = words.split_first() else { return Vec::new() };
    match name_of(program) {
        "newaliases" => vec![PathBuf::from("/etc/aliases")],
        "postmap" | "postalias" => {
            let is_value = |at: usize| at > 0 && arguments[at - 1] == "-c";
            let tables = arguments.iter().enumerate();
            let tables = tables.filter(|(at, word)| !word.starts_with('-') && !is_value(*at));
            let path = |table: &str| table.split_once(':').map_or(table, |(_, path)| path).to_owned();
            tables.map(|(_, table)| lexically_normal(&directory.join(path(table)))).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a command is one of git.
pub(super) fn is_git(command: &Command) -> bool {
    let commands = simple(as_user(command.words()).1);
    let mut makers = commands.iter().filter(|words| makes(words)).peekable();
    let has_any = makers.peek().is_some();
    has_any && makers.all(|words| words.first().is_some_and(|program| name_of(program) == "git"))
}

/// Whether a command makes things that only it knows how to make.
pub(super) fn is_maker(command: &Command) -> bool {
    simple(as_user(command.words()).1).iter().any(|words| makes(words))
}

fn makes(words: &[String]) -> bool {
    // Arguments of python's own modules are as those of programs.
    let words = match words.iter().position(|word| word == "-m") {
        Some(at) if name_of(&words[0]).starts_with("python") => {
            if words.get(at + 1).is_some_and(|module| module == "venv") {
                return true;
            }
            &words[at + 1..]
        }
        _ => words,
    };
    let Some((program, arguments)) = words.split_first() else { return false };
    let known = MAKERS.iter().find(|(name, _)| *name == name_of(program));
    known.is_some_and(|(_, verbs)| {
        verbs.is_empty() || arguments.iter().any(|argument| verbs.contains(&argument.as_str()))
    })
}

/// As whom a command runs.
pub(super) fn user_of(command: &Command) -> String {
    as_user(command.words()).0.unwrap_or_else(|| "root".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::trace::Trace;
    use super::*;

    fn command(text: &str) -> Command {
        Trace::read(&format!("\u{1}0.0 0 1 /srv\u{2}{text}\n"), "").commands.remove(0)
    }

    #[test]
    fn programs_that_install_are_known_by_what_they_are_asked_to() {
        for text in [
            "npm install -g prettier@3",
            "sudo -Hu anna -- pip install -q --user yq",
            "/opt/app/venv/bin/pip install -r list",
            "python3 -m venv /opt/app/venv",
            "python3 -m pip install x",
            "make -s install",
            "sudo -iu anna bash -c \"cd '/srv/app' && npm ci --no-audit && cd web && npx vite build\"",
            "su - anna -c 'cd app; npm run --silent build'",
        ] {
            assert!(is_maker(&command(text)), "{text}");
        }
        for text in [
            "bash -c 'cd /srv && npm ls'",
            "bash build",
            "npm config set x y",
            "pip completion --bash",
            "cat",
            "apt-get install npm",
            "sudo -l",
        ] {
            assert!(!is_maker(&command(text)), "{text}");
        }
    }

    #[test]
    fn a_product_is_a_captured_command_of_its_user_in_its_directory() {
        let command = command("sudo -Hu anna -- pip install yq");
        let product = Product { command: &command, roots: vec!["/home/anna/.local".into()], checkout: None };
        assert_eq!(
            product.code().unwrap(),
            "cmd::run([\"pip\", \"install\", \"yq\"], #{ creates: \"/home/anna/.local\", capture: #{}, cwd: \"/srv\", user: \"anna\", timeout: 1800 });"
        );
    }

    #[test]
    fn a_command_needs_its_directory_and_what_it_names() {
        let needs = |text: &str| {
            needed(&command(text)).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(needs("make install"), ["/srv"]);
        assert_eq!(
            needs("pip install -r ../list ./x.whl --target=/opt/x"),
            ["/srv", "/list", "/srv/x.whl", "/opt/x"]
        );
        assert_eq!(needs("npm install https://example.org/x.tgz"), ["/srv"]);
        assert_eq!(
            needs("sudo -iu kim bash -c \"cd '/opt/app' && npm ci && cd web && ./build\""),
            ["/opt/app", "/opt/app/web", "/opt/app/web/build"]
        );
        assert_eq!(needs("su - kim -c 'cd app && npm ci'"), ["/srv", "/srv/app"]);
    }

    #[test]
    fn a_command_that_names_all_it_needs_does_not_depend_on_a_directory_that_goes() {
        for text in [
            "python3 -m venv /opt/app/venv",
            "/opt/app/venv/bin/pip install -q -r /opt/app/list flask==3.0",
            "npm install -g @scope/tool prettier@3",
        ] {
            let command = Command { directory: "/tmp".into(), ..command(text) };
            assert!(!needed(&command).contains(&PathBuf::from("/tmp")), "{text}");
            let product = Product { command: &command, roots: Vec::new(), checkout: None };
            assert!(!product.code().unwrap().contains("cwd:"), "{text}");
        }
        for text in
            ["pip install -r list", "pip install .", "npm ci", "python3 -m venv venv", "pip install x.whl"]
        {
            let command = Command { directory: "/tmp".into(), ..command(text) };
            assert!(needed(&command).contains(&PathBuf::from("/tmp")), "{text}");
        }
    }

    #[test]
    fn a_table_is_made_again_when_its_source_changes() {
        for (text, source) in
            [("postmap -c /etc/postfix hash:virtual", "/srv/virtual"), ("newaliases", "/etc/aliases")]
        {
            let command = command(text);
            let product = Product { command: &command, roots: vec!["/etc/x.db".into()], checkout: None };
            let made_from = format!("made_from: || file::sha256(\"{source}\"), capture: #{{}}, ");
            assert!(product.code().unwrap().contains(&made_from), "{text}");
        }
    }

    #[test]
    fn a_command_of_another_user_does_not_run_in_the_home_of_root() {
        let command = Command { directory: "/root".into(), ..command("sudo -u anna pip install yq") };
        let product = Product { command: &command, roots: Vec::new(), checkout: None };
        assert_eq!(
            product.code().unwrap(),
            "cmd::run([\"pip\", \"install\", \"yq\"], #{ capture: #{}, user: \"anna\", timeout: 1800 });"
        );
    }

    #[test]
    fn the_user_of_a_command_is_taken_from_what_runs_it() {
        let of = |text: &str| as_user(shell_words::split(text).unwrap());
        assert_eq!(
            of("su - kim -c 'make all'"),
            (Some("kim".into()), ["bash", "-lc", "make all"].map(String::from).to_vec())
        );
        assert_eq!(
            of("runuser -u kim -- ls -l"),
            (Some("kim".into()), ["ls", "-l"].map(String::from).to_vec())
        );
        assert_eq!(of("sudo ls").0, None);
        assert_eq!(of("ls -u kim").0, None);
    }
}
