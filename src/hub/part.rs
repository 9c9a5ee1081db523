//! A file on its way: bytes on disk, which of them are here, and the step that makes the whole visible.
//!
//! A file is cut into segments, each filled from its beginning. Beside the bytes lies a journal with how far each segment
//! is, written after the bytes it speaks of; so a kill costs what was under way and the next run, of this process or
//! another, goes on from there. A part that belongs to a dead process is taken over, one of a living process never. What
//! becomes visible was read back from the file and hashed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::cache::RepoCache;
use super::digest::{Digest, Hasher};
use super::lock::writer_of;
use super::store::{cache_failure, sync_folder, temporary};
use crate::error::{Error, HubFailure, Result, quote};

/// Bytes that one request asks for: few requests for a large file, several at once for a middling one.
const SEGMENT: u64 = 32 << 20;
/// Bytes that are hashed at once.
const HASH_PIECE: usize = 1 << 20;
/// How soon a pause sees that it is to end.
const STOP_CHECK: Duration = Duration::from_millis(200);
const JOURNAL_MAGIC: &[u8; 8] = b"fireside";
const PART_ENDING: &str = ".incomplete";
const JOURNAL_ENDING: &str = ".journal.incomplete";

/// A file on its way.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    journal_path: PathBuf,
    file: File,
    journal: File,
    digest: Digest,
    size: u64,
    state: Mutex<State>,
    /// Told whenever the bytes without a gap before them grow, and at the end.
    grown: Condvar,
}

#[derive(Debug)]
struct State {
    segments: Vec<Segment>,
    /// No more will come: some other thread failed.
    given_up: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    /// Bytes that are here, from the segment's beginning.
    done: u64,
    taken: bool,
}

impl Part {
    /// Takes over what a dead process left of this blob, or begins anew. The blob's lock is held.
    pub(crate) fn open(cache: &RepoCache, digest: Digest, size: u64) -> Result<Part> {
        let etag = digest.to_string();
        let mut taken = None;
        for path in left_over(&cache.blobs(), &etag) {
            let part = if taken.is_none() { Part::take_over(&path, digest, size) } else { None };
            if part.is_some() {
                taken = part;
            } else if is_abandoned(&path) {
                remove(&path); // one of the same blob has more, or this one is damaged
            }
        }
        if let Some(part) = taken {
            return Ok(part);
        }
        let path = temporary(cache, &etag);
        let failed = |error: io::Error| cache_failure(&path, "write", &error);
        let file = open_new(&path).map_err(failed)?;
        let _ = file.try_lock(); // tells others that this process lives; where there are no locks they ask for the process
        file.set_len(size).map_err(failed)?;
        let journal_path = journal_of(&path);
        let journal = open_new(&journal_path).map_err(failed)?;
        let header = [JOURNAL_MAGIC.as_slice(), &size.to_le_bytes(), &SEGMENT.to_le_bytes()].concat();
        write_at(&journal, &header, 0).map_err(failed)?;
        let segments = vec![Segment { done: 0, taken: false }; size.div_ceil(SEGMENT) as usize];
        Ok(Part::of(path, file, journal, digest, size, segments))
    }

    fn of(path: PathBuf, file: File, journal: File, digest: Digest, size: u64, segments: Vec<Segment>) -> Part {
        let state = Mutex::new(State { segments, given_up: false });
        Part { journal_path: journal_of(&path), path, file, journal, digest, size, state, grown: Condvar::new() }
    }

