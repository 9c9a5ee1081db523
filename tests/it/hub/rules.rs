//! What the fake Hub does wrong, and when: a list of rules, the first one that fits decides.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fake::{FakeHub, Origin, RepoFile};

/// One thing that goes wrong with one answer.
#[derive(Clone)]
pub enum Fault {
    /// Another answer altogether.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// The connection is reset before any answer.
    Hang(HangUp),
    /// The connection is reset after so many bytes of the body.
    ResetAfter(u64),
    /// The connection closes in good order after so many bytes of the body, in spite of Content-Length.
    CloseAfter(u64),
    /// Nothing more comes after so many bytes of the body, and the connection stays open.
    StallAfter(u64),
    /// The body comes at so many bytes per second.
    Bandwidth(u64),
    /// The answer comes late.
    Delay(Duration),
    /// Content-Length is wrong by so much; the body is not.
    ContentLength(i64),
    /// The whole file with status 200, whatever range was asked for.
    IgnoreRange,
    /// Content-Range names another place than the bytes are from.
    ContentRange(i64),
    /// The lowest bit of the byte at this offset of the file is another.
    Flip(u64),
    /// So many bytes fewer, with headers that agree.
    Short(u64),
    /// So many bytes more, with headers that agree.
    Long(u64),
    /// A page of a proxy or a hotel, with status 200.
    ErrorPage,
    /// The body as a gzip stream that nobody asked for.
    Gzip,
    /// Another file under the same address, with its own ETag, which If-Range sees.
    Other(Arc<RepoFile>),
    /// A redirection to any address.
    Redirect(u16, String),
    /// So many redirections on the same origin before the answer.
    Hops(u32),
    /// Other headers: the ones named here replace those that the answer has, an empty value takes one away.
    Headers(Vec<(String, String)>),
}

/// How a connection ends before the answer.
#[derive(Clone, Copy)]
pub enum HangUp {
    Reset,
    Close,
}

impl Fault {
    /// True where an answer with these bytes of a file, or with none, can suffer it.
    fn can_happen_to(&self, bytes: Option<&Range<u64>>) -> bool {
        use Fault::*;
        match (self, bytes) {
            (Answer { .. } | Hang(_) | Delay(_) | Redirect(..) | Hops(_) | Headers(_), _) => true,
            (_, None) => false,
            (Flip(at), Some(bytes)) => bytes.contains(at),
            (ResetAfter(n) | CloseAfter(n) | StallAfter(n), Some(bytes)) => bytes.end - bytes.start > *n,
            (_, Some(_)) => true,
        }
    }
}

/// A fault, the requests that it is for, and how often it happens.
pub struct Rule {
    pub origin: Option<Origin>,
    pub method: &'static str,
    pub path: String,
    pub skip: usize,
    pub times: usize,
    /// Answers with fewer bytes of a file are left alone.
    pub least: u64,
    pub fault: Fault,
}

impl Rule {
    /// True once for each request that it fits and whose turn it is. `bytes` are those of a file in the answer.
    pub fn takes(&mut self, origin: Origin, method: &str, path: &str, bytes: Option<&Range<u64>>) -> bool {
        let fits = self.origin.is_none_or(|own| own == origin)
            && (self.method == "*" || self.method == method)
            && path.contains(&self.path)
            && self.fault.can_happen_to(bytes)
            && bytes.is_none_or(|bytes| bytes.end - bytes.start >= self.least);
        if !fits || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.saturating_sub(1);
        true
    }
}

/// A rule that is being written: `hub.on("GET", "model.safetensors").nth(1).does(fault)`.
#[must_use = "a rule takes effect with `does`"]
pub struct On<'h> {
    hub: &'h FakeHub,
    rule: Rule,
}

impl<'h> On<'h> {
    /// Requests of this method (`*` is any) whose path and query contain this text.
    pub fn new(hub: &'h FakeHub, method: &'static str, path: &str) -> Self {
        let fault = Fault::Hang(HangUp::Reset);
        On { hub, rule: Rule { origin: None, method, path: path.to_owned(), skip: 0, times: 1, least: 0, fault } }
    }

    /// Only requests at this origin.
    pub fn at(mut self, origin: Origin) -> Self {
        self.rule.origin = Some(origin);
        self
    }

    /// From the n-th request on, counted from 0.
    pub fn nth(mut self, n: usize) -> Self {
        self.rule.skip = n;
        self
    }

    /// So many times; once is the rule.
    pub fn times(mut self, times: usize) -> Self {
        self.rule.times = times;
        self
    }

    /// Only to answers with so many bytes of a file: a look at a header is left alone.
    pub fn with_at_least(mut self, least: u64) -> Self {
        self.rule.least = least;
        self
    }

    /// Every time.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// This is what happens.
    pub fn does(mut self, fault: Fault) {
        self.rule.fault = fault;
        self.hub.add_rule(self.rule);
    }

    /// An answer of this status with these headers and an empty body.
    pub fn answers(self, status: u16, headers: &[(&str, &str)]) {
        self.answers_with(status, headers, b"");
    }

    /// An answer of this status with these headers and this body.
    pub fn answers_with(self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.does(Fault::Answer { status, headers, body: body.to_vec() });
    }
}
