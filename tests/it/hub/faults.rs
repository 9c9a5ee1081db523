//! Bad networks: every corruption is seen before a file is, and what can be tried again is, politely.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::checks::{self, Watch, at_once, done, refused, told, wrong_files};
use super::content::{Content, noise};
use super::fake::{FakeHub, Origin, RepoFile};
use super::rules::{Fault, HangUp};
use super::{Home, heavy};

/// Bytes of an answer from which on it is weights and no look at their header.
const WEIGHTS: u64 = 1 << 20;

/// A way in which the bytes of a file become others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Corruption {
    Flip,
    Short,
    Long,
    ErrorPage,
    WrongRange,
    Gzip,
    /// The connection breaks, and what is there afterwards is another file with another ETag.
    ChangedMidFile,
    /// The connection breaks, and what is there afterwards is another file that claims to be the same.
    ChangedInSecret,
    /// The connection breaks, and the rest is the whole from its beginning.
    IgnoredRange,
    ContentLengthLong,
    ContentLengthShort,
}

pub const CORRUPTIONS: [Corruption; 11] = [
    Corruption::Flip,
    Corruption::Short,
    Corruption::Long,
    Corruption::ErrorPage,
    Corruption::WrongRange,
    Corruption::Gzip,
    Corruption::ChangedMidFile,
    Corruption::ChangedInSecret,
    Corruption::IgnoredRange,
    Corruption::ContentLengthLong,
    Corruption::ContentLengthShort,
];

/// How a corruption ended; both ways are right.
#[derive(Debug, PartialEq)]
pub enum Caught {
    Repaired,
    Refused,
}

/// The files that are downloaded and spoiled, hashed once.
pub struct Samples {
    weights: Arc<RepoFile>,
    others: Arc<RepoFile>,
    tokenizer: Vec<u8>,
}

impl Samples {
    pub fn new(size: u64) -> Self {
        let file = |seed| RepoFile::new(Content::weights(size, seed), true);
        Samples { weights: file(21), others: file(22), tokenizer: noise(40_000, 3) }
    }
}

/// Spoils one answer of a download at a place between 0 and 1.
pub fn corrupted(samples: &Samples, corruption: Corruption, place: f64, small: bool) -> Caught {
    let hub = FakeHub::start();
    let home = Home::new();
    heavy(&hub, "org/m", 4096, 1);
    let draft = hub.repo("org/m").with("model.safetensors", samples.weights.clone());
    // A small file that need not be JSON for a pull, unlike the tokenizer's.
    let draft = draft.file("merges.txt", samples.tokenizer.clone());
    let commit = draft.publish();
    let (path, len, least) = match small {
        true => ("/resolve/", 40_000, 40_000),
        false => ("/cdn/", samples.weights.content.len(), WEIGHTS.min(samples.weights.content.len() / 2)),
    };
    // The first bytes of weights are read for a look at their header, which is damage of another kind.
    let at = (4096.0 + place * (len - 8192) as f64) as u64;
    let on = || hub.on("GET", path).with_at_least(least);
    let odd = 1 + at % 5000;
    let first_piece = at % len.min(8 << 20);
    let breaks = |then: Fault| {
        hub.on("GET", path).with_at_least(least).does(Fault::ResetAfter(first_piece));
        hub.on("GET", path).with_at_least(8).does(then);
    };
    match corruption {
        Corruption::Flip => on().with_at_least(0).does(Fault::Flip(at)),
        Corruption::Short => on().does(Fault::Short(odd)),
        Corruption::Long => on().does(Fault::Long(odd)),
        Corruption::ErrorPage => on().does(Fault::ErrorPage),
        Corruption::WrongRange => {
            on().does(Fault::ContentRange(if at.is_multiple_of(2) { 1 } else { -1 } * odd as i64))
        }
        Corruption::Gzip => on().does(Fault::Gzip),
        Corruption::ChangedMidFile => breaks(Fault::Other(samples.others.clone())),
        Corruption::ChangedInSecret => {
            let others = &samples.others;
            let liar = RepoFile {
                content: others.content.clone(),
                sha256: others.sha256.clone(),
                git_sha1: others.git_sha1.clone(),
                is_large: true,
                etag: Some(samples.weights.sha256.clone()),
            };
            breaks(Fault::Other(Arc::new(liar)));
        }
        Corruption::IgnoredRange => breaks(Fault::IgnoreRange),
        Corruption::ContentLengthLong => on().does(Fault::ContentLength(odd as i64)),
        Corruption::ContentLengthShort => on().does(Fault::ContentLength(-(odd as i64))),
    }
    let planned = hub.faults_left();
    let what = format!("{corruption:?} at {at} of {} bytes", if small { "small" } else { "large" });
    let watch = Watch::start(home.repo("org/m"), &commit, hub.tree("org/m"));
    let first = home.run(&hub, ["pull", "org/m"]);
    let wrong = watch.end();
    assert!(wrong.is_empty(), "{what}: at some moment these were visible: {wrong:#?}\n{}", told(&first, &hub));
    assert!(hub.faults_left() < planned, "{what}: the fault did not happen\n{}", told(&first, &hub));
    let caught = if first.code == Some(0) {
        done(&what, &first, &hub);
        Caught::Repaired
    } else {
        refused(&what, &first, &hub);
        Caught::Refused
    };
    hub.clear_rules();
    let second = home.run(&hub, ["pull", "org/m"]);
    done(&format!("{what}: the run after it"), &second, &hub);
    assert_eq!(wrong_files(&home.repo("org/m"), &commit, &hub.tree("org/m")), [""; 0], "{what}");
    let all = home.repo("org/m").join("blobs").join(&samples.weights.sha256);
    assert!(all.is_file(), "{what}: {}", told(&second, &hub));
    caught
}

