//! The cache's locks, shared with Python's client: one process fetches a blob, the others wait and say for whom.
//!
//! A lock saves bytes and never guards correctness: every process writes to a file of its own, and what becomes visible
//! was hashed. Where a file system has no locks, each process goes ahead.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use super::store::{cache_failure, make_folder};
use crate::error::Result;

const RETRY: Duration = Duration::from_millis(50);

/// A lock that is held until it is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    /// `None` where the file system has no locks.
    _file: Option<File>,
}

/// Takes a lock beside others that do the same, so that nobody takes it alone meanwhile: what is being fetched is not to
/// be cleaned away.
pub(crate) fn share(path: &Path, waiting: impl FnMut(&str)) -> Result<Lock> {
    let lock = take(path, File::try_lock_shared, waiting, &|| false)?;
    Ok(lock.unwrap_or(Lock { _file: None })) // nothing stops the waiting
}

/// Takes a lock, waiting as long as another process has it. `waiting` is told for whom, whenever that changes.
pub(crate) fn acquire(path: &Path, waiting: impl FnMut(&str)) -> Result<Lock> {
    let lock = acquire_unless(path, waiting, &|| false)?;
    Ok(lock.unwrap_or(Lock { _file: None }))
}

/// The same; `None` once `stop` says so.
pub(crate) fn acquire_unless(path: &Path, waiting: impl FnMut(&str), stop: &dyn Fn() -> bool) -> Result<Option<Lock>> {
    take(path, File::try_lock, waiting, stop)
}

fn take(
    path: &Path,
    lock: fn(&File) -> Result<(), TryLockError>,
    mut waiting: impl FnMut(&str),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Lock>> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let mut said = String::new();
    while !stop() {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|error| cache_failure(path, "open the lock", &error))?;
        match lock(&file) {
            Ok(()) => {
                let holder = format!("process {} (fireside)", std::process::id());
                // For those who wait; nothing depends on it.
                let _ =
                    file.set_len(0).and_then(|()| (&file).rewind()).and_then(|()| (&file).write_all(holder.as_bytes()));
                return Ok(Some(Lock { _file: Some(file) }));
            }
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(_)) => return Ok(Some(Lock { _file: None })),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = (&file).take(100).read_to_string(&mut holder).is_ok_and(|n| n > 0);
                let holder = if known { holder } else { "another process".to_owned() };
                if holder != said {
                    waiting(&holder);
                    said = holder;
                }
                std::thread::sleep(RETRY);
            }
        }
    }
    Ok(None)
}

/// The process that an unfinished file, `<etag>.PID-….incomplete`, is named after, if it is another one that lives and
/// has the file open. Only Linux says; elsewhere the file's own lock has to do.
pub(crate) fn writer_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let process: u32 = name.split('.').nth(1)?.split_once('-')?.0.parse().ok()?;
    if process == std::process::id() {
        return None;
    }
    match std::fs::read_dir(format!("/proc/{process}/fd")) {
        Ok(open) => {
            open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|p| p == path)).then_some(process)
        }
        Err(error) => (error.kind() == std::io::ErrorKind::PermissionDenied).then_some(process),
    }
}
