//! What stands in the server of a scenario.

use std::path::PathBuf;

use super::plans::TOKEN;
use super::server::Server;

/// The step that changes all of it.
const STEP: &str = "01";

/// What is there before.
pub(crate) fn make(server: &Server) {
    for sql in [
        "CREATE ROLE robin LOGIN PASSWORD 'the old one' CONNECTION LIMIT 5",
        "CREATE DATABASE attic OWNER robin STRATEGY file_copy",
    ] {
        server.psql(sql).unwrap();
    }
    server.psql_in("attic", "CREATE TABLE things AS SELECT 'old' AS name").unwrap();
}

/// Roles with what they may and which password is theirs, databases with their owners, and what stands in tables.
pub(crate) fn entries(server: &Server) -> Vec<(PathBuf, String)> {
    let one = |what: String| (PathBuf::from(STEP).join(&what), what);
    let lines = |database: &str, sql: &str| -> Vec<String> {
        server.psql_in(database, sql).unwrap().lines().map(str::to_owned).collect()
    };
    let mut found = Vec::new();
    // A new verifier has a salt of its own: what can be compared is which password gets in.
    let roles = "SELECT rolname, rolcreatedb, rolcreaterole, rolcanlogin, rolconnlimit, rolvaliduntil \
                 FROM pg_roles WHERE rolname !~ '^(pg_|postgres)'";
    for role in lines("postgres", roles) {
        let name = role.split('|').next().unwrap().to_owned();
        let fits = |password| server.logs_in(&name, password, "postgres");
        let password = [TOKEN, "the old one"].into_iter().find(|password| fits(password));
        found.push(one(format!("role {role}, password {password:?}")));
    }
    let databases = "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE NOT datistemplate";
    for database in lines("postgres", databases) {
        let name = database.split('|').next().unwrap().to_owned();
        found.push(one(format!("database {database}")));
        let tables = "SELECT relname, query_to_xml('TABLE ' || oid::regclass, true, true, '') FROM pg_class \
                      WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let content = lines(&name, tables).concat();
        found.push((PathBuf::from(STEP).join(format!("tables of {name}")), content));
    }
    found
}