    fn take_over(path: &Path, digest: Digest, size: u64) -> Option<Part> {
        if !is_abandoned(path) {
            return None;
        }
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (file, journal) = (open(path).ok()?, open(&journal_of(path)).ok()?);
        let _ = file.try_lock(); // as for a new one
        let numbers = fs::read(journal_of(path)).ok()?;
        let (header, done) = numbers.split_at_checked(24)?;
        let count = size.div_ceil(SEGMENT) as usize;
        let expected = [JOURNAL_MAGIC.as_slice(), &size.to_le_bytes(), &SEGMENT.to_le_bytes()].concat();
        if header != expected || file.metadata().ok()?.len() != size {
            return None;
        }
        let mut segments = vec![Segment { done: 0, taken: false }; count];
        for (index, (segment, done)) in segments.iter_mut().zip(done.chunks_exact(8)).enumerate() {
            segment.done = u64::from_le_bytes(done.try_into().ok()?);
            if segment.done > range_of(index, size).end - range_of(index, size).start {
                return None;
            }
        }
        Some(Part::of(path.to_owned(), file, journal, digest, size, segments))
    }

    /// Bytes that are here.
    pub(crate) fn done(&self) -> u64 {
        self.lock().segments.iter().map(|segment| segment.done).sum()
    }

    /// How many threads find work here at once.
    pub(crate) fn open_segments(&self) -> usize {
        let state = self.lock();
        state.segments.iter().enumerate().filter(|(index, segment)| segment.done < self.length_of(*index)).count()
    }

    /// The next segment that nobody fills, and the bytes that it lacks.
    pub(crate) fn claim(&self) -> Option<(usize, Range<u64>)> {
        let mut state = self.lock();
        let free = |(index, segment): &(usize, &Segment)| !segment.taken && segment.done < self.length_of(*index);
        let index = state.segments.iter().enumerate().find(free)?.0;
        state.segments[index].taken = true;
        Some((index, self.lacking(&state, index)))
    }

    /// What a claimed segment still lacks.
    pub(crate) fn rest(&self, segment: usize) -> Range<u64> {
        self.lacking(&self.lock(), segment)
    }

    /// Claims the segment behind this one, for an answer that goes on past its end.
    pub(crate) fn claim_next(&self, segment: usize) -> Option<usize> {
        let mut state = self.lock();
        let next = state.segments.get_mut(segment + 1)?;
        let free = !next.taken && next.done == 0;
        next.taken |= free;
        free.then_some(segment + 1)
    }

    /// Gives a segment back that was not filled.
    pub(crate) fn release(&self, segment: usize) {
        self.lock().segments[segment].taken = false;
    }

    /// Writes the next bytes of a claimed segment, then notes that they are here.
    pub(crate) fn write(&self, segment: usize, bytes: &[u8]) -> Result<()> {
        let failed = |error: io::Error| cache_failure(&self.path, "write", &error);
        let at = self.rest(segment).start;
        write_at(&self.file, bytes, at).map_err(failed)?;
        let mut state = self.lock();
        state.segments[segment].done += bytes.len() as u64;
        let done = state.segments[segment].done;
        drop(state);
        write_at(&self.journal, &done.to_le_bytes(), 24 + 8 * segment as u64).map_err(failed)?;
        self.grown.notify_all();
        Ok(())
    }

    /// No more bytes will come.
    pub(crate) fn give_up(&self) {
        self.lock().given_up = true;
        self.grown.notify_all();
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    /// Waits, and is true at the end unless somebody gave up or `stop` came meanwhile.
    pub(crate) fn wait_unless_given_up(&self, pause: Duration, stop: &dyn Fn() -> bool) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.given_up && !stop() {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return true;
            };
            state =
                self.grown.wait_timeout(state, left.min(STOP_CHECK)).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        false
    }

    /// Hashes the bytes as they arrive, from what is in the file. `None` where they will not all come.
    pub(crate) fn hash(&self) -> Result<Option<Digest>> {
        let mut hasher = Hasher::new(&self.digest, self.size);
        let mut piece = vec![0; HASH_PIECE.min(self.size as usize)];
        let mut at = 0;
        while at < self.size {
            let mut state = self.lock();
            let here = loop {
                let here = self.without_gap(&state);
                if here > at {
                    break here;
                }
                if state.given_up {
                    return Ok(None);
                }
                state = self.grown.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            };
            drop(state);
            while at < here {
                let length = piece.len().min((here - at) as usize);
                read_at(&self.file, &mut piece[..length], at)
                    .map_err(|error| cache_failure(&self.path, "read", &error))?;
                hasher.update(&piece[..length]);
                at += length as u64;
            }
        }
        Ok(Some(hasher.finish()))
    }

