//! What every run must keep, whatever the network does: how it refuses, what it shows, where it writes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use super::content::{Content, hex};
use super::fake::{FakeHub, Tree};
use super::walk;
use crate::program::{Outcome, hints_are_of_the_verb, reader};

/// Longer than any run of these tests; a run that is still there hangs.
const LONGEST_RUN: Duration = Duration::from_secs(300);

/// Runs a command to its end, or for as long as a run may last.
pub fn run(command: Command) -> Outcome {
    run_until(command, |_| false)
}

/// Runs a command and kills it, with no chance to clean up, as soon as `stop` says so.
pub fn run_until(mut command: Command, mut stop: impl FnMut(Duration) -> bool) -> Outcome {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().expect("the program's state") {
            break status;
        }
        if start.elapsed() > LONGEST_RUN || stop(start.elapsed()) {
            child.kill().expect("a signal");
            break child.wait().expect("the program's end");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = start.elapsed();
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8(reader.join().expect("a reader")).expect("the program writes UTF-8")
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    hints_are_of_the_verb(&command, &stderr);
    Outcome { code: status.code(), stdout, stderr, took, worked: None }
}

/// A run that went well.
#[track_caller]
pub fn done(what: &str, outcome: &Outcome, hub: &FakeHub) {
    assert!(outcome.code == Some(0), "{what}: expected success\n{}", told(outcome, hub));
    quiet_terminal(what, outcome, hub);
}

/// A run that failed as a failure should: exit code 1, one line of error, a hint, nothing that floods or drives a
/// terminal. Gives the line.
#[track_caller]
pub fn refused(what: &str, outcome: &Outcome, hub: &FakeHub) -> String {
    let told = || told(outcome, hub);
    assert!(outcome.code == Some(1), "{what}: expected exit code 1\n{}", told());
    quiet_terminal(what, outcome, hub);
    let errors: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1, "{what}: expected one line `error: …`\n{}", told());
    assert!(outcome.stderr.lines().any(|line| line.starts_with("hint: ")), "{what}: expected a hint\n{}", told());
    assert!(outcome.stdout.is_empty(), "{what}: expected no answer on stdout\n{}", told());
    errors[0].to_owned()
}

/// No control characters, no flood.
#[track_caller]
pub fn quiet_terminal(what: &str, outcome: &Outcome, hub: &FakeHub) {
    let drives = |c: char| c.is_control() && c != '\n';
    let text = [outcome.stdout.as_str(), outcome.stderr.as_str()];
    assert!(!text.iter().any(|text| text.contains(drives)), "{what}: control characters\n{}", told(outcome, hub));
    assert!(outcome.stderr.len() <= 4096, "{what}: {} bytes on stderr\n{}", outcome.stderr.len(), told(outcome, hub));
}

/// A run and what it asked for, for a test's message.
pub fn told(outcome: &Outcome, hub: &FakeHub) -> String {
    let seen = hub.seen();
    let shown = &seen[..seen.len().min(40)];
    format!("{outcome:#?}\nthe Hub saw {} requests, the first of them: {shown:#?}", seen.len())
}

/// Files that were hashed and found right, so that watching costs little.
#[derive(Default)]
pub struct Known(HashSet<(PathBuf, u64, Option<SystemTime>)>);

/// What is wrong in a repository's folder of a cache: visible files that are not the Hub's, blobs that are not what
/// their name says, references to other commits.
pub fn wrong_files(repo: &Path, commit: &str, tree: &Tree) -> Vec<String> {
    wrong_files_but(&mut Known::default(), repo, commit, tree)
}

fn wrong_files_but(known: &mut Known, repo: &Path, commit: &str, tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    let snapshot = repo.join("snapshots").join(commit);
    let mut is_right = |path: &Path, check: &dyn Fn(&[u8]) -> bool| {
        let Ok(metadata) = std::fs::metadata(path) else { return false };
        let key = (path.to_owned(), metadata.len(), metadata.modified().ok());
        let right = known.0.contains(&key) || std::fs::read(path).is_ok_and(|bytes| check(&bytes));
        if right {
            known.0.insert(key);
        }
        right
    };
    walk(&repo.join("snapshots"), &mut |path| match path
        .strip_prefix(&snapshot)
        .ok()
        .and_then(|name| tree.get(name.to_str()?))
    {
        None => wrong.push(format!("{}: the Hub has no such file", path.display())),
        Some(file) => {
            if !is_right(path, &|bytes| hex(&Sha256::digest(bytes)) == file.sha256) {
                wrong.push(format!("{}: not the {} bytes of the Hub", path.display(), file.content.len()));
            }
        }
    });
    walk(&repo.join("blobs"), &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".incomplete") && !is_right(path, &|bytes| is_its_name(bytes, &name)) {
            wrong.push(format!("{}: the content is not the name's", path.display()));
        }
    });
    walk(&repo.join("refs"), &mut |path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text != commit {
            wrong.push(format!("{}: {text:?}, expected {commit:?}", path.display()));
        }
    });
    wrong
}

fn is_its_name(bytes: &[u8], name: &str) -> bool {
    match name.len() {
        64 => hex(&Sha256::digest(bytes)) == name,
        40 => Content::of(bytes).git_sha1() == name,
        _ => false,
    }
}

/// Looks at a cache again and again while something writes to it.
pub struct Watch {
    over: Arc<AtomicBool>,
    watcher: JoinHandle<(Vec<String>, usize)>,
}

impl Watch {
    pub fn start(repo: PathBuf, commit: &str, tree: Arc<Tree>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (until, commit) = (over.clone(), commit.to_owned());
        let watcher = std::thread::spawn(move || {
            let (mut known, mut looks) = (Known::default(), 0);
            loop {
                let last = until.load(Ordering::SeqCst);
                let wrong = wrong_files_but(&mut known, &repo, &commit, &tree);
                looks += 1;
                if last || !wrong.is_empty() {
                    return (wrong, looks);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Watch { over, watcher }
    }

    /// Everything that was wrong at any moment.
    pub fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        let (wrong, looks) = self.watcher.join().expect("the watcher");
        assert!(looks > 0);
        wrong
    }
}

/// Does something with each item, several at once, and keeps the order.
pub fn at_once<T: Sync, R: Send>(workers: usize, items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(index, item);
                    results.lock().expect("no worker panicked").push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no worker panicked");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
