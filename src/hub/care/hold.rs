//! Who is using what: before anything of the cache goes, its locks are taken, for as long as it takes to go.
//!
//! A blob's lock is a file in `.locks`, shared with Python's client; an unfinished file is locked itself by who writes it
//! and named after that process. Where a file system has no locks, the process decides alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::lock::writer_of;
use super::{CachedRepo, Partial, Scan};

/// That nobody else writes something, for as long as this value lives.
pub(super) struct Hold {
    _locks: Vec<File>,
}

impl Hold {
    /// Takes a lock file's lock, if it is free. A lock that nobody has made yet is nobody's.
    pub(super) fn new(lock: &Path) -> Result<Hold, String> {
        let mut file = match OpenOptions::new().read(true).write(true).open(lock) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hold { _locks: Vec::new() }),
            Err(error) => return Err(format!("its lock cannot be opened: {error}")),
        };
        match file.try_lock() {
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Hold { _locks: vec![file] }), // some file systems have no locks
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.by_ref().take(100).read_to_string(&mut holder).is_ok_and(|n| n > 0);
                Err(if known { crate::error::line(&holder) } else { "another process".to_owned() })
            }
        }
    }

    /// All locks of a repository.
    pub(super) fn all(locks: &Path) -> Result<Hold, String> {
        let mut held = Hold { _locks: Vec::new() };
        for entry in fs::read_dir(locks).into_iter().flatten().flatten() {
            held._locks.extend(Hold::new(&entry.path())?._locks);
        }
        Ok(held)
    }

    pub(super) fn partial(repo: &CachedRepo, partial: &Partial) -> Result<Hold, String> {
        let cache = repo.folder.parent().ok_or("it lies in no cache")?;
        Hold::of_partial(&locks_of(cache, &repo.folder), &partial.name, &partial.path)
    }

    /// An unfinished file, `<etag>.<unique>.incomplete`: its blob's lock, its own, and no process that has it open.
    pub(super) fn of_partial(locks: &Path, name: &str, path: &Path) -> Result<Hold, String> {
        let etag = name.split('.').next().unwrap_or_default();
        let mut held = Hold::new(&locks.join(format!("{etag}.lock")))?;
        if fs::symlink_metadata(path).is_ok_and(|known| known.is_file()) {
            held._locks.extend(Hold::new(path)?._locks);
        }
        match writer_of(path) {
            Some(process) => Err(format!("process {process}")),
            None => Ok(held),
        }
    }
}

/// Who is downloading into a repository.
pub(super) fn in_use(scan: &Scan, repo: &CachedRepo) -> Option<String> {
    let locks = locks_of(&scan.cache, &repo.folder);
    let by_lock = Hold::all(&locks).err();
    by_lock.or_else(|| repo.partials.iter().find_map(|partial| Hold::partial(repo, partial).err()))
}

pub(super) fn locks_of(cache: &Path, repo_folder: &Path) -> PathBuf {
    cache.join(".locks").join(repo_folder.file_name().unwrap_or_default())
}
