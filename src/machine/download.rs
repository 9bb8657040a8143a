//! Fetches files from web servers.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ureq::{Agent, Error};

use super::files::{Digest, Digester};
use super::http::{address_of, configuration};
use crate::failure::Failure;

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(30);
/// How long the server may think before it answers.
const ANSWERING: Duration = Duration::from_secs(60);
/// How long the file may take altogether.
const RECEIVING: Duration = Duration::from_secs(30 * 60);
/// How long is waited before each further attempt.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// How often whoever waits looks whether to go on.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// How much is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// A file that was fetched: it has no name, and goes with its last descriptor.
#[derive(Debug)]
pub struct Download {
    /// The file, open for reading and writing.
    pub file: File,
    /// The digest of its content.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What whoever waits for a download does meanwhile.
pub trait Watch {
    /// Looks whether the file is still wanted.
    ///
    /// # Errors
    /// When it is not: with that the download ends.
    fn go_on(&self) -> Result<()>;

    /// An attempt failed for this reason; another one follows after so long, which passes here.
    fn pause(&self, why: &anyhow::Error, duration: Duration);
}

/// Why an attempt failed.
struct Failed {
    error: anyhow::Error,
    /// Whether another attempt may succeed.
    passes: bool,
}

/// Fetches what `url` names into a file of the file system of `directory`, through the proxy and with the
/// certificates that the environment names. Follows redirections, and tries again when the server or the way to it
/// fails.
///
/// # Errors
/// Of the kinds `unreachable` and `timeout`, `http` with the status as code when the server refuses; whatever
/// `watch` ends it with.
pub fn download(url: &str, directory: &Path, watch: &dyn Watch) -> Result<Download> {
    let mut pauses = PAUSES.into_iter();
    loop {
        watch.go_on()?;
        let failed = match attempt(url, directory, watch)? {
            Ok(download) => return Ok(download),
            Err(failed) => failed,
        };
        match pauses.next().filter(|_| failed.passes) {
            Some(pause) => watch.pause(&failed.error, pause),
            None => return Err(failed.error),
        }
    }
}

fn attempt(url: &str, directory: &Path, watch: &dyn Watch) -> Result<Result<Download, Failed>> {
    let file = tempfile::tempfile_in(directory)
        .with_context(|| format!("cannot make a file in `{}`", directory.display()))?;
    let (sender, receiver) = channel();
    let url = url.to_owned();
    // The library cannot be interrupted; an attempt given up ends by itself, at its timeouts.
    std::thread::spawn(move || {
        let _given_up = sender.send(fetch(&url, file));
    });
    loop {
        match receiver.recv_timeout(BETWEEN_LOOKS) {
            Ok(fetched) => return Ok(fetched),
            Err(RecvTimeoutError::Timeout) => watch.go_on()?,
            Err(RecvTimeoutError::Disconnected) => bail!("the download was lost"),
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
        let mut failure =
            Failure::new(format!("`{url}` cannot be fetched: the server says {status}")).kind("http");
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
                let kind =
                    if error.kind() == std::io::ErrorKind::TimedOut { "timeout" } else { "unreachable" };
                let failure = Failure::new(format!("`{url}` was not fetched whole: {error}")).kind(kind);
                return Err(Failed { error: failure.into(), passes: true });
            }
        };
        digester.update(&piece[..length]);
        file.write_all(&piece[..length])
            .with_context(|| format!("cannot keep what `{url}` gives"))
            .map_err(for_good)?;
    }
    let (sha256, size) = digester.finish();
    Ok(Download { file, sha256, size })
}

fn failed(url: &str, error: &Error) -> Failed {
    let (kind, passes) = match error {
        Error::Timeout(_) => ("timeout", true),
        Error::Io(_) | Error::HostNotFound | Error::ConnectionFailed | Error::Protocol(_) => {
            ("unreachable", true)
        }
        _ => ("failed", false),
    };
    Failed { error: Failure::new(format!("`{url}` cannot be fetched: {error}")).kind(kind).into(), passes }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Seek as _;
    use std::net::TcpListener;

    use super::*;

    /// ChildRecords the pauses instead of waiting, and goes on until reported otherwise.
    #[derive(Default)]
    struct ChildRecords {
        pauses: RefCell<Vec<u64>>,
        enough: Cell<bool>,
    }

    impl Watch for ChildRecords {
        fn go_on(&self) -> Result<()> {
            if self.enough.get() {
                bail!("enough");
            }
            Ok(())
        }

        fn pause(&self, _: &anyhow::Error, duration: Duration) {
            self.pauses.borrow_mut().push(duration.as_secs());
        }
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
        let notes = ChildRecords::default();
        let mut got = download(&url, directory.path(), &notes).unwrap();
        assert_eq!((got.sha256, got.size), (Digest::of(b"whole"), 5));
        let mut text = String::new();
        got.file.rewind().unwrap();
        got.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "whole");
        assert_eq!(*notes.pauses.borrow(), [1, 2]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_pass_is_said_at_once() {
        let url = server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]);
        let directory = tempfile::tempdir().unwrap();
        let notes = ChildRecords::default();
        let error = download(&url, directory.path(), &notes).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!((failure.kind, failure.code), ("http", Some(404)));
        assert!(notes.pauses.borrow().is_empty());
    }

    #[test]
    fn a_server_that_is_not_there_is_given_up_after_five_attempts() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let notes = ChildRecords::default();
        let error = download(&format!("http://{free}/"), directory.path(), &notes).unwrap_err();
        assert_eq!(error.downcast_ref::<Failure>().unwrap().kind, "unreachable");
        assert_eq!(*notes.pauses.borrow(), [1, 2, 4, 8]);
        notes.enough.set(true);
        assert_eq!(download("http://x", directory.path(), &notes).unwrap_err().to_string(), "enough");
    }
}
