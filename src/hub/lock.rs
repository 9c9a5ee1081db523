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
#[cfg(feature = "hub")]
pub(crate) fn share(path: &Path) -> Result<Lock> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(|error| cache_failure(path, "open the lock", &error))?;
    Ok(Lock { _file: file.lock_shared().is_ok().then_some(file) })
}

/// Takes a lock, waiting as long as another process has it. `waiting` is told for whom, whenever that changes.
pub(crate) fn acquire(path: &Path, mut waiting: impl FnMut(&str)) -> Result<Lock> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let mut said = String::new();
    loop {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|error| cache_failure(path, "open the lock", &error))?;
        match file.try_lock() {
            Ok(()) => {
                let holder = format!("process {} (fireside)", std::process::id());
                let _ =
                    file.set_len(0).and_then(|()| (&file).rewind()).and_then(|()| (&file).write_all(holder.as_bytes())); // for those who wait
                return Ok(Lock { _file: Some(file) });
            }
            Err(TryLockError::Error(_)) => return Ok(Lock { _file: None }),
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
}
