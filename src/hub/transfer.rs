//! Files of one commit from the Hub into the blobs of the cache: several at once, large ones in several parts at once.
//!
//! A connection writes what it reads where it belongs; a thread of its own hashes the file behind them. Each failure is
//! tried again from the byte where it happened, and what arrived before is never asked for twice.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::api::{RemoteFile, file_path};
use super::cache::RepoCache;
use super::client::{Answer, Client, Tries};
use super::digest::{Digest, digest_of_file};
use super::lock;
use super::name::{Commit, RepoId};
use super::part::Part;
use super::progress::{FileState, Reporter};
use super::threads::on_threads;
use super::trouble::Trouble;
use crate::error::{Error, HubFailure, Result, quote};

/// Files that are fetched side by side.
const FILES_AT_ONCE: usize = 4;
/// Connections for one file. More do not help against a Hub that has no limit per connection.
const CONNECTIONS_PER_FILE: usize = 3;
/// Bytes that are read, written and noted at once: what a kill costs per connection.
const PIECE: usize = 256 << 10;
/// Bytes that make an earlier failure count no more.
const PROGRESS: u64 = 1 << 20;
/// Bytes per second below which a connection counts as dead.
const SLOWEST: u64 = 1 << 10;

/// What is fetched from where to where.
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a RepoCache,
    /// The repository's present name on the Hub.
    pub(crate) repo: &'a RepoId,
    pub(crate) commit: &'a Commit,
    pub(crate) reporter: &'a Reporter,
    /// Time in which some bytes must come.
    pub(crate) stall: Duration,
    /// Set when a file failed: the others end where they are, and go on in the next run.
    pub(crate) stop: AtomicBool,
}

/// Lets nobody wait for the bytes of a thread that panicked, as one may in a callback of the program.
struct GiveUpOnPanic<'a>(&'a Part);

impl Drop for GiveUpOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.give_up();
        }
    }
}