    /// Makes the whole file visible under its hash. The bytes are on the disk before the name is.
    pub(crate) fn finish(self, blob: &Path, found: Digest) -> Result<()> {
        if found != self.digest {
            let expected = self.digest;
            self.discard();
            return Err(Error::hub(
                HubFailure::Damaged,
                format!("expected {} bytes with the hash {expected}, found the hash {found}", quote(&blob_name(blob))),
                "the bytes were damaged on the way and thrown away: run the same command again",
            ));
        }
        let renamed = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        let named = renamed.and_then(|()| blob.parent().map_or(Ok(()), sync_folder));
        let result = match named {
            Err(_) if blob.is_file() && !self.path.exists() => Ok(()), // without locks another process was first
            other => other.map_err(|error| cache_failure(blob, "write", &error)),
        };
        if result.is_ok() {
            let _ = fs::remove_file(&self.journal_path);
        }
        result
    }

    /// Throws everything away.
    pub(crate) fn discard(self) {
        remove(&self.path);
    }

    fn lacking(&self, state: &State, segment: usize) -> Range<u64> {
        let range = range_of(segment, self.size);
        range.start + state.segments[segment].done..range.end
    }

    fn length_of(&self, segment: usize) -> u64 {
        let range = range_of(segment, self.size);
        range.end - range.start
    }

    /// Bytes from the file's beginning with no gap.
    fn without_gap(&self, state: &State) -> u64 {
        let mut here = 0;
        for (index, segment) in state.segments.iter().enumerate() {
            here += segment.done;
            if segment.done < self.length_of(index) {
                break;
            }
        }
        here
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) // every change is one assignment
    }
}

fn range_of(segment: usize, size: u64) -> Range<u64> {
    let start = segment as u64 * SEGMENT;
    start..size.min(start + SEGMENT)
}

/// Parts of a blob, the fullest first as far as a directory tells.
fn left_over(blobs: &Path, etag: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(blobs) else { return Vec::new() };
    let mine = |name: &str| {
        name.strip_prefix(etag).is_some_and(|rest| rest.starts_with('.'))
            && name.ends_with(PART_ENDING)
            && !name.ends_with(JOURNAL_ENDING)
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(mine))
        .map(|entry| entry.path())
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(noted_in(&journal_of(path))));
    found
}

/// Bytes that are here by a journal's word.
fn noted_in(journal: &Path) -> u64 {
    let Ok(numbers) = fs::read(journal) else { return 0 };
    let done =
        numbers.get(24..).unwrap_or_default().chunks_exact(8).map(|done| done.try_into().map_or(0, u64::from_le_bytes));
    done.fold(0, u64::saturating_add)
}

/// True where no living process writes to a part: nobody holds its lock, and no process of its name has it open.
fn is_abandoned(path: &Path) -> bool {
    let held = File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
    !held && writer_of(path).is_none()
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(journal_of(path));
}

fn journal_of(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.with_file_name(format!("{}{JOURNAL_ENDING}", name.trim_end_matches(PART_ENDING)))
}

fn blob_name(blob: &Path) -> String {
    blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                at += read as u64;
            }
        }
    }
    Ok(())
}

/// Bytes of a blob that its parts already take on the disk.
pub(crate) fn bytes_on_disk(blobs: &Path, etag: &str) -> u64 {
    let parts = left_over(blobs, etag);
    parts.iter().filter_map(|path| fs::metadata(path).ok()).map(|known| blocks_of(&known)).max().unwrap_or(0)
}

#[cfg(unix)]
fn blocks_of(known: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(known) * 512
}

#[cfg(not(unix))]
fn blocks_of(known: &fs::Metadata) -> u64 {
    known.len()
}
