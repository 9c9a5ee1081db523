//! One request to the Hub: redirects, the token, tries and their pauses, and what each failure means.
//!
//! `ureq` does HTTP/1.1, TLS, proxies and the pool of connections; which redirect is followed and who sees the token is
//! decided here. The token goes to the Hub's own origin and nowhere else. A cookie is never kept, and nothing is sent that
//! the request does not need.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Request, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig};

use super::settings::{Settings, Token};
use super::trouble::{Trouble, of_status, of_transport};
use crate::error::{Error, HubFailure, Result, quote};

const USER_AGENT: &str = concat!("fireside/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Hops of one request; the Hub needs two.
const MOST_REDIRECTS: usize = 8;
/// Times that something is tried before its failure is final.
pub(super) const MOST_TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(400);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause that the Hub may ask for; a longer one is an error that says so.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest answer that is text.
const TEXT_LIMIT: u64 = 32 << 20;
/// Bodies of errors are read as far as this, for their message.
const ERROR_LIMIT: u64 = 16 << 10;

/// Makes requests to one Hub.
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoint: String,
    origin: String,
    token: Option<Token>,
    /// True once the Hub has answered: from then on a failed connection is worth another try.
    reached: AtomicBool,
    /// Told why a request for text is made again.
    on_retry: Box<dyn Fn(&Error) + Send + Sync>,
}

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Headers of the Hub's own answer, where that was a redirect to a store of large files.
    pub(crate) first_headers: Option<HeaderMap>,
    /// Who sent it, for messages.
    pub(crate) host: String,
    body: ureq::Body,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(settings.stall))
            .timeout_per_read(Some(settings.stall))
            .timeout_per_write(Some(settings.stall));
        if let Some(certificates) = own_certificates()? {
            let roots = RootCerts::new_with_certs(&certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let uri: Uri = settings.endpoint.parse().map_err(|_| bad_address(&settings.endpoint))?;
        let origin = origin_of(&uri).ok_or_else(|| bad_address(&settings.endpoint))?;
        Ok(Client {
            agent: config.build().into(),
            endpoint: settings.endpoint.clone(),
            origin,
            token: settings.token.clone(),
            reached: AtomicBool::new(false),
            on_retry: Box::new(|_| {}),
        })
    }

    /// Tells somebody why a listing or a header is asked for again.
    pub(crate) fn telling(mut self, on_retry: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_retry = Box::new(on_retry);
        self
    }

    /// Where the token came from, for messages.
    pub(crate) fn token_source(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.source.as_str())
    }

    /// The Hub's address, for messages: the page of a model is below it.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Asks for an address below the Hub's, once. `range` asks for a part of it.
    pub(crate) fn get(&self, path: &str, range: Option<Range<u64>>) -> Result<Answer, Trouble> {
        let mut address = format!("{}{path}", self.endpoint);
        let mut first_headers = None;
        let mut trusted = true; // until a redirect leaves the Hub's origin
        for _ in 0..=MOST_REDIRECTS {
            let uri: Uri = address.parse().map_err(|_| Trouble::Final(bad_address(&address)))?;
            let response = self.send(&uri, trusted, range.as_ref())?;
            let (parts, body) = response.into_parts();
            let status = parts.status.as_u16();
            if let (300..=399, Some(location)) = (status, parts.headers.get(header::LOCATION)) {
                let next = location.to_str().ok().and_then(|location| join(&uri, location));
                address = self.allowed(&uri, next, location.to_str().unwrap_or_default())?;
                let stays = address.parse().ok().and_then(|uri| origin_of(&uri)).is_some_and(|o| o == self.origin);
                if trusted && !stays {
                    first_headers = Some(parts.headers);
                }
                trusted &= stays;
                continue;
            }
            let host = host_of(&uri);
            let answer = Answer { status, headers: parts.headers, first_headers, host, body };
            return if matches!(status, 200 | 206) {
                answer.unencoded()
            } else {
                Err(self.refused(path, answer, trusted))
            };
        }
        Err(Trouble::Final(Error::hub(
            HubFailure::Server,
            format!("the Hub redirects {} more than {MOST_REDIRECTS} times", quote(path)),
            "check HF_ENDPOINT, or try again later",
        )))
    }

    /// Does something until it succeeds, its failure is final, or it was tried often enough.
    pub(crate) fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
        let mut tries = Tries::default();
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) => std::thread::sleep(tries.pause_after(trouble, &mut |error| (self.on_retry)(error))?),
            }
        }
    }

    /// A whole small answer as text, with its headers.
    pub(crate) fn text(&self, path: &str) -> Result<(String, HeaderMap)> {
        self.retrying(|| {
            let answer = self.get(path, None)?;
            let headers = answer.headers.clone();
            let (expected, host) = (answer.length(), answer.host.clone());
            let mut bytes = Vec::new();
            let read = answer.into_reader().take(TEXT_LIMIT).read_to_end(&mut bytes);
            read.map_err(|error| self.transport(error.into(), &host))?;
            if bytes.len() as u64 == TEXT_LIMIT {
                let problem = format!("expected at most {TEXT_LIMIT} bytes from {}, found more", quote(path));
                return Err(Error::hub(HubFailure::Hostile, problem, "check HF_ENDPOINT and the proxy between").into());
            }
            if expected.is_some_and(|expected| expected != bytes.len() as u64) {
                let problem = format!("the answer to {} ended after {} bytes", quote(path), bytes.len());
                return Err(Trouble::transient(HubFailure::Server, problem));
            }
            let text = String::from_utf8(bytes).map_err(|_| {
                let problem = format!("expected text from {}, found other bytes", quote(path));
                Trouble::transient(HubFailure::Server, problem)
            })?;
            Ok((text, headers))
        })
    }

    /// What a failed connection means.
    pub(crate) fn transport(&self, error: ureq::Error, host: &str) -> Trouble {
        of_transport(error, host, self.reached.load(Ordering::Relaxed))
    }

    fn send(
        &self,
        uri: &Uri,
        trusted: bool,
        range: Option<&Range<u64>>,
    ) -> Result<ureq::http::Response<ureq::Body>, Trouble> {
        let mut request = Request::get(uri);
        if let (true, Some(token)) = (trusted, &self.token) {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        if let Some(range) = range {
            request = request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        let request = request.body(()).map_err(|_| Trouble::Final(bad_address(&uri.to_string())))?;
        let response = self.agent.run(request).map_err(|error| self.transport(error, &host_of(uri)))?;
        self.reached.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// A text from outside without the token, should it hold that.
    fn censored(&self, text: &str) -> String {
        self.token.as_ref().map_or_else(|| text.to_owned(), |token| token.censored(text))
    }

    /// The address that a redirect may lead to: never from https to http.
    fn allowed(&self, from: &Uri, to: Option<String>, location: &str) -> Result<String, Trouble> {
        let hostile = |why: &str| {
            let problem = format!("the Hub redirects to {}, {why}", quote(&self.censored(location)));
            Trouble::Final(Error::hub(HubFailure::Hostile, problem, "check HF_ENDPOINT and the proxy between"))
        };
        let to = to.ok_or_else(|| hostile("which is no address"))?;
        if from.scheme_str() == Some("https") && !to.starts_with("https://") {
            return Err(hostile("which is not encrypted"));
        }
        Ok(to)
    }

    /// What an answer that is no success means.
    fn refused(&self, path: &str, answer: Answer, trusted: bool) -> Trouble {
        let header = |name: &str| {
            answer.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned).unwrap_or_default()
        };
        let (code, said) = (header("x-error-code"), self.censored(&header("x-error-message")));
        let wait = retry_after(&answer.headers, SystemTime::now());
        let status = answer.status;
        let mut body = Vec::new();
        let _ = answer.into_reader().take(ERROR_LIMIT).read_to_end(&mut body); // so that the connection can be used again
        if trusted {
            of_status(status, &code, &said, wait, path, self)
        } else {
            // A store's address is good for some minutes; the Hub gives a new one.
            let problem = format!("the store behind the Hub answers {status} for {}", quote(path));
            let hint = "try again later: what has arrived is kept";
            Trouble::Transient { error: Error::hub(HubFailure::Server, problem, hint), wait }
        }
    }
}

impl Answer {
    /// Refuses bodies that are not the file's own bytes.
    fn unencoded(self) -> Result<Self, Trouble> {
        match self.headers.get(header::CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                let problem = format!(
                    "the Hub sent a body in the encoding {}, which was not asked for",
                    quote(encoding.to_str().unwrap_or("?"))
                );
                Err(Trouble::transient(HubFailure::Damaged, problem))
            }
            _ => Ok(self),
        }
    }

    /// The tag of the file's content: that of the Hub, not of the store that it sends us to.
    pub(crate) fn etag(&self) -> Option<String> {
        let of = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let hub = self.first_headers.as_ref().unwrap_or(&self.headers);
        let tag = of(hub, "x-linked-etag").or_else(|| of(hub, "etag"))?;
        Some(tag.trim_start_matches("W/").trim_matches('"').to_owned())
    }

    /// Bytes of the body, where the answer says so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// First byte, end and whole size, of a part.
    pub(crate) fn content_range(&self) -> Option<(Range<u64>, u64)> {
        let text = self.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some((first..last.checked_add(1)?, size.parse().ok()?))
    }

    pub(crate) fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

/// Counts tries and makes the pauses between them grow.
#[derive(Default)]
pub(super) struct Tries {
    made: u32,
}

impl Tries {
    /// How long to wait before the next try, or the failure if there is none.
    pub(super) fn pause_after(&mut self, trouble: Trouble, on_retry: &mut dyn FnMut(&Error)) -> Result<Duration> {
        let (error, wait) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Transient { error, wait } => (error, wait),
        };
        self.made += 1;
        if self.made >= MOST_TRIES || wait.is_some_and(|wait| wait > LONGEST_WAIT) {
            return Err(error);
        }
        on_retry(&error);
        let pause = (FIRST_PAUSE * 2u32.pow(self.made - 1)).min(LONGEST_PAUSE);
        Ok(wait.map_or(pause, |wait| wait.max(pause)))
    }

    /// Something arrived, so the way is open again.
    pub(super) fn forget(&mut self) {
        self.made = 0;
    }
}

