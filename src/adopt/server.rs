//! The data of servers. A server writes it while it runs, so that its files are no files of a plan: copied under a running
//! server, they destroy what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::noise::is_noise;
use super::side::Side;
use super::trace::{Command, Trace, as_user, name_of};
use crate::machine::clone::root_files::SeenKind;

/// A server whose data is known.
struct Known {
    name: &'static str,
    /// Where its package keeps its data.
    root: &'static str,
    /// A file that each of its data directories has, wherever it is.
    mark: Option<&'static str>,
    /// The programs that change its data.
    clients: &'static [&'static str],
}

const fn known(
    name: &'static str,
    root: &'static str,
    mark: Option<&'static str>,
    clients: &'static [&'static str],
) -> Known {
    Known { name, root, mark, clients }
}

/// Where the packages of Debian and of the servers' makers keep data. What PostgreSQL has is read by its own protocol.
const KNOWN: &[Known] = &[
    known("Cassandra", "/var/lib/cassandra", None, &["cqlsh"]),
    known("ClickHouse", "/var/lib/clickhouse", None, &["clickhouse-client"]),
    known("CouchDB", "/var/lib/couchdb", Some("_dbs.couch"), &[]),
    known("Docker", "/var/lib/docker", None, &["docker", "docker-compose"]),
    known("Elasticsearch", "/var/lib/elasticsearch", None, &["elasticsearch-users"]),
    known("Grafana", "/var/lib/grafana", Some("grafana.db"), &["grafana", "grafana-cli"]),
    known("InfluxDB", "/var/lib/influxdb", Some("influxd.bolt"), &["influx"]),
    known(
        MARIADB,
        "/var/lib/mysql",
        Some("ibdata1"),
        &[
            "mariadb",
            "mariadb-admin",
            "mariadb-import",
            "mysql",
            "mysql_secure_installation",
            "mysqladmin",
            "mysqlimport",
        ],
    ),
    known(
        "MongoDB",
        "/var/lib/mongodb",
        Some("WiredTiger"),
        &["mongo", "mongoimport", "mongorestore", "mongosh"],
    ),
    known("MongoDB", "/var/lib/mongo", None, &[]),
    known(
        "OpenLDAP",
        "/var/lib/ldap",
        Some("data.mdb"),
        &["ldapadd", "ldapdelete", "ldapmodify", "ldappasswd", "slapadd"],
    ),
    known("OpenLDAP", "/etc/ldap/slapd.d", None, &[]),
    known("OpenSearch", "/var/lib/opensearch", None, &[]),
    known("PostgreSQL", "/var/lib/postgresql", Some("PG_VERSION"), &[]),
    known("Prometheus", "/var/lib/prometheus", None, &[]),
    known("RabbitMQ", "/var/lib/rabbitmq", None, &["rabbitmqctl"]),
    known("Redis", "/var/lib/redis", Some("dump.rdb"), &["redis-cli"]),
    known("Samba", "/var/lib/samba", None, &["pdbedit", "samba-tool", "smbpasswd"]),
    known("Valkey", "/var/lib/valkey", None, &["valkey-cli"]),
    known("containerd", "/var/lib/containerd", None, &["ctr", "nerdctl"]),
    known("etcd", "/var/lib/etcd", Some("member/snap/db"), &["etcdctl"]),
];

const MARIADB: &str = "MariaDB or MySQL";

/// What one server keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Data {
    server: String,
    /// A directory, or one file that the server holds open.
    root: PathBuf,
    is_directory: bool,
    /// The lines of the script that change it.
    lines: BTreeSet<usize>,
    /// Whether the script changed it, though no line of it is known.
    is_changed: bool,
}

/// The data of the servers of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Servers(Vec<Data>);