/// Corruptions of every kind in turn, at places spread over the file. Gives how many were repaired and refused.
pub fn corruptions(count: usize, size: u64) -> (usize, usize) {
    let samples = Samples::new(size);
    let caught = at_once(8, &vec![(); count], |i, ()| {
        let corruption = CORRUPTIONS[i % CORRUPTIONS.len()];
        // Another file in place of a small one is the same as a flip, and a small one is asked for without a range.
        let changes = [Corruption::ChangedMidFile, Corruption::ChangedInSecret, Corruption::IgnoredRange];
        let small = i % 5 == 4 && !changes.contains(&corruption);
        corrupted(&samples, corruption, (i as f64 * 0.618_034).fract(), small)
    });
    let repaired = caught.iter().filter(|caught| **caught == Caught::Repaired).count();
    (repaired, count - repaired)
}

#[test]
fn corrupted_bytes_are_caught_before_a_file_is_visible() {
    corruptions(2 * CORRUPTIONS.len(), 3 << 20);
}

/// A fault that passes, and how it is made.
type Passing = (&'static str, fn(&FakeHub));

const PASSING: &[Passing] = &[
    ("a 503 for the listing", |hub| hub.on("GET", "/api/models/").answers(503, &[])),
    ("a 500 for a small file", |hub| hub.on("GET", "/resolve/").answers(500, &[])),
    ("a 502 page for a small file", |hub| {
        hub.on("GET", "tokenizer.json").answers_with(
            502,
            &[("Content-Type", "text/html")],
            b"<html>bad gateway</html>",
        );
    }),
    ("504 twice for the weights", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).times(2).answers(504, &[])),
    ("a reset before an answer", |hub| hub.on("GET", "/resolve/").does(Fault::Hang(HangUp::Reset))),
    ("a close before an answer", |hub| hub.on("GET", "/api/models/").nth(1).does(Fault::Hang(HangUp::Close))),
    ("resets in the middle", |hub| {
        hub.on("GET", "/cdn/").with_at_least(WEIGHTS).times(3).does(Fault::ResetAfter(700_000))
    }),
    ("a reset at the first byte", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).does(Fault::ResetAfter(0))),
    ("a close in the middle", |hub| {
        hub.on("GET", "/cdn/").with_at_least(WEIGHTS).times(2).does(Fault::CloseAfter(1_234_567))
    }),
    ("a stall in the middle", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).does(Fault::StallAfter(1_500_000))),
    ("a stall before the first byte", |hub| hub.on("GET", "tokenizer.json").does(Fault::StallAfter(0))),
    ("a slow body", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).does(Fault::Bandwidth(4 << 20))),
    ("a late answer", |hub| hub.on("GET", "/resolve/").does(Fault::Delay(Duration::from_millis(300)))),
    ("a 429 in seconds", |hub| hub.on("GET", "/resolve/").answers(429, &[("Retry-After", "1")])),
    ("small files by way of a redirection", |hub| hub.redirects_small_files()),
    ("a few hops", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).does(Fault::Hops(3))),
    ("a link that is out of date", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).answers(403, &[])),
    ("pages of two", |hub| hub.pages_of(2)),
];