fn host_of(uri: &Uri) -> String {
    uri.authority()
        .map_or_else(String::new, |authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned())
}

/// `https://host:port` with the port always there, so that two spellings of one origin are equal.
fn origin_of(uri: &Uri) -> Option<String> {
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

/// Where a `Location` leads from an address.
fn join(from: &Uri, location: &str) -> Option<String> {
    let scheme = from.scheme_str()?;
    let authority = from.authority()?;
    let joined = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") || location.is_empty() {
        return None;
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = joined.parse().ok()?;
    let named = uri.authority()?.as_str().contains('@'); // a name before the host misleads readers of messages
    (!named).then_some(joined)
}

/// How long the Hub asks to wait: `Retry-After` in seconds or as a date, or the reset of its `RateLimit`.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(after) = text("retry-after") {
        let date = || httpdate::parse_http_date(after).ok().map(|date| date.duration_since(now).unwrap_or_default());
        return after.trim().parse().ok().map(Duration::from_secs).or_else(date);
    }
    let reset = text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    reset.parse().ok().map(Duration::from_secs)
}

/// The certificates that the user trusts instead of those that are built in.
fn own_certificates() -> Result<Option<Vec<ureq::tls::Certificate<'static>>>> {
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else { continue };
        let bad = |problem: String| {
            Error::hub(
                HubFailure::Unreachable,
                format!("cannot read the certificates {} that {name} names: {problem}", quote(&path.to_string_lossy())),
                format!("name a PEM file in {name}, or leave it unset"),
            )
        };
        let pem = std::fs::read(&path).map_err(|error| bad(error.to_string()))?;
        let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err(bad("it holds none".to_owned()));
        }
        return Ok(Some(certificates));
    }
    Ok(None)
}