impl Servers {
    /// What is there after the script changed these paths.
    pub(super) fn of(changed: &BTreeSet<PathBuf>, from: &Side, to: &Side, trace: &Trace) -> Self {
        let mut servers = Self::default();
        let is_directory = |path: &Path| {
            to.files.look(path).ok().flatten().is_some_and(|seen| seen.kind == SeenKind::Directory)
        };
        for known in KNOWN.iter().filter(|known| is_directory(Path::new(known.root))) {
            servers.add(known.name, Path::new(known.root), true);
        }
        for path in changed {
            for known in KNOWN {
                if known.mark.is_some_and(|mark| path.ends_with(mark)) {
                    let parts = known.mark.map_or(0, |mark| Path::new(mark).components().count());
                    if let Some(root) = path.ancestors().nth(parts) {
                        servers.add(known.name, root, true);
                    }
                }
            }
        }
        for (path, unit) in to.open.files() {
            let is_directory = is_directory(path);
            if !changed.contains(path) || is_noise(path, is_directory) || is_directory {
                continue;
            }
            let server = unit.as_ref().map_or_else(|| "a process".to_owned(), |unit| format!("`{unit}`"));
            // A service has its own directory there; elsewhere a program can lie beside its data.
            match path.parent() {
                Some(above) if above.starts_with("/var/lib") && above != Path::new("/var/lib") => {
                    servers.add(&server, above, true);
                }
                _ => servers.add(&server, path, false),
            }
        }
        for data in &mut servers.0 {
            data.find_changes(trace);
            // Each database is a directory.
            if data.server == MARIADB {
                let root = data.root.to_string_lossy();
                let before = from.files.names(&root);
                let mut new = to.files.names(&root).into_iter().filter(|name| !before.contains(name));
                data.is_changed |= !before.is_empty() && new.any(|name| is_directory(&data.root.join(name)));
            }
        }
        servers.0.retain(|data| data.is_touched() || changed.iter().any(|path| data.holds(path)));
        servers
    }

    fn add(&mut self, server: &str, root: &Path, is_directory: bool) {
        if !self.0.iter().any(|known| known.is_directory && root.starts_with(&known.root)) {
            let (server, root) = (server.to_owned(), root.to_owned());
            self.0.push(Data { server, root, is_directory, lines: BTreeSet::new(), is_changed: false });
        }
    }

    /// Whether a path is a server's.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.0.iter().any(|data| data.holds(path))
    }

    /// What the script changed in the data of servers, for a comparison.
    pub(super) fn missing(&self) -> Vec<String> {
        let touched = self.0.iter().filter(|data| data.is_touched());
        touched.map(|data| format!("data of {} in {}: missing", data.server, data.root.display())).collect()
    }

    /// The same with the way on.
    pub(super) fn unexpressed(&self, script: &str) -> Vec<String> {
        let way = |data: &Data| {
            let lines: Vec<String> = data.lines.iter().map(ToString::to_string).collect();
            let what = match &lines[..] {
                [] => format!("what `{script}` does with it"),
                [line] => format!("what line {line} of `{script}` does"),
                lines => format!("what lines {} of `{script}` do", lines.join(", ")),
            };
            format!(
                "{}: it is the data of {}, which a copy of the files would destroy: write {what} as `cmd::run`, or dump the \
                 data and restore it in a step",
                data.root.display(),
                data.server
            )
        };
        self.0.iter().filter(|data| data.is_touched()).map(way).collect()
    }

    /// What was neither copied nor compared.
    pub(super) fn uncompared(&self) -> Vec<String> {
        self.0.iter().map(|data| format!("{}: the data of {}", data.root.display(), data.server)).collect()
    }
}

impl Data {
    fn is_touched(&self) -> bool {
        self.is_changed || !self.lines.is_empty()
    }

    /// Whether a path is in the directory, or is the file or one that SQLite keeps beside it.
    fn holds(&self, path: &Path) -> bool {
        const BESIDE: [&str; 3] = ["-journal", "-shm", "-wal"];
        if self.is_directory {
            return path != self.root && path.starts_with(&self.root);
        }
        let root = self.root.to_string_lossy();
        let path = path.to_string_lossy();
        path.strip_prefix(&*root).is_some_and(|rest| rest.is_empty() || BESIDE.contains(&rest))
    }

