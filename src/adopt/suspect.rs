//! What looks like a secret in a text: names of passwords, keys and tokens beside their values, statements and URLs.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::trace::{Command, Trace, as_user, name_of};

/// A name, and the value that it seems to keep secret.
pub(super) type Suspect = (String, String);

/// Values that describe a secret, or stand for one.
const WORDS: [&str; 12] = [
    "boolean",
    "default",
    "disabled",
    "enabled",
    "optional",
    "passphrase",
    "passwd",
    "password",
    "prompt",
    "required",
    "secret",
    "string",
];

/// Directives that end as names of secrets do, and say where something is. Source: nginx's manual, "Module ngx_http_proxy_module"
/// and its kin.
const DIRECTIVES: [&str; 14] = [
    "fastcgi_cache_key",
    "fastcgi_pass",
    "grpc_pass",
    "js_pass",
    "memcached_pass",
    "proxy_cache_key",
    "proxy_pass",
    "proxy_set_header",
    "scgi_cache_key",
    "scgi_pass",
    "server_tokens",
    "tunnel_pass",
    "uwsgi_cache_key",
    "uwsgi_pass",
];

/// Directories of what others wrote: the libraries of a language, and what a version control system keeps.
const LIBRARIES: [&str; 11] = [
    ".bundle",
    ".cargo",
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "__pycache__",
    "dist-packages",
    "node_modules",
    "site-packages",
    "venv",
];

/// The kinds of files that are programs.
const PROGRAMS: [&str; 32] = [
    "bash", "c", "cc", "cjs", "cpp", "cs", "css", "erl", "ex", "go", "h", "hpp", "html", "java", "js", "jsx",
    "kt", "lua", "map", "mjs", "pl", "pm", "py", "pyi", "rb", "rs", "scala", "sh", "svelte", "ts", "tsx",
    "vue",
];

/// A line that begins with a name; the value is the rest. The name of another line can be indented, quoted or an item of a list.
static LINE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"^(\s*)(?:-\s+)?(?:(?:export|set|define)\b[\s(]+)?(?:\$\w+\[\s*|\$)?(["']?)([\w.-]+)["']?\]?\s*(?:=>|[:=,]|\s)\s*(.+?)\s*$"#,
    )
    .ok()
});
/// A name with its value anywhere in a line: the member of an object, the assignment in another, an element.
static INSIDE: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        r#"["']([\w.-]+)["']\s*(?::|=>)\s*["']([^"']+)["']"#,
        r#"\b([A-Za-z_][\w.-]*)=["']?([^\s"',;&]+)"#,
        r"<([\w.-]+)>\s*([^<]+?)\s*</",
    ];
    patterns.into_iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
});
/// A user with the password, in SQL and in URLs.
static OF_USERS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        r#"(?i)\b(?:role|user)\s+"?(\w+)"?[^;]*?\bpassword\s+'([^']+)'"#,
        r#"(?i)\buser\s+["'`]?(\w+)["'`]?[^;]*?\bidentified\s+(?:with\s+\w+\s+)?by\s+["']([^"']+)["']"#,
        r#"://([^:/@\s"']+):([^@/\s"']+)@"#,
    ];
    patterns.into_iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
});

/// The files of logins that have a form of their own: how they are named, and what the secret of a line is.
static LOGINS: LazyLock<Vec<(Regex, Regex)>> = LazyLock::new(|| {
    let forms = [
        (r"/\.?pgpass$", r"^[^#].*:([^:]+)$"),
        (r"/(\.netrc|auth\.conf(\.d/.*)?)$", r"\bpassword\s+(\S+)"),
        (r"/sasl_?passw(d|ord)$", r"^\S+\s+[^:\s]+:(\S+)$"),
        (r"/\.docker/config\.json$", r#""auth"\s*:\s*"([^"]+)""#),
    ];
    let both = forms.into_iter().map(|(name, line)| Some((Regex::new(name).ok()?, Regex::new(line).ok()?)));
    both.flatten().collect()
});

/// Whether a file belongs to a library, or is the record of a version control system: nothing in it is this machine's.
pub(super) fn is_of_library(path: &Path) -> bool {
    path.parent().is_some_and(|above| above.iter().any(|part| LIBRARIES.iter().any(|name| part == *name)))
}

/// Whether a file is a program: its names are those of variables, and its values those of a language.
pub(super) fn is_program(path: &Path) -> bool {
    let kind = path.extension().map(|kind| kind.to_string_lossy().to_lowercase()).unwrap_or_default();
    PROGRAMS.contains(&kind.as_str())
}

/// Those of a file. Only files of settings have names that are indented or within a line: elsewhere these are prose and code.
pub(super) fn of_file(path: &Path, text: &str) -> Vec<Suspect> {
    let mut found = Vec::new();
    let is_of_settings = is_of_settings(path);
    let named = path.to_string_lossy();
    for (_, form) in LOGINS.iter().filter(|(name, _)| name.is_match(&named)) {
        let of_lines = text.lines().flat_map(|line| form.captures_iter(line));
        found.extend(of_lines.map(|captures| ("login_password".to_owned(), captures[1].to_owned())));
    }
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';', '!']) || line.trim_start().starts_with("//") {
            continue;
        }
        if let Some(captures) = LINE.as_ref().and_then(|pattern| pattern.captures(line)) {
            let (key, value) = (&captures[3], unquoted(&captures[4]));
            let is_plain = captures[1].is_empty() && captures[2].is_empty();
            if is_secret_name(key) && (is_plain || is_of_settings && may_be_secret(path, value)) {
                found.push((key.to_owned(), value.to_owned()));
            }
        }
        for pattern in INSIDE.iter().filter(|_| is_of_settings) {
            let mut at = 0;
            while let Some(captures) = pattern.captures_at(line, at) {
                if is_secret_name(&captures[1]) && may_be_secret(path, &captures[2]) {
                    found.push((captures[1].to_owned(), captures[2].to_owned()));
                }
                // A value can be an assignment, too.
                at = captures.get(2).map_or(line.len(), |value| value.start());
            }
        }
    }
    found.extend(
        of_users(text).into_iter().filter(|(_, value)| !WORDS.contains(&value.to_lowercase().as_str())),
    );
    found
}

