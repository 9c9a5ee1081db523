//! What a failed request means: each cause its own sentence and its own next step, and whether another try may help.

use std::io;
use std::time::Duration;

use super::client::Client;
use crate::error::{Error, HubFailure, line, quote};

/// Why one try failed.
pub(crate) enum Trouble {
    /// Another try would end the same way.
    Final(Error),
    /// Another try may help, after `wait` where the Hub said how long.
    Transient { error: Error, wait: Option<Duration> },
}

impl Trouble {
    pub(crate) fn transient(kind: HubFailure, problem: impl Into<String>) -> Self {
        Trouble::Transient { error: Error::hub(kind, problem, "try again later: what has arrived is kept"), wait: None }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Final(error)
    }
}

/// What an answer's status means. `path` is the address below the Hub's, `code` and `said` are the Hub's own words.
pub(super) fn of_status(
    status: u16,
    code: &str,
    said: &str,
    wait: Option<Duration>,
    path: &str,
    client: &Client,
) -> Trouble {
    let repo = repo_of(path);
    let name = quote(repo);
    let page = format!("{}/{repo}", client.endpoint());
    let final_ = |kind, problem: String, hint: String| Trouble::Final(Error::hub(kind, problem, hint));
    let missing = |problem: String, hint: String| final_(HubFailure::NotFound, problem, hint);
    let said = if said.is_empty() { String::new() } else { format!(": {}", line(said)) };
    let with =
        client.token_source().map_or_else(|| "without a token".to_owned(), |s| format!("with the token from {s}"));
    let how_to_log_in = "set HF_TOKEN to a token from the Hub's settings page, or run `hf auth login`";
    match (status, code) {
        (401 | 403, "GatedRepo") => {
            let next = if client.token_source().is_some() {
                "ask for access"
            } else {
                "ask for access, then set HF_TOKEN to your token"
            };
            final_(
                HubFailure::Gated,
                format!("{name} is gated: its page has terms to accept first (asked {with})"),
                format!("visit {page}, {next}"),
            )
        }
        // The Hub does not tell who may not see a model from who misspelt it; a bad token it does name.
        (401 | 403 | 404, "RepoNotFound" | "RepositoryNotFound") | (401, "")
            if client.token_source().is_none() && !said.contains("Invalid credentials") =>
        {
            missing(
                format!("the Hub has no model {name}, or it is private (asked {with})"),
                format!("check the name at {page}; for a private model {how_to_log_in}"),
            )
        }
        (401 | 403 | 404, "RepoNotFound" | "RepositoryNotFound") => missing(
            format!("the Hub has no model {name}, or this token may not see it (asked {with})"),
            format!("check the name at {page}, and what the token may read"),
        ),
        (404, "RevisionNotFound") => missing(
            format!("{name} has no revision {}", quote(&revision_of(path))),
            format!("the branches and tags are listed at {page}/tree/main"),
        ),
        (404, "EntryNotFound") => missing(
            format!("{name} has no file {}", quote(&file_of(path))),
            format!("the files are listed at {page}/tree/main"),
        ),
        (_, "DisabledRepo") => final_(
            HubFailure::NotFound,
            format!("{name} is disabled on the Hub{said}"),
            format!("its page may say why: {page}"),
        ),
        (401, _) => {
            let hint = if client.token_source().is_some() {
                "the token may have ended or been revoked: make a new one on the Hub's settings page".to_owned()
            } else {
                how_to_log_in.to_owned()
            };
            final_(
                HubFailure::Unauthorized,
                format!("the Hub refuses the request for {name} (asked {with}){said}"),
                hint,
            )
        }
        (403, _) => final_(
            HubFailure::Unauthorized,
            format!("the Hub forbids the request for {name} (asked {with}){said}"),
            format!("visit {page} and see what the token may read"),
        ),
        (404 | 410, _) => missing(
            format!("the Hub has nothing at {}{said}", quote(path)),
            format!("check the name at {page}, and HF_ENDPOINT if it is set"),
        ),
        (429, _) => {
            let when = wait.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs()));
            let hint = if client.token_source().is_some() {
                format!("try again {when}: what has arrived is kept")
            } else {
                format!("try again {when}, or set HF_TOKEN: the Hub's limits are higher with a token")
            };
            let problem = format!("the Hub asks to come back {when}: too many requests (429)");
            Trouble::Transient { error: Error::hub(HubFailure::RateLimited, problem, hint), wait }
        }
        (408 | 416 | 500..=599, _) => {
            let problem = format!("the Hub answers {status} to the request for {name}{said}");
            let hint = "try again later: what has arrived is kept; the Hub's own state is at status.huggingface.co";
            Trouble::Transient { error: Error::hub(HubFailure::Server, problem, hint), wait }
        }
        _ => final_(
            HubFailure::Server,
            format!("expected a file from the Hub at {}, found status {status}{said}", quote(path)),
            "check HF_ENDPOINT and the proxy between".to_owned(),
        ),
    }
}

