//! Sends requests to web servers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use ureq::config::ConfigBuilder;
use ureq::http::{Method, Request, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Error};

use super::signal::Signals;
use crate::failure::{Failure, FailureKind};

/// How long an answer may take by default.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How many redirections are followed.
const REDIRECTIONS: u32 = 10;

/// The longest body that is read, in bytes: the longest text that a script may hold.
const LONGEST_BODY: u64 = 16 * 1024 * 1024;

/// A request.
#[derive(Clone, Debug)]
pub struct Question {
    /// The address: `http://…` or `https://…`.
    pub url: String,
    /// What is sent; a request with a body is a POST, one without is a GET.
    pub body: Option<Vec<u8>>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// How long it may take altogether.
    pub timeout: Duration,
    /// Whether redirections are followed.
    pub follow: bool,
}

/// The answer of a server.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, such as 200 or 404.
    pub status: u16,
    /// The headers by their names in lower case; those given more than once are joined by commas.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Question {
    /// A GET of this address.
    pub fn get(url: &str) -> Self {
        Self { url: url.to_owned(), body: None, headers: BTreeMap::new(), timeout: TIMEOUT, follow: true }
    }

    /// Sends the request and waits for the answer. An abandoned request ends at its timeout: the library cannot be
    /// interrupted.
    ///
    /// # Errors
    /// Of the kind `unreachable` when no server answers, `timeout` when the answer takes too long; with the
    /// [`Interruption`](super::signal::Interruption) when the run is asked to stop. Any status is an answer.
    pub fn ask(self, signals: &Signals) -> Result<Answer> {
        signals.interruptibly(|| self.answer())?
    }

    fn answer(self) -> Result<Answer> {
        let address = address_of(&self.url)?;
        let config = configuration(&address)
            .timeout_global(Some(self.timeout))
            .max_redirects(if self.follow { REDIRECTIONS } else { 0 })
            .max_redirects_will_error(self.follow);
        let agent = Agent::new_with_config(config.build());
        let method = if self.body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(address);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let asked = match self.body {
            Some(ref body) => {
                request.body(body.as_slice()).map_err(Error::from).and_then(|request| agent.run(request))
            }
            None => request.body(()).map_err(Error::from).and_then(|request| agent.run(request)),
        };
        let mut response = asked.map_err(|error| self.failure(&error))?;
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in response.headers() {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|known| {
                    known.push_str(", ");
                    known.push_str(&value);
                })
                .or_insert_with(|| value.clone().into_owned());
        }
        let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec();
        let body = body.map_err(|error| self.failure(&error))?;
        Ok(Answer { status: response.status().as_u16(), headers, body })
    }

    fn failure(&self, error: &Error) -> Failure {
        let kind = match error {
            Error::Timeout(_) => FailureKind::Timeout,
            Error::Io(_) | Error::HostNotFound | Error::ConnectionFailed => FailureKind::Unreachable,
            Error::BadUri(_) | Error::Http(_) => FailureKind::Usage,
            _ => FailureKind::Failed,
        };
        Failure::new(format!("no answer from `{}`: {error}", self.url)).kind(kind)
    }
}

/// Parses an address.
pub(super) fn address_of(url: &str) -> Result<Uri> {
    let address: Uri = match url.parse() {
        Ok(address) => address,
        Err(error) => bail!(Failure::new(format!("invalid URL `{url}`: {error}")).kind(FailureKind::Usage)),
    };
    if !matches!(address.scheme_str(), Some("http" | "https")) {
        bail!(
            Failure::new(format!("invalid URL `{url}`: it must begin with http:// or https://"))
                .kind(FailureKind::Usage)
        );
    }
    Ok(address)
}

/// The configuration for every server: the proxy from the environment, and the certificates that the machine trusts or
/// that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
pub(super) fn configuration(address: &Uri) -> ConfigBuilder<AgentScope> {
    let trust = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder().http_status_as_error(false).tls_config(trust);
    // A proxy would connect to itself.
    if is_this_machine(address) { config.proxy(None) } else { config }
}

fn is_this_machine(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A server that answers once with these bytes; returns its address, and what it was asked.
    fn server(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut part = [0; 4096];
            while !asked.windows(4).any(|window| window == b"\r\n\r\n") {
                let read = stream.read(&mut part).unwrap();
                asked.extend_from_slice(&part[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, asked)
    }

    fn ask(question: Question) -> Result<Answer> {
        question.ask(&Signals::deaf().unwrap())
    }

    #[test]
    fn any_status_is_an_answer_with_its_headers_and_body() {
        let (url, asked) = server(
            "HTTP/1.1 404 Not Found\r\nX-Kept: a\r\nX-Kept: b\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone",
        );
        let mut question = Question::get(&format!("{url}/x"));
        question.headers.insert("X-Asked".into(), "yes".into());
        let answer = ask(question).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (404, b"gone".as_slice()));
        assert_eq!(answer.headers["x-kept"], "a, b");
        let asked = asked.join().unwrap().to_lowercase();
        assert!(asked.starts_with("get /x http/1.1\r\n") && asked.contains("x-asked: yes\r\n"), "{asked}");
    }

    #[test]
    fn a_body_is_posted() {
        let (url, asked) = server("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        let question = Question { body: Some(b"{}".to_vec()), ..Question::get(&url) };
        assert_eq!(ask(question).unwrap().status, 204);
        assert!(asked.join().unwrap().starts_with("POST / "));
    }

    #[test]
    fn a_redirection_that_is_not_to_be_followed_is_the_answer() {
        let (url, _) = server(
            "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        let answer = ask(Question { follow: false, ..Question::get(&url) }).unwrap();
        assert_eq!((answer.status, answer.headers["location"].as_str()), (302, "/other"));
    }

    #[test]
    fn no_server_is_unreachable_and_silence_is_a_timeout() {
        let kind = |error: anyhow::Error| error.downcast_ref::<Failure>().unwrap().kind.as_str();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = ask(Question::get(&format!("http://{free}"))).unwrap_err();
        assert!(error.to_string().contains(&free.to_string()), "{error}");
        assert_eq!(kind(error), "unreachable");

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let question = Question { timeout: Duration::from_millis(50), ..Question::get(&url) };
        assert_eq!(kind(ask(question).unwrap_err()), "timeout");
        assert_eq!(kind(ask(Question::get("ftp://x")).unwrap_err()), "usage");
    }
}
