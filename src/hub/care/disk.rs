//! The steps of a removal on disk, none of which leaves the cache.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{room, target_of};
use crate::error::quote;

/// What folders on their way out are called.
const REMOVED: &str = ".removed-";
/// The file by which Python's client marks its store of shared content, and what that file says.
const STORE_MARK: (&str, &str) = (".huggingface-shared-blobs", "1\n");

/// That something lies in the cache, with no link on the way to it.
pub(super) fn guard(cache: &Path, path: &Path) -> Result<(), String> {
    let inside = path.strip_prefix(cache).map_err(|_| "it lies outside the cache".to_owned())?;
    let mut folder = cache.to_owned();
    let mut parts = inside.components().peekable();
    while let Some(part) = parts.next() {
        let std::path::Component::Normal(name) = part else { return Err("it lies outside the cache".to_owned()) };
        folder.push(name);
        let is_last = parts.peek().is_none();
        if !is_last && !fs::symlink_metadata(&folder).is_ok_and(|known| known.is_dir()) {
            return Err(format!("{} leads out of the cache", quote(&name.to_string_lossy())));
        }
    }
    if folder == cache { Err("it is the cache itself".to_owned()) } else { Ok(()) }
}

/// Renames something out of sight, then removes it. A link is removed, and what it leads to stays.
pub(super) fn remove_away(cache: &Path, path: &Path) -> io::Result<()> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let known = fs::symlink_metadata(path)?;
    if !known.is_dir() {
        return fs::remove_file(path);
    }
    let bin = bin(cache);
    fs::create_dir_all(&bin)?;
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let away = bin.join(format!("{REMOVED}{}-{clock:08x}{count}", std::process::id()));
    fs::rename(path, &away)?;
    let removed = fs::remove_dir_all(&away);
    let _ = fs::remove_dir(&bin); // only where it was made for this
    removed
}

/// Where folders lie on their way out: among the locks, where no client looks for repositories.
fn bin(cache: &Path) -> PathBuf {
    let locks = cache.join(".locks");
    let is_elsewhere = fs::symlink_metadata(&locks).is_ok_and(|known| !known.is_dir());
    if is_elsewhere { cache.to_owned() } else { locks }
}

/// Removes the folders above something that is gone, as far as they are empty and below `top`'s own folders.
pub(super) fn remove_empty_parents(path: &Path, top: &Path) {
    for folder in path.ancestors().skip(1).take_while(|folder| folder.parent().is_some_and(|above| above != top)) {
        let is_a_snapshot = folder.parent().is_some_and(|above| above == top.join("snapshots"));
        if is_a_snapshot || fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// Folders that a removal was stopped in.
pub(super) fn leftovers(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(bin(cache)).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let process = name.strip_prefix(REMOVED).and_then(|rest| rest.split('-').next());
        process.is_some_and(|process| !Path::new("/proc").join(process).exists())
    };
    entries.map(|entry| entry.path()).filter(is_ours).collect()
}

/// Bytes under a path, of files and not of what links lead to.
pub(super) fn room_under(path: &Path) -> u64 {
    let Ok(known) = fs::symlink_metadata(path) else { return 0 };
    if known.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| room_under(&entry.path())).sum()
    } else {
        if known.is_file() { room(&known) } else { 0 }
    }
}

/// True where some file of some snapshot links to a blob.
pub(super) fn is_linked(folder: &Path, blob: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => is_linked(&entry.path(), blob),
        Ok(kind) => kind.is_symlink() && target_of(&entry.path()).as_deref() == Some(blob),
        Err(_) => false,
    })
}

/// True where some repository's blob links to shared content.
pub(super) fn is_shared_by_any(cache: &Path, content: &Path) -> bool {
    let repos = fs::read_dir(cache).into_iter().flatten().flatten();
    repos
        .flat_map(|repo| fs::read_dir(repo.path().join("blobs")).into_iter().flatten().flatten())
        .any(|blob| target_of(&blob.path()).as_deref() == Some(content))
}

/// True where `blobs` in the cache is the store of Python's client, by the mark that it leaves there.
pub(super) fn is_shared_store(cache: &Path) -> bool {
    let is_plain = |path: &Path, is: fn(&fs::Metadata) -> bool| fs::symlink_metadata(path).is_ok_and(|k| is(&k));
    let (store, mark) = (cache.join("blobs"), cache.join("blobs").join(STORE_MARK.0));
    is_plain(&store, fs::Metadata::is_dir)
        && is_plain(&mark, |mark| mark.is_file() && mark.len() == STORE_MARK.1.len() as u64)
        && fs::read_to_string(&mark).is_ok_and(|text| text == STORE_MARK.1)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_lies_in_the_cache_without_links_on_the_way_may_go() {
        let cache = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(cache.path().join("models--a--b/blobs")).expect("a folder");
        fs::write(cache.path().join("models--a--b/blobs/used"), "").expect("a blob");
        let outside = tempfile::tempdir().expect("a folder");
        symlink(outside.path(), cache.path().join("models--a--b/out")).expect("a link");
        let check = |path: PathBuf, may: bool| assert_eq!(guard(cache.path(), &path).is_ok(), may, "{path:?}");
        check(cache.path().join("models--a--b/blobs/used"), true);
        check(cache.path().join("models--a--b/out"), true); // the link itself
        check(cache.path().join("models--a--b/out/file"), false);
        check(cache.path().join("models--a--b/../../etc"), false);
        check(cache.path().join("models--a--b/blobs/used/more"), false);
        check(cache.path().to_owned(), false);
        check(outside.path().join("file"), false);
    }
}