/// Seconds until silence is a failure: few where a fault is silence, and more than a crowded machine needs where it is not.
fn patience(what: &str) -> &'static str {
    if what.contains("stall") || what.contains("no byte") { "1" } else { "30" }
}

/// Every fault of the list, each on a cache of its own. Gives their number.
pub fn passing(rounds: usize) -> usize {
    let faults: Vec<&Passing> = PASSING.iter().cycle().take(rounds * PASSING.len()).collect();
    at_once(10, &faults, |_, (what, make)| {
        let hub = FakeHub::start();
        let home = Home::new();
        let commit = heavy(&hub, "org/m", 3 << 20, 5);
        make(&hub);
        let mut command = home.fireside(&hub, ["pull", "org/m"]);
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", patience(what));
        let outcome = checks::run(command);
        done(what, &outcome, &hub);
        assert_eq!(hub.faults_left(), 0, "{what}: the fault did not happen\n{}", told(&outcome, &hub));
        assert_eq!(wrong_files(&home.repo("org/m"), &commit, &hub.tree("org/m")), [""; 0], "{what}");
        assert!(outcome.took < Duration::from_secs(60), "{what}: {:?}\n{}", outcome.took, told(&outcome, &hub));
    });
    faults.len()
}

#[test]
fn what_passes_is_waited_out() {
    passing(1);
}

#[test]
fn what_arrived_before_a_break_is_not_asked_for_again() {
    let hub = FakeHub::start();
    let home = Home::new();
    let size = 6 << 20;
    heavy(&hub, "org/m", size, 5);
    hub.on("GET", "/cdn/").with_at_least(WEIGHTS).times(4).does(Fault::CloseAfter(1_000_000));
    done("pull", &home.run(&hub, ["pull", "org/m"]), &hub);
    let served = hub.served("/cdn/");
    assert!(served < size + (1 << 20), "{served} bytes for a file of {size}: {:#?}", hub.seen());
}

#[test]
fn the_hub_says_when_to_come_back_and_that_is_kept() {
    let date = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    // (header, status, least wait): a date has whole seconds, so that up to one of the three is lost.
    let cases = [
        ("Retry-After", "2".to_owned(), 429, 2.0),
        ("Retry-After", "2".to_owned(), 503, 2.0),
        ("Retry-After", date(), 429, 1.9),
        ("Retry-After", date(), 503, 1.9),
        ("RateLimit", "\"api\";r=0;t=2".to_owned(), 429, 2.0),
    ];
    at_once(cases.len(), &cases, |_, (header, value, status, least)| {
        for path in ["/api/models/", "/cdn/"] {
            let hub = FakeHub::start();
            let home = Home::new();
            heavy(&hub, "org/m", 1 << 20, 5);
            let value = if value.contains("GMT") { date() } else { value.clone() };
            hub.on("GET", path).answers(*status, &[(header, &value)]);
            let outcome = home.run(&hub, ["pull", "org/m"]);
            let what = format!("{status} with {header}: {value} for {path}");
            done(&what, &outcome, &hub);
            let seen = hub.seen();
            let first = seen.iter().find(|seen| seen.status == *status).expect("the answer");
            let key = first.path.split('?').next().expect("a path");
            let next = seen.iter().find(|seen| seen.at > first.at && seen.path.starts_with(key)).expect("another try");
            let waited = (next.at - first.at).as_secs_f64();
            assert!(waited >= *least - 0.01, "{what}: came back after {waited:.2} s\n{}", told(&outcome, &hub));
            // Five minutes are the longest that is waited; the rest is for machines with much else to do.
            assert!(waited <= least + 30.0, "{what}: came back after {waited:.2} s\n{}", told(&outcome, &hub));
        }
    });
}

