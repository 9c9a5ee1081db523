//! The tar under a bundle, one header at a time and with nothing forgiven: plain files only, no extensions that could
//! give an entry a second name or size, nothing behind the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tar::Header;

use super::{Bundle, BundledFile, MANIFEST};
use crate::error::{Error, HubFailure, Result, quote};
use crate::hub::cache::RepoCache;
use crate::hub::digest::{Digest, Hasher, digest_of_file};
use crate::hub::store::{cache_failure, temporary};

/// What a tar is made of.
pub(super) const BLOCK: usize = 512;
/// Bytes that are read, hashed and written at once.
pub(super) const PIECE: usize = 1 << 20;
/// Longest list that is read: 10,000 files.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Zeros behind a tar's end: other programs fill a record of 20 blocks.
const MOST_PADDING: usize = 20 * BLOCK;

/// A tar's header that says nothing of this machine or this hour.
pub(super) fn header(name: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    let bytes = &mut header.as_old_mut().name;
    bytes[..name.len()].copy_from_slice(name.as_bytes()); // at most 70 of 100 bytes
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Zeros up to the next block.
pub(super) fn padding(size: u64) -> &'static [u8] {
    let filled = (size % BLOCK as u64) as usize;
    if filled == 0 { &[] } else { &[0; BLOCK][filled..] }
}

/// Fills a piece as far as bytes come; 0 is the end.
pub(super) fn read_piece(from: &mut (impl Read + ?Sized), piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match from.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A bundle on its way in.
pub(super) struct TarReader<'a> {
    pub(super) from: &'a mut dyn Read,
    /// What messages call it.
    pub(super) label: &'a str,
}

