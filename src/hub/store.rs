//! Writing into the cache. Each step is one rename, so a reader sees the state before it or after it, and a kill between
//! two steps leaves a sound cache that the next run completes.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::cache::RepoCache;
use super::name::{Commit, RepoPath, Revision};
use crate::error::{Error, HubFailure, Result, quote};

/// The mark of the Cache Directory Tagging Standard, by which backups know what they can leave out.
const CACHE_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of models from the Hugging Face Hub.\n";

/// What a failed write to the cache means to the user.
pub(crate) fn cache_failure(path: &Path, doing: &str, error: &io::Error) -> Error {
    let place = quote(&path.display().to_string());
    let (kind, hint) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            HubFailure::DiskFull,
            "make room (`fireside cache ls` shows what is there), then run the same command: it goes on where it stopped",
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (HubFailure::Cache, "make the folder writable, or name another one in HF_HOME")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => (
            HubFailure::Cache,
            "a file lies where the cache needs a folder: move it away, or name another folder in HF_HOME",
        ),
        _ => (HubFailure::Cache, ""),
    };
    Error::hub(kind, format!("cannot {doing} {place}: {error}"), hint)
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| cache_failure(path, "make the folder", &error))
}

/// A name beside the blobs that no other process or thread uses; tools that clean caches know its ending.
pub(crate) fn temporary(cache: &RepoCache, stem: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    let unique = clock.wrapping_mul(0x9e37_79b9).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    cache.blobs().join(format!("{stem}.{}-{unique:08x}.incomplete", std::process::id()))
}

/// Makes the folders of a repository and marks the cache as one.
pub(crate) fn prepare(cache: &RepoCache) -> Result<()> {
    make_folder(&cache.blobs())?;
    let tag = cache.root.join("CACHEDIR.TAG");
    if !tag.exists() {
        let _ = fs::write(&tag, CACHE_TAG); // a courtesy to backups; nothing depends on it
    }
    Ok(())
}

/// Writes a small file whole or not at all.
fn write_whole(cache: &RepoCache, path: &Path, content: &str) -> Result<()> {
    let failed = |error: io::Error| cache_failure(path, "write", &error);
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    make_folder(&cache.blobs())?;
    let temporary = temporary(cache, "note");
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

/// Notes the commit of a branch or tag.
pub(crate) fn write_reference(cache: &RepoCache, revision: &Revision, commit: &Commit) -> Result<()> {
    let path = cache.reference(revision);
    let known = fs::read_to_string(&path).is_ok_and(|known| known == commit.as_str());
    if known || revision.as_commit().is_some() { Ok(()) } else { write_whole(cache, &path, commit.as_str()) }
}

/// Notes that the repository does not have a file.
pub(crate) fn write_absence(cache: &RepoCache, commit: &Commit, file: &RepoPath) -> Result<()> {
    let path = cache.absence(commit, file);
    if path.exists() { Ok(()) } else { write_whole(cache, &path, "") }
}

/// Makes a snapshot's file point to a blob: by a relative link, or by a copy where links cannot be made. Nothing is lost
/// in between: an entry that is there already is replaced by renaming.
pub(crate) fn point(cache: &RepoCache, commit: &Commit, file: &RepoPath, etag: &str) -> Result<PathBuf> {
    let pointer = cache.pointer(commit, file);
    let blob = cache.blobs().join(etag);
    let size = |path: &Path| path.metadata().ok().filter(fs::Metadata::is_file).map(|known| known.len());
    if size(&pointer).is_some_and(|there| size(&blob).is_none_or(|expected| there == expected)) {
        return Ok(pointer);
    }
    if let Some(folder) = pointer.parent() {
        make_folder(folder)?;
    }
    let up = "../".repeat(2 + file.as_str().matches('/').count());
    let target = format!("{up}blobs/{etag}");
    if link(&target, &pointer).is_ok() {
        return Ok(pointer);
    }
    let temporary = temporary(cache, "link");
    let made = link(&target, &temporary)
        .or_else(|_| fs::copy(&blob, &temporary).and_then(|_| fs::File::open(&temporary)?.sync_all()))
        .and_then(|()| fs::rename(&temporary, &pointer));
    match made {
        Ok(()) => Ok(pointer),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(cache_failure(&pointer, "link", &error))
        }
    }
}

/// A symbolic link, unless the user wants none, as with Python's client.
fn link(target: &str, at: &Path) -> io::Result<()> {
    if std::env::var_os("HF_HUB_DISABLE_SYMLINKS").is_some_and(|value| !value.is_empty() && value != "0") {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, at);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(target.replace('/', "\\"), at);
    #[cfg(not(any(unix, windows)))]
    return Err(io::Error::from(io::ErrorKind::Unsupported));
}

/// Makes the names in a folder survive a loss of power, as `sync_all` does for content.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
}