/// What a failed connection means. Before the Hub was `reached` at all, most failures will not pass by waiting.
pub(super) fn of_transport(error: ureq::Error, host: &str, reached: bool) -> Trouble {
    let offline = "check the connection; models that `fireside cache ls` lists run without one";
    let cause = match &error {
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()),
        _ => None,
    };
    let (problem, hint, may_pass) = match cause.unwrap_or(&error) {
        ureq::Error::HostNotFound => (format!("no address is known for {}", quote(host)), offline, reached),
        ureq::Error::Rustls(error) => untrusted(host, &error.to_string()),
        ureq::Error::Tls(problem) => untrusted(host, problem),
        ureq::Error::Timeout(_) => (
            format!("no byte came from {} for too long", quote(host)),
            if reached { "try again later: what has arrived is kept" } else { offline },
            reached,
        ),
        ureq::Error::ConnectProxyFailed(problem) => (
            format!("the proxy does not connect to {}: {problem}", quote(host)),
            "check HTTPS_PROXY and NO_PROXY",
            false,
        ),
        ureq::Error::InvalidProxyUrl => {
            ("the proxy's address is no address".to_owned(), "check HTTPS_PROXY and HTTP_PROXY", false)
        }
        ureq::Error::Io(error) => of_io(error, host, offline, reached),
        other => (
            format!("the answer from {} cannot be read: {other}", quote(host)),
            "try again later: what has arrived is kept",
            true,
        ),
    };
    let error = Error::hub(HubFailure::Unreachable, problem, hint);
    if may_pass { Trouble::Transient { error, wait: None } } else { Trouble::Final(error) }
}

fn untrusted(host: &str, problem: &str) -> (String, &'static str, bool) {
    let problem = problem.split([';', ':']).take(2).collect::<Vec<_>>().join(":"); // what follows lists other names
    (
        format!("the connection to {} is not trusted: {problem}", quote(host)),
        "check the clock; behind a proxy that opens connections, name its certificate in SSL_CERT_FILE",
        false,
    )
}

fn of_io<'a>(error: &io::Error, host: &str, offline: &'a str, reached: bool) -> (String, &'a str, bool) {
    use io::ErrorKind::*;
    let text = error.to_string();
    match error.kind() {
        _ if text.contains("certificate") => untrusted(host, &text),
        _ if text.contains("corrupt message") => {
            let problem = format!("expected an encrypted answer from {}, found another", quote(host));
            (problem, "check HF_ENDPOINT and the proxy between", false)
        }
        _ if text.contains("failed to lookup address") => {
            (format!("no address is known for {}", quote(host)), offline, reached)
        }
        ConnectionRefused => (format!("nothing answers at {}", quote(host)), offline, reached),
        NetworkUnreachable | HostUnreachable | NetworkDown | AddrNotAvailable => {
            (format!("there is no route to {}", quote(host)), offline, reached)
        }
        PermissionDenied => (format!("this process may not connect to {}: {error}", quote(host)), offline, false),
        TimedOut | WouldBlock => (
            format!("no byte came from {} for too long", quote(host)),
            "try again later: what has arrived is kept",
            true,
        ),
        _ => (
            format!("the connection to {} broke: {error}", quote(host)),
            "try again later: what has arrived is kept",
            true,
        ),
    }
}

/// `/api/models/owner/name/…` and `/owner/name/resolve/…` → `owner/name`.
fn repo_of(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    let rest = path.strip_prefix("api/models/").unwrap_or(path);
    let end =
        ["/resolve/", "/revision/", "/tree/"].iter().filter_map(|mark| rest.find(mark)).min().unwrap_or(rest.len());
    &rest[..end]
}

fn revision_of(path: &str) -> String {
    let rest = ["/revision/", "/tree/", "/resolve/"].iter().find_map(|mark| path.split(mark).nth(1)).unwrap_or(path);
    rest.split(['/', '?']).next().unwrap_or_default().replace("%2F", "/")
}

fn file_of(path: &str) -> String {
    let rest = path.split("/resolve/").nth(1).unwrap_or(path);
    rest.split_once('/').map_or(rest, |(_, file)| file).to_owned()
}
