//! Files as wholes: read within a bound, and written so that they appear under their name whole or not at all.
//!
//! What is written lies beside until it is synced and renamed. A link stays one, and what it leads to is replaced. Folders,
//! devices and pipes are nobody's to replace.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::quote;
#[cfg(feature = "cli")]
use crate::error::{Error, Result};

/// A file on its way. Dropped before [`WholeFile::finish`] it leaves nothing.
pub(crate) struct WholeFile {
    to: PathBuf,
    part: PathBuf,
    file: File,
}

impl WholeFile {
    /// Begins a file in the folder of `path`.
    pub(crate) fn create(path: &Path) -> io::Result<WholeFile> {
        let to = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Some((problem, _)) = obstacle(&to) {
            return Err(io::Error::other(problem));
        }
        let part = beside(&to);
        let mut unfinished = unfinished();
        let file = File::create_new(&part)?;
        unfinished.push(part.clone());
        Ok(WholeFile { to, part, file })
    }

    /// Makes it appear.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        let _still = unfinished();
        fs::rename(&self.part, &self.to)
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part); // after `finish` there is none
        unfinished().retain(|part| *part != self.part);
    }
}

/// What a process that ends here and now would leave lying. While it is held no file begins and none appears.
fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is unfinished, before a process ends without dropping it. Until then what it returns is to be kept:
/// nothing new begins meanwhile.
#[cfg(feature = "cli")]
#[must_use]
pub(crate) fn remove_unfinished() -> impl Sized {
    let mut unfinished = unfinished();
    for part in unfinished.drain(..) {
        let _ = fs::remove_file(part);
    }
    unfinished
}

/// A name in the same folder that nobody else uses, hidden.
fn beside(path: &Path) -> PathBuf {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{}.part", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Why no file can be written at a place, as far as a look tells, and what to do.
pub(crate) fn obstacle(path: &Path) -> Option<(String, &'static str)> {
    if let Ok(found) = fs::metadata(path) {
        return match () {
            () if found.is_dir() => Some(("it is a folder".to_owned(), "name a file in it")),
            () if !found.is_file() => Some(("it is a device or a pipe".to_owned(), "name a file")),
            () => None,
        };
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())?;
    Some((format!("the folder {} is not there", quote(&folder.display().to_string())), "make the folder first"))
}

/// Refuses before long work what would fail behind it.
#[cfg(feature = "cli")]
pub(crate) fn check_place(path: &Path) -> Result<()> {
    match obstacle(path) {
        Some((problem, hint)) => Err(Error::unwritten(path, problem, hint)),
        None => Ok(()),
    }
}

/// The bytes of a file, or `None` where there are more than `longest`.
#[cfg(feature = "cli")]
pub(crate) fn read(path: &Path, longest: u64) -> io::Result<Option<Vec<u8>>> {
    within(File::open(path)?, longest)
}

/// All that comes, or `None` where that is more than `longest` bytes: what never ends must not fill the memory.
#[cfg(feature = "cli")]
pub(crate) fn within(from: impl io::Read, longest: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut from.take(longest + 1), &mut bytes)?;
    Ok((bytes.len() as u64 <= longest).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "old").unwrap();
        let mut dropped = WholeFile::create(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), names(folder.path())),
            ("old".to_owned(), vec!["text".to_owned()])
        );
        let mut first = WholeFile::create(&path).unwrap();
        let mut second = WholeFile::create(&path).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        second.finish().unwrap();
        first.finish().unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), names(folder.path())),
            ("first".to_owned(), vec!["text".to_owned()])
        );
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| WholeFile::create(path).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(refusal(folder.path()), "it is a folder");
        let missing = folder.path().join("missing");
        let expected = format!("the folder `{}` is not there", missing.display());
        assert_eq!(refusal(&missing.join("file")), expected);
        #[cfg(unix)]
        {
            let socket = folder.path().join("socket");
            let _open = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            assert_eq!(refusal(&socket), "it is a device or a pipe");
            assert_eq!(refusal(Path::new("/dev/null")), "it is a device or a pipe");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let mut whole = WholeFile::create(&link).unwrap();
        whole.write_all(b"new").unwrap();
        whole.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }
}
