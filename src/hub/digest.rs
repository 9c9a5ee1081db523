//! What a blob of the cache is called says what is in it.
//!
//! The Hub names a large file by the SHA-256 of its content (FIPS 180-4: 64 hex digits) and a small one as git does, by
//! the SHA-1 of `blob LENGTH\0` and the content (40 hex digits). So every file of the cache can be checked with nothing but
//! its own name, and without network. SHA-1 is what git's names are made of, not a protection against somebody who
//! builds a collision; it finds every accident.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes that are read at once: large enough that calls cost nothing beside hashing, small enough for the second-level cache.
const PIECE: usize = 1 << 20;

/// The hash of a file's content, of one of the two kinds that name blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Digest {
    /// SHA-256 of the content.
    Sha256([u8; 32]),
    /// SHA-1 of git's header and the content.
    GitBlob([u8; 20]),
}

impl Digest {
    /// The hash that a blob's name states: 64 or 40 hex digits in lower case.
    pub(crate) fn of_name(name: &str) -> Option<Digest> {
        match name.len() {
            64 => bytes_of(name).map(Digest::Sha256),
            40 => bytes_of(name).map(Digest::GitBlob),
            _ => None,
        }
    }

    /// Its bytes.
    fn bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::GitBlob(bytes) => bytes,
        }
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `N` bytes out of `2 N` digits.
fn bytes_of<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// A hash in the making.
#[derive(Clone, Debug)]
pub(crate) struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    /// For content of `length` bytes and a hash of the same kind as `like`. Git's states the length before the content.
    pub(crate) fn new(like: &Digest, length: u64) -> Hasher {
        Hasher(match like {
            Digest::Sha256(_) => State::Sha256(Sha256::new()),
            Digest::GitBlob(_) => State::GitBlob(Sha1::new_with_prefix(format!("blob {length}\0"))),
        })
    }

    /// The next bytes of the content.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(piece),
            State::GitBlob(state) => state.update(piece),
        }
    }

    /// The hash of all that was fed.
    pub(crate) fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
            State::GitBlob(state) => Digest::GitBlob(state.finalize().into()),
        }
    }
}

/// The hash of a file, of the same kind as `like`.
pub(crate) fn digest_of_file(path: &Path, like: &Digest) -> io::Result<Digest> {
    digest_of_open_file(&mut File::open(path)?, like, &mut |_| {})
}

/// The same, of a file that is open at its beginning, telling `read` the size of each piece that was hashed.
pub(crate) fn digest_of_open_file(file: &mut File, like: &Digest, read: &mut dyn FnMut(usize)) -> io::Result<Digest> {
    let length = file.metadata()?.len();
    let mut hasher = Hasher::new(like, length);
    let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE)).max(1)];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => {
                hasher.update(&piece[..n]);
                read(n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, Hasher, digest_of_file};

    const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const GIT_OF_NOTHING: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

    /// The hash by slices of every size that divides the content differently.
    fn check(content: &[u8], expected: &str) {
        let like = Digest::of_name(expected).expect("a name that states a hash");
        for step in [1, 3, 64, content.len().max(1)] {
            let mut hasher = Hasher::new(&like, content.len() as u64);
            content.chunks(step).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish().to_string(), expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn published_hashes_come_out() {
        // FIPS 180-4's examples.
        check(b"", SHA256_OF_NOTHING);
        check(b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        check(
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        );
        check(&[b'a'; 1_000_000], "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
        // What `git hash-object` says.
        check(b"", GIT_OF_NOTHING);
        check(b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a");
        check(b"test content\n", "d670460b4b4aece5915caf5c68d12f560a9fe3e4");
    }

    #[test]
    fn a_name_states_a_hash_or_none() {
        let check = |name: &str, expected: bool| {
            let found = Digest::of_name(name);
            assert_eq!(found.is_some(), expected, "{name}");
            assert!(found.is_none_or(|digest| digest.to_string() == name), "{name}");
        };
        check(SHA256_OF_NOTHING, true);
        check(GIT_OF_NOTHING, true);
        check("", false);
        check(&SHA256_OF_NOTHING[1..], false);
        check(&SHA256_OF_NOTHING.to_uppercase(), false);
        check(&GIT_OF_NOTHING.replace('e', "g"), false);
        check(&"é".repeat(20), false); // 40 bytes, and no digits
    }

    #[test]
    fn a_file_is_hashed_across_the_pieces_it_is_read_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        for length in [0, 1, super::PIECE - 1, super::PIECE, 2 * super::PIECE + 17] {
            let content: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            std::fs::write(&path, &content).expect("a written file");
            for like in [SHA256_OF_NOTHING, GIT_OF_NOTHING].map(|name| Digest::of_name(name).expect("a hash")) {
                let mut hasher = Hasher::new(&like, length as u64);
                hasher.update(&content);
                assert_eq!(digest_of_file(&path, &like).expect("a readable file"), hasher.finish(), "{length} bytes");
            }
        }
    }
}