    /// Finds the commands of the script that change it.
    fn find_changes(&mut self, trace: &Trace) {
        // What a program only logs is as good in another log.
        if !self.is_directory && self.root.extension().is_some_and(|extension| extension == "log") {
            return;
        }
        let of_it = KNOWN.iter().filter(|known| known.name == self.server);
        let clients: BTreeSet<&str> = of_it.flat_map(|known| known.clients).copied().collect();
        let root = self.root.to_string_lossy();
        let changes = |command: &&Command| {
            let words = plain(command);
            let Some((program, arguments)) = words.split_first() else { return false };
            let program = name_of(program);
            let names_it = || arguments.iter().any(|word| word.contains(&*root));
            clients.contains(program) && !only_reads(arguments)
                || WRITERS.contains(&program) && names_it()
                || trace.is_redirected_to(command, &root)
        };
        self.lines.extend(trace.commands.iter().filter(changes).map(|command| command.line));
        if trace.commands.is_empty() {
            let names = |line: &str| {
                let mut words =
                    line.split(|letter: char| !(letter.is_alphanumeric() || "_-.".contains(letter)));
                words.any(|word| clients.contains(word)) && !line.contains("install")
            };
            let is_comment = |line: &str| line.trim_start().starts_with('#');
            let lines = trace.lines().filter(|(_, line)| names(line) && !is_comment(line));
            self.lines.extend(lines.map(|(number, _)| number));
        }
    }
}

/// Programs that write to the paths they are given.
const WRITERS: [&str; 12] =
    ["cp", "dd", "install", "ln", "mv", "rm", "rsync", "sed", "sqlite3", "tar", "tee", "unzip"];

/// A command without what only runs it: another user, an environment, a limit of time.
fn plain(command: &Command) -> Vec<String> {
    const AROUND: [&str; 6] = ["env", "exec", "nice", "nohup", "time", "timeout"];
    let mut words = as_user(command.words()).1;
    if words.first().is_some_and(|word| word == "sudo") {
        words.remove(0);
    }
    let mut is_around = false;
    let begin = words.iter().position(|word| {
        let is_argument = word.starts_with('-')
            || word.contains('=')
            || word.starts_with(|first: char| first.is_ascii_digit());
        let was_around = is_around;
        is_around |= AROUND.contains(&word.as_str());
        !(AROUND.contains(&word.as_str()) || was_around && is_argument)
    });
    begin.map(|begin| words.split_off(begin)).unwrap_or_default()
}

