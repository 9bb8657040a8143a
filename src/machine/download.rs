//! Fetches files from web servers.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ureq::{Agent, Error};

use super::files::{Digest, Digester};
use super::http::{address_of, configuration};
use super::signal::Signals;
use crate::failure::{Failure, FailureKind};

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(30);
/// How long the server may take before it answers.
const ANSWERING: Duration = Duration::from_secs(60);
/// How long the file may take altogether.
const RECEIVING: Duration = Duration::from_secs(30 * 60);
/// The pause before each further attempt.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// How much is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// A downloaded file: it has no name, and disappears with its last descriptor.
#[derive(Debug)]
pub struct Download {
    /// The file, open for reading and writing.
    pub file: File,
    /// The digest of its content.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Why an attempt failed.
struct Failed {
    error: anyhow::Error,
    /// Whether another attempt may succeed.
    passes: bool,
}

/// Fetches what `url` names into a file of the file system of `directory`, through the proxy and with the certificates
/// that the environment names. Follows redirections, and tries again when the server or the connection fails.
///
/// Before another attempt, `pause` is called with the error of the last one and how long to wait.
///
/// # Errors
/// Of the kinds `unreachable` and `timeout`, `http` with the status as code when the server refuses; with the
/// [`Interruption`](super::signal::Interruption) when the run is asked to stop.
pub fn download(
    url: &str,
    directory: &Path,
    signals: &Signals,
    mut pause: impl FnMut(&anyhow::Error, Duration),
) -> Result<Download> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let file = tempfile::tempfile_in(directory)
            .with_context(|| format!("cannot create a temporary file in `{}`", directory.display()))?;
        let from = url.to_owned();
        // An abandoned attempt ends at its timeouts: the library cannot be interrupted.
        let failed = match signals.interruptibly(move || fetch(&from, file))? {
            Ok(download) => return Ok(download),
            Err(failed) => failed,
        };
        match pauses.next().filter(|_| failed.passes) {
            Some(duration) => pause(&failed.error, duration),
            None => return Err(failed.error),
        }
    }
}

fn fetch(url: &str, mut file: File) -> Result<Download, Failed> {
    let for_good = |error: anyhow::Error| Failed { error, passes: false };
    let address = address_of(url).map_err(for_good)?;
    let config = configuration(&address)
        .timeout_connect(Some(CONNECTING))
        .timeout_recv_response(Some(ANSWERING))
        .timeout_recv_body(Some(RECEIVING));
    let mut response =
        Agent::new_with_config(config.build()).get(address).call().map_err(|error| failed(url, &error))?;
    let status = response.status();
    if status != 200 {
        let mut failure = Failure::new(format!("cannot download `{url}`: the server answered {status}"))
            .kind(FailureKind::Http);
        failure.code = Some(i32::from(status.as_u16()));
        let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        return Err(Failed { error: failure.into(), passes });
    }
    let mut from = response.body_mut().as_reader();
    let mut digester = Digester::default();
    let mut piece = vec![0; PIECE];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let kind = if error.kind() == std::io::ErrorKind::TimedOut {
                    FailureKind::Timeout
                } else {
                    FailureKind::Unreachable
                };
                let failure = Failure::new(format!("cannot download all of `{url}`: {error}")).kind(kind);
                return Err(Failed { error: failure.into(), passes: true });
            }
        };
        digester.update(&piece[..length]);
        file.write_all(&piece[..length]).with_context(|| format!("cannot save `{url}`")).map_err(for_good)?;
    }
    let (sha256, size) = digester.finish();
    Ok(Download { file, sha256, size })
}

fn failed(url: &str, error: &Error) -> Failed {
    let (kind, passes) = match error {
        Error::Timeout(_) => (FailureKind::Timeout, true),
        Error::Io(_) | Error::HostNotFound | Error::ConnectionFailed | Error::Protocol(_) => {
            (FailureKind::Unreachable, true)
        }
        _ => (FailureKind::Failed, false),
    };
    Failed { error: Failure::new(format!("cannot download `{url}`: {error}")).kind(kind).into(), passes }
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;
    use std::net::TcpListener;

    use signal_hook::consts::SIGTERM;

    use super::*;
    use crate::machine::signal::Interruption;

    /// Downloads without waiting, and gives the seconds of each pause too.
    fn attempted(url: &str, directory: &Path, signals: &Signals) -> (Result<Download>, Vec<u64>) {
        let mut pauses = Vec::new();
        let got = download(url, directory, signals, |_, duration| pauses.push(duration.as_secs()));
        (got, pauses)
    }

    /// A server that gives these answers to one connection after the other.
    fn server(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                let mut part = [0; 4096];
                while !asked.windows(4).any(|window| window == b"\r\n\r\n") {
                    let read = stream.read(&mut part).unwrap();
                    asked.extend_from_slice(&part[..read]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    #[test]
    fn what_passes_is_tried_again_and_the_file_comes_whole() {
        let url = server(&[
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf",
            "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole",
        ]);
        let directory = tempfile::tempdir().unwrap();
        let (got, pauses) = attempted(&url, directory.path(), &Signals::deaf().unwrap());
        let mut got = got.unwrap();
        assert_eq!((got.sha256, got.size), (Digest::of(b"whole"), 5));
        let mut text = String::new();
        got.file.rewind().unwrap();
        got.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "whole");
        assert_eq!(pauses, [1, 2]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_pass_is_said_at_once() {
        let url = server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]);
        let directory = tempfile::tempdir().unwrap();
        let (got, pauses) = attempted(&url, directory.path(), &Signals::deaf().unwrap());
        let error = got.unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!((failure.kind.as_str(), failure.code), ("http", Some(404)));
        assert!(pauses.is_empty());
    }

    #[test]
    fn a_server_that_is_not_there_is_given_up_after_five_attempts() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let signals = Signals::deaf().unwrap();
        let (got, pauses) = attempted(&format!("http://{free}/"), directory.path(), &signals);
        assert_eq!(got.unwrap_err().downcast_ref::<Failure>().unwrap().kind.as_str(), "unreachable");
        assert_eq!(pauses, [1, 2, 4, 8]);
    }

    #[test]
    fn download_ends_when_the_run_is_asked_to_stop() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let signals = Signals::deaf().unwrap();
        let terminal = signals.clone();
        let server = std::thread::spawn(move || {
            let connection = silent.accept().unwrap();
            terminal.deliver(SIGTERM);
            connection
        });
        let (got, pauses) = attempted(&url, directory.path(), &signals);
        assert!(got.unwrap_err().is::<Interruption>());
        assert!(pauses.is_empty());
        drop(server.join());
    }
}
