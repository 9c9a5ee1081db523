//! What a file of the fake Hub holds: bytes, or a beginning and a block that repeats, so that a gigabyte costs a
//! megabyte.

use std::fmt::Write;
use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The bytes of a file, wherever they come from.
#[derive(Clone)]
pub struct Content {
    head: Arc<[u8]>,
    block: Arc<[u8]>,
    len: u64,
}

impl Content {
    /// All bytes at hand.
    pub fn of(bytes: impl Into<Vec<u8>>) -> Self {
        let head: Arc<[u8]> = bytes.into().into();
        Content { len: head.len() as u64, head, block: Arc::from([]) }
    }

    /// A sound safetensors file of exactly `len` bytes: one tensor of noise in f32.
    pub fn weights(len: u64, seed: u64) -> Self {
        const HEADER: u64 = 128; // bytes, the length field included; spaces fill it, as the format allows
        assert!(len > HEADER && len.is_multiple_of(4), "a weight file of {len} bytes");
        let numbers = (len - HEADER) / 4;
        let header =
            format!(r#"{{"wte.weight":{{"dtype":"F32","shape":[{numbers}],"data_offsets":[0,{}]}}}}"#, 4 * numbers);
        let mut head = (HEADER - 8).to_le_bytes().to_vec();
        head.extend(format!("{header:<width$}", width = HEADER as usize - 8).into_bytes());
        assert_eq!(head.len() as u64, HEADER);
        // No multiple of a chunk size: a piece in the wrong place is a wrong piece.
        let block = noise((len - HEADER).min((1 << 20) + 41) as usize, seed);
        Content { head: head.into(), block: block.into(), len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes from an offset on, as many as lie in one piece; empty at the end.
    pub fn at(&self, offset: u64) -> &[u8] {
        let head = self.head.len() as u64;
        if offset < head {
            return &self.head[offset as usize..];
        }
        if offset >= self.len {
            return &[];
        }
        let start = ((offset - head) % self.block.len() as u64) as usize;
        let end = self.block.len().min(start + (self.len - offset) as usize);
        &self.block[start..end]
    }

    /// Everything in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len as usize);
        while bytes.len() < self.len as usize {
            bytes.extend_from_slice(self.at(bytes.len() as u64));
        }
        bytes
    }

    pub fn sha256(&self) -> String {
        self.hashed(Sha256::new())
    }

    /// The name that git gives to this content.
    pub fn git_sha1(&self) -> String {
        self.hashed(Sha1::new_with_prefix(format!("blob {}\0", self.len)))
    }

    fn hashed(&self, mut hash: impl Digest) -> String {
        let mut offset = 0;
        while offset < self.len {
            let piece = self.at(offset);
            hash.update(piece);
            offset += piece.len() as u64;
        }
        hex(&hash.finalize())
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes that do not compress and do not repeat (splitmix64).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A gzip stream of stored blocks: larger than its content, and a correct one.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        out.extend((block.len() as u16).to_le_bytes());
        out.extend((!(block.len() as u16)).to_le_bytes());
        out.extend(block);
    }
    if bytes.is_empty() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    out.extend((!crc).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}