fn bad_address(address: &str) -> Error {
    Error::hub(HubFailure::Server, format!("{} is no address", quote(address)), "check HF_ENDPOINT")
}

/// A path's text as a part of an address: everything but letters, digits, `-`, `_`, `.`, `~` and what `keep` holds.
pub(super) fn percent_encoded(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.as_bytes().contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_browsers_join_them() {
        let from: Uri = "https://hub:8443/a/b/c?x=1".parse().unwrap();
        let check = |location: &str, expected: Option<&str>| {
            assert_eq!(join(&from, location).as_deref(), expected, "{location}");
        };
        check("https://cdn/x?y=1", Some("https://cdn/x?y=1"));
        check("//cdn/x", Some("https://cdn/x"));
        check("/x/y", Some("https://hub:8443/x/y"));
        check("d", Some("https://hub:8443/a/b/d"));
        check("file:///etc/passwd", None);
        check("gopher://x", None);
        check("https://hub:8443@evil/x", None);
        check("", None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let check = |a: &str, b: &str, same: bool| {
            let origin = |text: &str| origin_of(&text.parse().unwrap()).unwrap();
            assert_eq!(origin(a) == origin(b), same, "{a} {b}");
        };
        check("https://hub/x", "https://HUB:443/y", true);
        check("https://hub/x", "http://hub/x", false);
        check("https://hub/x", "https://hub:8443/x", false);
        check("https://hub/x", "https://hub.evil/x", false);
        check("http://127.0.0.1:1/x", "http://127.0.0.1:2/x", false);
    }

    #[test]
    fn the_hub_says_when_to_come_back_in_three_ways() {
        let now = httpdate::parse_http_date("Fri, 20 Nov 2026 12:00:00 GMT").unwrap();
        let check = |name: &'static str, value: &str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{name}: {value}");
        };
        check("retry-after", "7", Some(7));
        check("retry-after", "Fri, 20 Nov 2026 12:00:09 GMT", Some(9));
        check("retry-after", "Fri, 20 Nov 2026 11:00:00 GMT", Some(0));
        check("retry-after", "soon", None);
        check("ratelimit", "\"api\";r=0;t=55", Some(55));
        check("x", "7", None);
    }
}