/// Whether the arguments of a client ask for nothing but information.
fn only_reads(arguments: &[String]) -> bool {
    const QUESTIONS: [&str; 8] = ["--help", "--version", "get", "info", "ping", "ps", "status", "version"];
    let is_question = |word: &String| {
        let word = word.trim().to_lowercase();
        let statements: Vec<&str> = word.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        let is_reading = |part: &&str| ["get ", "select ", "show "].iter().any(|verb| part.starts_with(verb));
        QUESTIONS.contains(&word.as_str()) || !statements.is_empty() && statements.iter().all(is_reading)
    };
    arguments.iter().any(is_question)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::live::Live;
    use crate::adopt::open_files::OpenFiles;
    use crate::machine::clone::root_files::RootFiles;

    fn side(directory: &Path, open: OpenFiles) -> Side {
        Side::of(RootFiles::new(directory, None), Live { open, ..Live::default() })
    }

    fn write(directory: &Path, paths: &[&str]) -> BTreeSet<PathBuf> {
        for path in paths {
            let path = directory.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "data").unwrap();
        }
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn the_data_of_a_server_is_named_once_with_the_lines_that_change_it() {
        let [before, after] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let changed = write(
            after.path(),
            &[
                "/etc/motd",
                "/var/lib/mysql/ibdata1",
                "/var/lib/mysql/mysql/global_priv.MAD",
                "/srv/data/ibdata1",
            ],
        );
        let [from, to] = [&before, &after].map(|directory| side(directory.path(), OpenFiles::default()));
        let trace = Trace::read(
            "\u{1}1.0 0 2 /\u{2}mysqladmin ping\n\u{1}2.0 0 3 /\u{2}sudo mysql -uroot -e 'CREATE DATABASE shop'\n\u{1}3.0 0 4 /\u{2}mysql -e 'SELECT 1'\n",
            "",
        );
        let servers = Servers::of(&changed, &from, &to, &trace);
        let holds = |path: &str| servers.holds(Path::new(path));
        assert!(holds("/var/lib/mysql/mysql/global_priv.MAD") && holds("/srv/data/ibdata1"));
        assert!(!holds("/etc/motd") && !holds("/var/lib/mysql"));
        let said = servers.unexpressed("x.sh");
        assert!(said[0].starts_with("/var/lib/mysql: it is the data of MariaDB or MySQL"), "{said:?}");
        assert!(said[0].contains("what line 3 of `x.sh` does"), "{said:?}");
        assert_eq!(servers.missing()[0], "data of MariaDB or MySQL in /var/lib/mysql: missing");
    }

    #[test]
    fn a_server_that_was_only_installed_is_not_compared_and_lacks_nothing() {
        let [before, after] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write(before.path(), &["/var/lib/mysql/mysql/db.MAD"]);
        let changed = write(after.path(), &["/var/lib/mysql/mysql/db.MAD", "/var/lib/mysql/ib_logfile0"]);
        let [from, to] = [&before, &after].map(|directory| side(directory.path(), OpenFiles::default()));
        let trace = Trace::read("\u{1}1.0 0 2 /\u{2}apt-get install mysql\n", "");
        let servers = Servers::of(&changed, &from, &to, &trace);
        assert_eq!(servers.missing(), [""; 0]);
        assert_eq!(servers.uncompared(), ["/var/lib/mysql: the data of MariaDB or MySQL"]);
        // A database whose command is not known, and a script whose commands are not traced.
        let changed = write(after.path(), &["/var/lib/mysql/shop/db.opt"]);
        assert_eq!(Servers::of(&changed, &from, &to, &trace).missing().len(), 1);
        write(before.path(), &["/var/lib/mysql/shop/db.opt"]);
        let untraced = Trace::read("", "apt-get install mysql\n# mysql\necho | mysql -uroot\n");
        let servers = Servers::of(&changed, &from, &to, &untraced);
        assert!(servers.unexpressed("x.sh")[0].contains("line 3 of"), "{:?}", servers.unexpressed("x.sh"));
    }

    #[test]
    fn what_a_service_holds_open_for_writing_is_its_data() {
        let directory = tempfile::tempdir().unwrap();
        let changed = write(
            directory.path(),
            &[
                "/var/lib/app/state",
                "/var/lib/app/index",
                "/srv/app/app.db",
                "/srv/app/app.db-wal",
                "/srv/app/main.js",
            ],
        );
        let open = OpenFiles::read(
            "/proc/7/fd /var/lib/app/state\n/proc/7/fd /srv/app/app.db\n/proc/7/fd /dev/null\n/proc/7/fd /gone (deleted)\n/proc/7/cgroup:0::/system.slice/app.service\n",
        );
        assert_eq!(open.files().len(), 2);
        let side = side(directory.path(), open);
        let trace = Trace::read("\u{1}1.0 0 2 /\u{2}sqlite3 /srv/app/app.db 'CREATE TABLE x (y)'\n", "");
        let servers = Servers::of(&changed, &side, &side, &trace);
        let held: Vec<&PathBuf> = changed.iter().filter(|path| servers.holds(path)).collect();
        assert_eq!(held.len(), 4, "{held:?}");
        assert_eq!(servers.missing(), ["data of `app.service` in /srv/app/app.db: missing"]);
        assert_eq!(servers.uncompared().len(), 2);
    }
}
