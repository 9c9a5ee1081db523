//! Work that was done is kept: runs that are killed at any point, and several at once.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::checks::{self, Watch, at_once, done, told, wrong_files};
use super::content::Content;
use super::fake::{FakeHub, RepoFile, Tree};
use super::{Home, heavy};

/// What may be under way when a process is killed: buffers of sockets, and pieces that no journal speaks of yet.
pub const UNDER_WAY: u64 = 4 << 20;

/// Bytes that still come behind the place of a kill.
const BEHIND: u64 = 1 << 20;

/// Where a run is killed.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// After so many bytes of weights went out.
    AtBytes(u64),
    /// So long after the last byte of the weights went out: between checking, renaming and linking.
    AfterLast(Duration),
    /// So long after it began.
    After(Duration),
}

/// What kills did.
pub struct Killed {
    /// Bytes of weights that were served, those of the run to the end included.
    pub served: u64,
    /// Kills that met a run that was not over.
    pub landed: usize,
}

/// Kills one after the other on one cache, and a run to the end.
pub fn killed(hub: &FakeHub, home: &Home, id: &str, commit: &str, tree: &Arc<Tree>, kills: &[Kill]) -> Killed {
    let mut landed = 0;
    let weights = &tree["model.safetensors"];
    let watch = Watch::start(home.repo(id), commit, tree.clone());
    let address = format!("/cdn/{}", weights.sha256);
    let before = hub.served(&address);
    for kill in kills {
        let start = hub.served(&address);
        let mut last = None;
        if let Kill::AtBytes(bytes) = kill {
            hub.stall_after(bytes + BEHIND); // who looks late finds the run under way all the same
        }
        let outcome = checks::run_until(home.fireside(hub, ["pull", id]), |took| match kill {
            Kill::AtBytes(bytes) => hub.served(&address) - start >= *bytes,
            Kill::After(time) => took >= *time,
            Kill::AfterLast(time) => {
                let all = hub.served(&address) - before >= weights.content.len();
                all && took >= *last.get_or_insert(took) + *time
            }
        });
        hub.go_on();
        assert!(matches!(outcome.code, None | Some(0)), "{kill:?}: {}", told(&outcome, hub));
        landed += usize::from(outcome.code.is_none());
    }
    let outcome = checks::run(home.fireside(hub, ["pull", id]));
    let wrong = watch.end();
    assert!(wrong.is_empty(), "{kills:?}: at some moment these were visible: {wrong:#?}");
    done(&format!("the run after {kills:?}"), &outcome, hub);
    assert_eq!(wrong_files(&home.repo(id), commit, tree), [""; 0], "{kills:?}");
    let blob = home.repo(id).join("blobs").join(weights.etag());
    assert!(blob.is_file(), "{kills:?}: {}", told(&outcome, hub));
    left_overs(home, id, kills);
    Killed { served: hub.served(&address) - before, landed }
}

/// A run that ended well leaves no part of a model's file behind.
fn left_overs(home: &Home, id: &str, kills: &[Kill]) {
    let blobs = std::fs::read_dir(home.repo(id).join("blobs")).expect("blobs").flatten();
    let parts: Vec<_> = blobs.map(|entry| entry.file_name()).filter(|name| is_part(&name.to_string_lossy())).collect();
    assert!(parts.is_empty(), "{kills:?}: parts were left behind: {parts:?}");
}

/// `ETAG.….incomplete`; a journal alone is some bytes, and `cache prune` takes it away.
fn is_part(name: &str) -> bool {
    name.ends_with(".incomplete")
        && !name.ends_with(".journal.incomplete")
        && name.split('.').next().is_some_and(|etag| etag.len() >= 40)
}

/// Runs that are killed once each, at points spread over a download; a kill that comes too late is made again, earlier.
/// Gives bytes served and bytes of the weights.
pub fn kill_points(points: &[Kill], size: u64, rate: u64) -> (u64, u64) {
    let file = RepoFile::new(Content::weights(size, 7), true);
    let served = at_once(4, points, |_, kill| {
        let mut kill = *kill;
        loop {
            let hub = FakeHub::start();
            let home = Home::new();
            heavy(&hub, "org/heavy", 4096, 1);
            let commit = hub.repo("org/heavy").with("model.safetensors", file.clone()).publish();
            hub.bandwidth(rate);
            let killed = killed(&hub, &home, "org/heavy", &commit, &hub.tree("org/heavy"), &[kill]);
            let header = 64 << 10; // a look at the header, in each of two runs
            assert!(
                killed.served <= size + UNDER_WAY + 2 * header,
                "{kill:?}: {} bytes were served for a file of {size}: {:#?}",
                killed.served,
                hub.seen()
            );
            if killed.landed == 1 {
                return killed.served;
            }
            kill = match kill {
                Kill::AtBytes(bytes) => Kill::AtBytes(bytes / 8 * 7),
                Kill::AfterLast(time) => Kill::AfterLast(time / 2),
                Kill::After(time) => Kill::After(time / 2),
            };
        }
    });
    (served.iter().sum(), size * points.len() as u64)
}

