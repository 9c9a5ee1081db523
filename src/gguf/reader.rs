//! Little-endian values one after the other, each checked against what is left of the file.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// A place in a file's bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Of the whole file, of which the bytes may be the first ones.
    length: usize,
    at: usize,
    path: &'a Path,
    /// Whether more of the file was wanted than the bytes are.
    is_short: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], length: u64) -> Reader<'a> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(bytes.len());
        Reader { bytes, length, at: 0, path, is_short: false }
    }

    /// Whether it failed since the file has more bytes than were given.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// How far it is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.length - self.at
    }

    /// Passes over so many bytes. `what` is for the message.
    pub(super) fn skip(&mut self, bytes: u64, what: &str) -> Result<Range<usize>> {
        match usize::try_from(bytes).ok().filter(|bytes| *bytes <= self.left()) {
            Some(bytes) if self.at + bytes > self.bytes.len() => {
                self.is_short = true;
                Err(self.damaged(format!("expected {bytes} bytes of {what}, which are not here")))
            }
            Some(bytes) => {
                self.at += bytes;
                Ok(self.at - bytes..self.at)
            }
            None => Err(self.damaged(format!(
                "expected {bytes} bytes of {what} at byte {}, found {} to the end of the file",
                self.at,
                self.left()
            ))),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let range = self.skip(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Where the bytes of a string lie, whose length stands before them.
    pub(super) fn string(&mut self, what: &str) -> Result<Range<usize>> {
        let length = self.u64(what)?;
        self.skip(length, what)
    }

    /// The text of such a string: a name, which must be UTF-8, not empty, and no longer than `longest` bytes.
    pub(super) fn name(&mut self, what: &str, longest: usize) -> Result<&'a str> {
        let at = self.at;
        let range = self.string(what)?;
        if range.is_empty() || range.len() > longest {
            return Err(
                self.damaged(format!("expected {what} of 1 to {longest} bytes at byte {at}, found {}", range.len()))
            );
        }
        std::str::from_utf8(&self.bytes[range])
            .map_err(|_| self.damaged(format!("expected {what} in UTF-8 at byte {at}, found other bytes")))
    }

    /// The file is not what it should be.
    pub(super) fn damaged(&self, problem: impl Into<String>) -> Error {
        damaged(self.path, problem)
    }
}

pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::file(path, problem, "the file is incomplete or no sound GGUF file; copy it again")
}