/// Lets nobody begin another file where one ended in a panic.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Transfer<'_> {
    /// Fetches files, each with its number in the report, in about this order.
    pub(crate) fn fetch(&self, files: &[(usize, &RemoteFile)]) -> Result<()> {
        let queue = Mutex::new(files.iter().collect::<VecDeque<_>>());
        let failure = Mutex::new(None);
        let next = || if self.is_stopped() { None } else { queue.lock().ok()?.pop_front() };
        let work = || {
            let _guard = StopOnPanic(&self.stop);
            while let Some((number, file)) = next() {
                if let Err(error) = self.fetch_one(file, *number)
                    && let Ok(mut failure) = failure.lock()
                {
                    failure.get_or_insert(error);
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
        };
        on_threads(files.len().min(FILES_AT_ONCE), work);
        failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
    }

    fn fetch_one(&self, file: &RemoteFile, number: usize) -> Result<()> {
        let etag = file.digest.to_string();
        let blob = self.cache.blobs().join(&etag);
        let copy = self.cache.pointer(self.commit, &file.path);
        let cached = || {
            let is_here = is_whole(&blob, file.size) || is_sound_copy(&copy, file);
            if is_here {
                self.reporter.state(number, FileState::Cached);
            }
            is_here
        };
        if cached() {
            return Ok(());
        }
        let waiting = |holder: &str| self.reporter.state(number, FileState::Waiting(holder.to_owned()));
        let lock = lock::acquire_unless(&self.cache.lock(&etag), waiting, &|| self.is_stopped())?;
        if lock.is_none() || cached() {
            return Ok(());
        }
        let mut again = true; // once, where bytes were damaged on the way
        loop {
            let part = Part::open(self.cache, file.digest, file.size)?;
            self.reporter.found(number, part.done());
            let Some(digest) = self.fill(&part, file, number)? else { return Ok(()) };
            match part.finish(&blob, digest) {
                Ok(()) => break,
                Err(error @ Error::Hub { kind: HubFailure::Damaged, .. }) if again => {
                    self.reporter.state(number, FileState::Retrying(error.to_string()));
                    again = false;
                }
                Err(error) => return Err(named(error, file)),
            }
        }
        self.reporter.state(number, FileState::Done);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Fetches what a part lacks and returns the hash of the whole; `None` where another file's failure ended it.
    fn fill(&self, part: &Part, file: &RemoteFile, number: usize) -> Result<Option<Digest>> {
        let work = || {
            let _guard = GiveUpOnPanic(part);
            while let Some((segment, _)) = part.claim() {
                if let Err(error) = self.fill_segment(part, segment, file, number) {
                    part.give_up();
                    return Err(error);
                }
                if self.is_stopped() {
                    part.give_up();
                    break;
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let hash = scope.spawn(|| part.hash());
            let connections = part.open_segments().min(CONNECTIONS_PER_FILE);
            let fillers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
            let mut outcome = Ok(());
            for filler in fillers {
                let filled = filler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(filled);
            }
            if outcome.is_err() {
                part.give_up();
            }
            let digest = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome?;
            match digest? {
                None if !self.is_stopped() => Err(broken(file, "not all of its bytes came")),
                digest => Ok(digest),
            }
        })
        .map_err(|error| named(error, file))
    }

    /// Fetches one segment, with as many requests as it takes.
    fn fill_segment(&self, part: &Part, mut segment: usize, file: &RemoteFile, number: usize) -> Result<()> {
        let mut tries = Tries::default();
        let mut counted_from = part.rest(segment).start;
        loop {
            let Err(trouble) = self.stream(part, &mut segment, file, number) else { return Ok(()) };
            let rest = part.rest(segment);
            if rest.is_empty() {
                return Ok(()); // all of it came before the trouble, and the hash decides
            }
            let here = rest.start;
            if here.saturating_sub(counted_from) >= PROGRESS {
                tries.forget();
                counted_from = here;
            }
            let mut say = |error: &Error| self.reporter.state(number, FileState::Retrying(error.to_string()));
            match tries.pause_after(trouble, &mut say) {
                Ok(pause) if part.wait_unless_given_up(pause, &|| self.is_stopped()) => {}
                Ok(_) => return Ok(()), // another thread failed, and its error is the one to tell
                Err(error) => {
                    part.release(segment);
                    return Err(error);
                }
            }
        }
    }

    /// One request, and its bytes to where they belong.
    fn stream(&self, part: &Part, segment: &mut usize, file: &RemoteFile, number: usize) -> Result<(), Trouble> {
        let rest = part.rest(*segment);
        let answer = self.client.get(&file_path(self.repo, self.commit, &file.path), Some(rest.clone()))?;
        let skip = offset_of(&answer, &rest, file)?;
        self.reporter.state(number, FileState::Downloading);
        let (whole, host) = (answer.status == 200, answer.host.clone());
        let mut reader = answer.into_reader();
        let mut piece = vec![0; PIECE];
        self.skip(&mut reader, skip, &mut piece, &host)?;
        let mut pace = Pace::new(self.stall);
        let end = loop {
            let rest = part.rest(*segment);
            if rest.is_empty() {
                // An answer without ranges goes on to the file's end: its bytes are taken as far as nobody else has them.
                let next = if whole { part.claim_next(*segment) } else { None };
                match next {
                    Some(next) => {
                        *segment = next;
                        continue;
                    }
                    None => break rest.end,
                }
            }
            if part.is_given_up() || self.is_stopped() {
                return Ok(());
            }
            let wanted = piece.len().min((rest.end - rest.start) as usize);
            let length =
                fill_piece(&mut reader, &mut piece[..wanted]).map_err(|e| self.client.transport(e.into(), &host))?;
            if length == 0 {
                let problem =
                    format!("{} ended after {} of {} bytes", quote(file.path.as_str()), rest.start, file.size);
                return Err(Trouble::transient(HubFailure::Damaged, problem));
            }
            part.write(*segment, &piece[..length])?;
            self.reporter.arrived(number, length as u64);
            pace.count(length as u64)?;
        };
        if end == file.size && reader.read(&mut piece[..1]).is_ok_and(|more| more > 0) {
            let problem = format!("{} goes on after its {} bytes", quote(file.path.as_str()), file.size);
            return Err(Trouble::transient(HubFailure::Damaged, problem));
        }
        Ok(())
    }

    fn skip(&self, reader: &mut impl Read, mut bytes: u64, piece: &mut [u8], host: &str) -> Result<(), Trouble> {
        while bytes > 0 {
            let wanted = piece.len().min(bytes as usize);
            match reader.read(&mut piece[..wanted]).map_err(|error| self.client.transport(error.into(), host))? {
                0 => return Err(Trouble::transient(HubFailure::Damaged, "an answer ended before the bytes asked for")),
                read => bytes -= read as u64,
            }
        }
        Ok(())
    }
}

/// Reads until the piece is full, the body ends, or a good part has come: few writes, and few bytes at risk.
fn fill_piece(reader: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    let slow = Instant::now() + Duration::from_millis(50);
    while length < piece.len() {
        match reader.read(&mut piece[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(_) if length > 0 => break, // what came before counts; the next read fails again
            Err(error) => return Err(error),
        }
        if Instant::now() > slow {
            break;
        }
    }
    Ok(length)
}

/// Holds an answer against what was asked for. Returns the bytes to pass over, where the Hub sent the whole file.
fn offset_of(answer: &Answer, asked: &Range<u64>, file: &RemoteFile) -> Result<u64, Trouble> {
    let name = quote(file.path.as_str());
    let wrong = |problem: String| Trouble::transient(HubFailure::Damaged, problem);
    let expected = file.digest.to_string();
    match answer.etag() {
        Some(etag) if etag == expected => {}
        Some(etag) => return Err(wrong(format!("expected {name} with the tag {expected}, found {}", quote(&etag)))),
        None => return Err(wrong(format!("expected {name} with the tag {expected}, found an answer without one"))),
    }
    if answer.status == 206 {
        let (range, size) =
            answer.content_range().ok_or_else(|| wrong(format!("{name} came as a part that does not say which")))?;
        let length = answer.length().unwrap_or(range.end - range.start);
        if range != *asked || size != file.size || length != asked.end - asked.start {
            return Err(wrong(format!(
                "expected the bytes {} to {} of {} of {name}, found {} to {} of {size}",
                asked.start, asked.end, file.size, range.start, range.end
            )));
        }
        return Ok(0);
    }
    match answer.length() {
        Some(length) if length != file.size => {
            Err(wrong(format!("expected {} bytes of {name}, found {length}", file.size)))
        }
        _ => Ok(asked.start),
    }
}

/// Sees to it that bytes come at some pace.
struct Pace {
    window: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Pace { window, since: Instant::now(), bytes: 0 }
    }

    fn count(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.bytes += bytes;
        let passed = self.since.elapsed();
        if passed < self.window {
            return Ok(());
        }
        if self.bytes < SLOWEST * passed.as_secs() {
            let problem = format!("only {} bytes came in {} s", self.bytes, passed.as_secs());
            return Err(Trouble::transient(HubFailure::Unreachable, problem));
        }
        (self.since, self.bytes) = (Instant::now(), 0);
        Ok(())
    }
}

/// True where a blob is here in full length. What is in it was hashed when it came; `cache verify` hashes it again.
pub(crate) fn is_whole(blob: &Path, size: u64) -> bool {
    blob.metadata().is_ok_and(|known| known.is_file() && known.len() == size)
}

/// True where a snapshot holds a file's content itself, as it does where links cannot be made.
fn is_sound_copy(copy: &Path, file: &RemoteFile) -> bool {
    let is_file = std::fs::symlink_metadata(copy).is_ok_and(|known| known.is_file() && known.len() == file.size);
    is_file && digest_of_file(copy, &file.digest).is_ok_and(|found| found == file.digest)
}

fn broken(file: &RemoteFile, problem: &str) -> Error {
    Error::hub(HubFailure::Damaged, format!("{}: {problem}", quote(file.path.as_str())), "run the same command again")
}

/// An error that names the file, where it does not yet.
fn named(error: Error, file: &RemoteFile) -> Error {
    match error {
        Error::Hub { kind, problem, hint } if !problem.contains(file.path.as_str()) => {
            Error::Hub { kind, problem: format!("cannot fetch {}: {problem}", quote(file.path.as_str())), hint }
        }
        other => other,
    }
}
