//! The sockets of services that a captured command cannot reach: what it asked for there would not be captured.

use std::path::{Path, PathBuf};

use crate::machine::clone::root::listening_sockets;

/// Services that only answer questions, or take what is logged: names of users and hosts, and the system's log.
const ANSWERING: [&str; 6] = [
    "/run/nscd",
    "/run/systemd/journal",
    "/run/systemd/resolve",
    "/run/systemd/userdb",
    "/run/uuidd",
    "/var/lib/sss/pipes",
];

/// Those of the sockets that services of this machine listen at which are closed to a command.
pub(super) fn closed(allow: &[String]) -> Vec<PathBuf> {
    let mut sockets = listening_sockets();
    sockets.retain(|socket| {
        let answers = ANSWERING.iter().any(|known| socket.starts_with(known));
        !answers && !allow.iter().any(|name| is_of(socket, name))
    });
    sockets
}

/// Whether a socket belongs to the service of this name: a directory on its way or its own name, with or without
/// `.sock` or `.socket`. An absolute path means what is there and below it.
fn is_of(socket: &Path, name: &str) -> bool {
    if name.starts_with('/') {
        return socket.starts_with(name);
    }
    socket.components().any(|component| {
        let component = component.as_os_str().to_string_lossy();
        let stem = component.strip_suffix(".sock").or_else(|| component.strip_suffix(".socket"));
        component == name || stem == Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_a_directory_by_its_socket_or_by_a_path() {
        for (socket, name, is_named) in [
            ("/run/systemd/private", "systemd", true),
            ("/run/docker.sock", "docker", true),
            ("/run/docker.sock", "docker.sock", true),
            ("/run/postgresql/.s.PGSQL.5432", "postgresql", true),
            ("/run/dbus/system_bus_socket", "systemd", false),
            ("/srv/app/run/app.socket", "/srv/app", true),
            ("/srv/app/run/app.socket", "/srv/ap", false),
        ] {
            assert_eq!(is_of(Path::new(socket), name), is_named, "{socket} {name}");
        }
    }
}