/// Points spread over the bytes and over the moments before and behind them.
pub fn spread(count: usize, size: u64, late: Range<u64>) -> Vec<Kill> {
    (0..count as u64)
        .map(|i| match i % 4 {
            0 | 1 => Kill::AtBytes(size * (2 * i + 1) / (2 * count as u64)),
            2 => Kill::AfterLast(Duration::from_micros(late.start + (late.end - late.start) * i / count as u64)),
            _ => Kill::After(Duration::from_micros(300 * i * 400 / count as u64)),
        })
        .collect()
}

#[test]
fn a_run_that_was_killed_is_continued_and_nothing_wrong_is_ever_visible() {
    kill_points(&spread(8, 12 << 20, 0..20_000), 12 << 20, 48 << 20);
}

#[test]
fn kills_in_a_row_cost_little_more_than_the_file() {
    let (size, kills) = (80 << 20, 4);
    let served = kills_in_a_row(size, kills, 160 << 20);
    let most = size + size / 50 + kills as u64 * UNDER_WAY;
    assert!(served <= most, "{served} bytes for {size} and {kills} kills, expected {most} at most");
}

/// One file, killed again and again at even steps. Gives the bytes served.
pub fn kills_in_a_row(size: u64, kills: usize, rate: u64) -> u64 {
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = heavy(&hub, "org/heavy", size, 11);
    hub.bandwidth(rate);
    let step = size / (kills as u64 + 1);
    let points = vec![Kill::AtBytes(step); kills];
    let killed = killed(&hub, &home, "org/heavy", &commit, &hub.tree("org/heavy"), &points);
    assert_eq!(killed.landed, kills, "kills that came in time");
    killed.served
}

/// Processes that begin at once on one empty cache. Gives bytes of weights served and wanted.
pub fn together(processes: usize, size: u64, rate: u64) -> (u64, u64) {
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = heavy(&hub, "org/heavy", size, 13);
    hub.bandwidth(rate);
    let tree = hub.tree("org/heavy");
    let watch = Watch::start(home.repo("org/heavy"), &commit, tree.clone());
    let outcomes = at_once(processes, &vec![(); processes], |_, ()| home.run(&hub, ["pull", "org/heavy"]));
    let wrong = watch.end();
    assert!(wrong.is_empty(), "at some moment these were visible: {wrong:#?}");
    for (index, outcome) in outcomes.iter().enumerate() {
        done(&format!("process {index}"), outcome, &hub);
        assert!(outcome.stdout.trim_end().ends_with(&commit), "process {index}: {}", told(outcome, &hub));
    }
    left_overs(&home, "org/heavy", &[]);
    let served = hub.served("/cdn/");
    // Each process may look at the header before it waits.
    let most = size + size / 10 + processes as u64 * (64 << 10);
    assert!(served <= most, "{processes} processes had {served} bytes served for a file of {size}: {:#?}", hub.seen());
    (served, size)
}

#[test]
fn processes_that_begin_at_once_share_one_download() {
    together(5, 16 << 20, 64 << 20);
}

#[test]
fn who_waits_says_for_whom() {
    let hub = FakeHub::start();
    let home = Home::new();
    heavy(&hub, "org/heavy", 8 << 20, 17);
    hub.stall_after(2 << 20);
    let patient = |args: &[&str]| {
        let mut command = home.fireside(&hub, ["pull", "org/heavy"].iter().chain(args));
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", "100");
        command
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| checks::run(patient(&[])));
        while !hub.is_stalled() {
            assert!(!first.is_finished(), "{:?}", first.join());
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut second =
            patient(&["--progress", "plain"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(second.stderr.take().unwrap()).lines().map_while(Result::ok);
        let waits = said.find(|line| line.contains("process "));
        hub.go_on();
        let rest: Vec<String> = said.collect();
        assert!(waits.is_some(), "expected whom it waits for: {rest:?}");
        assert_eq!(second.wait().unwrap().code(), Some(0), "{rest:?}");
        done("the first", &first.join().expect("a run"), &hub);
    });
}