/// Those in SQL statements and URLs, with a name for each.
pub(super) fn of_users(text: &str) -> Vec<Suspect> {
    let found = OF_USERS.iter().flat_map(|pattern| pattern.captures_iter(text));
    found.map(|captures| (format!("{}_password", &captures[1]), captures[2].to_owned())).collect()
}

/// The passwords of logins: what is printed, or given, on the lines of chpasswd. Source: chpasswd(8).
pub(super) fn of_logins(trace: &Trace) -> Vec<Suspect> {
    static LOGIN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^([a-z_][a-z0-9_-]*):([^:\s]+)(?:\\n|\n)?$").ok());
    let login = |text: &str| {
        let captures = LOGIN.as_ref()?.captures(text)?;
        Some((captures[1].to_owned(), captures[2].trim_end_matches("\\n").to_owned()))
    };
    let is_setting = |words: &[String]| {
        let is_it = words.first().is_some_and(|program| name_of(program) == "chpasswd");
        is_it && !words.iter().any(|word| word == "-e" || word == "--encrypted")
    };
    let plain = |command: &Command| {
        let words = as_user(command.words()).1;
        words.into_iter().skip_while(|word| word == "sudo").collect::<Vec<_>>()
    };
    let setting = trace.commands.iter().filter(|command| is_setting(&plain(command)));
    let lines: Vec<usize> = setting.map(|command| command.own_line).collect();
    let mut found = Vec::new();
    for command in trace.commands.iter().filter(|command| lines.contains(&command.own_line)) {
        let words = plain(command);
        let Some((program, arguments)) = words.split_first() else { continue };
        match name_of(program) {
            "printf" if arguments.first().is_some_and(|form| form.starts_with("%s:%s")) => {
                let logins = arguments[1..].chunks_exact(2);
                found.extend(logins.map(|login| (login[0].clone(), login[1].clone())));
            }
            "echo" | "printf" => found.extend(arguments.iter().filter_map(|word| login(word))),
            _ => {}
        }
    }
    // A string that is given is not in the trace.
    let given = lines.iter().filter_map(|number| trace.lines().find(|(at, _)| at == number));
    let given = given.filter_map(|(_, line)| shell_words::split(line.split_once("<<<")?.1.trim()).ok());
    let given = given.flatten().filter(|word| !word.contains('$'));
    found.extend(given.filter_map(|word| login(&word)));
    found
}

/// Whether what has this name is usually kept secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    let ends = ["_pw", "_pass", "_psk", "_key", "presharedkey", "privatekey"];
    let within = ["password", "passwd", "passphrase", "secret", "token", "apikey", "api_key", "requirepass"];
    let whole = ["pw", "pass", "psk"];
    let is_public = name.contains("public") || name.contains("pub_") || name.contains("authorized");
    // What is said about a secret.
    let about =
        ["_algorithm", "_encryption", "_file", "_length", "_method", "_policy", "_timeout", "_ttl", "_type"];
    !is_public
        && !DIRECTIVES.contains(&name.as_str())
        && !about.iter().any(|end| name.ends_with(end))
        && (within.iter().any(|part| name.contains(part))
            || ends.iter().any(|end| name.ends_with(end))
            || whole.contains(&name.as_str()))
}

fn is_of_settings(path: &Path) -> bool {
    const KINDS: [&str; 14] = [
        "cfg",
        "cnf",
        "conf",
        "config",
        "env",
        "ini",
        "json",
        "network",
        "properties",
        "service",
        "toml",
        "xml",
        "yaml",
        "yml",
    ];
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
    path.starts_with("/etc") || KINDS.contains(&kind) || name.starts_with(".env")
}