impl TarReader<'_> {
    /// The list, which comes first.
    pub(super) fn manifest(&mut self) -> Result<Bundle> {
        let (name, size) = match self.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(self.damaged("it is empty".to_owned())),
            Err(error) => return Err(error),
        };
        if name != MANIFEST {
            return Err(self.damaged(format!("expected `{MANIFEST}` as its first file, found {}", quote(&name))));
        }
        if size > MANIFEST_LIMIT {
            return Err(self.hostile(format!("expected a list of at most {MANIFEST_LIMIT} bytes, found {size}")));
        }
        let mut text = vec![0; size as usize];
        self.fill(&mut text)?;
        self.skip_padding(size)?;
        Bundle::parse(&text).map_err(|problem| self.hostile(problem))
    }

    /// The next entry's name and size, or `None` behind the last one, where the tar's end was seen.
    pub(super) fn next(&mut self) -> Result<Option<(String, u64)>> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block == [0; BLOCK] {
            return self.end().map(|()| None);
        }
        let header = Header::from_byte_slice(&block);
        let mut sound = header.clone();
        sound.set_cksum();
        if header.cksum().ok() != sound.cksum().ok() {
            return Err(self.damaged("expected the header of a tar, found other bytes".to_owned()));
        }
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        if header.entry_type() != tar::EntryType::Regular {
            let found = format!("{:?}", header.entry_type());
            return Err(self.hostile(format!("expected plain files, found {} of the kind {found}", quote(&name))));
        }
        match header.entry_size() {
            Ok(size) => Ok(Some((name, size))),
            Err(_) => Err(self.damaged(format!("expected the size of {}, found no number", quote(&name)))),
        }
    }

    /// Takes in the content of a file: into a file of its own, unless the cache has it.
    pub(super) fn content(
        &mut self,
        file: &BundledFile,
        cache: &RepoCache,
        arrived: &mut dyn FnMut(u64),
    ) -> Result<Option<Incoming>> {
        let blob = cache.blobs().join(file.digest.to_string());
        let is_here = fs::metadata(&blob).is_ok_and(|known| known.is_file() && known.len() == file.size)
            && digest_of_file(&blob, &file.digest).is_ok_and(|found| found == file.digest);
        let mut incoming = if is_here { None } else { Some(Incoming::create(cache, file.digest)?) };
        let mut hasher = Hasher::new(&file.digest, file.size);
        let mut piece = vec![0; PIECE.min(usize::try_from(file.size).unwrap_or(PIECE))];
        let mut left = file.size;
        while left > 0 {
            let length = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
            self.fill(&mut piece[..length])?;
            hasher.update(&piece[..length]);
            incoming.as_mut().map_or(Ok(()), |incoming| incoming.write(&piece[..length]))?;
            left -= length as u64;
            arrived(length as u64);
        }
        let found = hasher.finish();
        if found != file.digest {
            let (path, expected) = (quote(file.path.as_str()), file.digest);
            return Err(self.damaged(format!("expected the hash {expected} of {path}, found {found}")));
        }
        self.skip_padding(file.size)?;
        Ok(incoming)
    }

    /// The second block of zeros, and nothing but zeros behind it.
    fn end(&mut self) -> Result<()> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        let mut rest = [0; MOST_PADDING];
        let length = read_piece(self.from, &mut rest).map_err(|error| self.unreadable(&error))?;
        if block != [0; BLOCK] || length == MOST_PADDING || rest != [0; MOST_PADDING] {
            return Err(self.hostile("expected nothing behind its end, found more bytes".to_owned()));
        }
        Ok(())
    }

    fn skip_padding(&mut self, size: u64) -> Result<()> {
        let mut rest = [0; BLOCK];
        let length = padding(size).len();
        self.fill(&mut rest[..length])?;
        if rest == [0; BLOCK] { Ok(()) } else { Err(self.hostile("found bytes between its files".to_owned())) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match read_piece(self.from, bytes) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(self.damaged("it ends too early".to_owned())),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    pub(super) fn damaged(&self, problem: String) -> Error {
        self.refused(HubFailure::Damaged, &problem)
    }

    pub(super) fn hostile(&self, problem: String) -> Error {
        self.refused(HubFailure::Hostile, &problem)
    }

    fn refused(&self, kind: HubFailure, problem: &str) -> Error {
        let hint = "nothing of it was kept; make it again with `fireside export`, and copy it whole and uncompressed";
        Error::hub(kind, format!("cannot import {}: {problem}", quote(self.label)), hint)
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::hub(HubFailure::Damaged, format!("cannot read {}: {error}", quote(self.label)), "")
    }
}

/// A content that nobody sees yet. Dropped, it is gone.
pub(super) struct Incoming {
    pub(super) digest: Digest,
    path: PathBuf,
    file: File,
}

impl Incoming {
    fn create(cache: &RepoCache, digest: Digest) -> Result<Self> {
        remove_left_over(cache, &digest.to_string());
        let path = temporary(cache, &digest.to_string());
        let open = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = open.map_err(|error| cannot_write(&path, &error))?;
        let _ = file.try_lock(); // tells those who tidy up that this process lives
        Ok(Incoming { digest, path, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| cannot_write(&self.path, &error))
    }

    /// Gives the content its name. The bytes are on the disk before the name is.
    pub(super) fn finish(self, cache: &RepoCache) -> Result<()> {
        let blob = cache.blobs().join(self.digest.to_string());
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.path, &blob));
        named.map_err(|error| cannot_write(&blob, &error))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // it is not there where it got its name
    }
}

/// Takes away what killed imports left of a content. What has a journal is a download's, and waits for its next run.
fn remove_left_over(cache: &RepoCache, etag: &str) {
    for entry in fs::read_dir(cache.blobs()).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let unique =
            name.to_str().and_then(|name| name.strip_prefix(etag)?.strip_prefix('.')?.strip_suffix(".incomplete"));
        let Some(unique) = unique.filter(|unique| !unique.contains('.')) else { continue };
        let process = unique.split_once('-').and_then(|(process, _)| process.parse::<u32>().ok());
        let is_gone = process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists());
        let has_journal = path.with_file_name(format!("{etag}.{unique}.journal.incomplete")).exists();
        if is_gone && !has_journal && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// What a failed write means to the user.
fn cannot_write(path: &Path, error: &io::Error) -> Error {
    match cache_failure(path, "write", error) {
        Error::Hub { kind: kind @ HubFailure::DiskFull, problem, .. } => {
            let hint = "make room (`fireside cache ls` shows what is there), then import again";
            Error::hub(kind, problem, hint)
        }
        other => other,
    }
}