/// Faults that never pass. Gives the largest number of tries of one request.
pub fn lasting(faults: &[Passing]) -> usize {
    let tries = at_once(faults.len(), faults, |_, (what, make)| {
        let hub = FakeHub::start();
        let home = Home::new();
        heavy(&hub, "org/m", 2 << 20, 5);
        make(&hub);
        let mut command = home.fireside(&hub, ["pull", "org/m"]);
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", patience(what));
        let outcome = checks::run(command);
        refused(what, &outcome, &hub);
        let seen = hub.seen();
        // One request is one address with one range: the rest of a file is asked for anew when something came.
        let same =
            |a: &super::fake::Seen, b: &super::fake::Seen| a.path == b.path && a.header("range") == b.header("range");
        let most = seen.iter().map(|a| seen.iter().filter(|b| same(a, b)).count()).max().unwrap_or(0);
        assert!(most <= 6, "{what}: one request was made {most} times\n{}", told(&outcome, &hub));
        assert!(!home.repo("org/m").join("snapshots").exists() || most > 0, "{what}");
        most
    });
    tries.into_iter().max().unwrap_or(0)
}

pub const LASTING: &[Passing] = &[
    ("503 for ever", |hub| hub.on("GET", "/api/models/").always().answers(503, &[])),
    ("resets for ever", |hub| hub.on("GET", "/cdn/").always().does(Fault::Hang(HangUp::Reset))),
    ("flips for ever", |hub| hub.on("GET", "/cdn/").always().does(Fault::Flip(1_500_000))),
    ("error pages for ever", |hub| hub.on("GET", "/resolve/").with_at_least(1).always().does(Fault::ErrorPage)),
    ("gzip for ever", |hub| hub.on("GET", "/cdn/").with_at_least(1).always().does(Fault::Gzip)),
    ("a wrong range for ever", |hub| {
        hub.on("GET", "/cdn/").with_at_least(WEIGHTS).always().does(Fault::ContentRange(7))
    }),
    ("redirections without end", |hub| hub.on("GET", "/resolve/").always().does(Fault::Hops(1000))),
    ("a wait of a day", |hub| hub.on("GET", "/api/models/").always().answers(429, &[("Retry-After", "86400")])),
    ("no token helps", |hub| hub.on("GET", "/cdn/").at(Origin::Cdn).always().answers(403, &[])),
    ("another tag for ever", |hub| drop(hub.repo("org/m").lies_about("model.safetensors", "../../../evil").publish())),
    ("escapes in a header for ever", |hub| {
        hub.on("GET", "/api/").always().answers(403, &[("X-Error-Message", "\u{1b}[2J")]);
    }),
    ("escapes in a wait for ever", |hub| {
        hub.on("GET", "/api/").always().answers(429, &[("Retry-After", "99999999999999999999\u{1b}")]);
    }),
    // The longest, and not among the quick ones: each try waits for it.
    ("no byte for ever", |hub| hub.on("GET", "/cdn/").with_at_least(WEIGHTS).always().does(Fault::StallAfter(0))),
];

#[test]
fn nothing_is_tried_more_than_six_times() {
    lasting(&LASTING[..LASTING.len() - 1]);
}