/// Whether a value may be a secret where many are none. Outside of `/etc`, one word of letters is a text to be shown.
fn may_be_secret(path: &Path, value: &str) -> bool {
    let is_word = value.chars().all(char::is_alphabetic);
    !WORDS.contains(&value.to_lowercase().as_str()) && (!is_word || path.starts_with("/etc"))
}

/// A value without its quotes and what ends it.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote)
            && let Some((inner, _)) = inner.split_once(quote)
        {
            return inner;
        }
    }
    value.trim_end_matches([',', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(path: &str, text: &str) -> Vec<String> {
        let mut values: Vec<String> =
            of_file(Path::new(path), text).into_iter().map(|(_, value)| value).collect();
        values.dedup();
        values
    }

    #[test]
    fn names_are_found_that_are_indented_quoted_or_within_a_line() {
        for (path, line, value) in [
            ("/etc/a.yaml", "  password: 'yaml-pa55word'", "yaml-pa55word"),
            ("/etc/a.yaml", "      \"api_token\": \"tok-1234567\",", "tok-1234567"),
            ("/srv/a/compose.yml", "      - POSTGRES_PASSWORD=pg-pa55", "pg-pa55"),
            ("/srv/a/compose.yml", "      POSTGRES_PASSWORD: pg-pa55 ", "pg-pa55"),
            ("/etc/systemd/system/a.service", "Environment=\"API_TOKEN=tok-77\" A=b", "tok-77"),
            ("/etc/a/one.json", "{\"user\": \"kim\", \"password\": \"geheim7\"}", "geheim7"),
            ("/etc/a.xml", "<password>geheim7</password>", "geheim7"),
            ("/etc/a/config.php", "define('DB_PASSWORD', 'geheim7');", "geheim7"),
            ("/etc/a/config.php", "$cfg['password'] = 'geheim7';", "geheim7"),
            ("/etc/bind/key", "    secret \"bGFsYQ==\";", "bGFsYQ=="),
            ("/root/.pgpass", "host:5432:app:app:Pg-Pass-w0rd", "Pg-Pass-w0rd"),
            ("/root/.netrc", "machine a login bob password Netrc-Pw-1", "Netrc-Pw-1"),
            ("/etc/apt/auth.conf.d/a.conf", "machine a login bob password Netrc-Pw-1", "Netrc-Pw-1"),
            ("/etc/postfix/sasl_passwd", "[smtp.example.org]:587 relay:Rel4yS3cret", "Rel4yS3cret"),
            ("/root/.docker/config.json", "{\"auths\":{\"r\":{\"auth\":\"a2ltOng=\"}}}", "a2ltOng="),
            ("/root/.profile", "export AWS_SECRET_ACCESS_KEY=abc/77", "abc/77"),
            ("/srv/plain", "db_password = sesame", "sesame"),
            ("/srv/a.rb", "  url: 'postgres://mix:urlp4ssw@db.example.org/mix'", "urlp4ssw"),
            ("/srv/a.sql", "CREATE USER 'kim'@'localhost' IDENTIFIED BY 'geheim7';", "geheim7"),
        ] {
            assert_eq!(values(path, line), [value], "{line}");
        }
    }

    #[test]
    fn files_of_libraries_and_programs_are_known_by_their_paths() {
        for path in [
            "/opt/a/venv/lib/x.cfg",
            "/srv/node_modules/debug/.coveralls.yml",
            "/usr/lib/python3/dist-packages/x.ini",
        ] {
            assert!(is_of_library(Path::new(path)), "{path}");
        }
        assert!(!is_of_library(Path::new("/etc/venv")));
        assert!(is_program(Path::new("/srv/token.py")));
        assert!(!is_program(Path::new("/srv/.env")));
    }

    #[test]
    fn prose_code_and_what_is_said_about_secrets_are_none() {
        for (path, line) in [
            ("/srv/app/form.py", "    password = request.form[\"password\"]"),
            ("/srv/app/de.yml", "  password: Passwort"),
            ("/srv/app/README.md", "Connect to postgres://user:password@localhost/db"),
            ("/etc/a.yaml", "  password: required"),
            ("/etc/postgresql/postgresql.conf", "password_encryption = scram-sha-256"),
            ("/etc/a.conf", "# password = example-7"),
            ("/etc/nginx/sites-available/a.conf", "proxy_pass http://127.0.0.1:3001;"),
            ("/etc/nginx/sites-available/a.conf", "        fastcgi_pass unix:/run/php.sock;"),
            ("/etc/nginx/sites-available/a.conf", "proxy_cache_key $scheme$host$uri;"),
        ] {
            assert_eq!(values(path, line), [""; 0], "{line}");
        }
    }
}
