//! A hash that tells one model's weights from another's without reading all of them.

use sha2::{Digest, Sha256};

use super::Weights;

/// Places of a tensor that are looked at, from its first bytes to its last.
const PLACES: usize = 8;

/// Bytes that are looked at in each.
const BYTES: usize = 64;

impl Weights {
    /// Names, shapes, dtypes and a sample of the bytes of every tensor, as they are in the files. Training of any kind moves
    /// all numbers of a tensor, so that a sample of each tells; a single number that somebody changes by hand may be missed.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut names: Vec<_> = self.checkpoint.tensors.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let mut hash = Sha256::new();
        for (name, entry) in names {
            hash.update(format!("{name} {:?} {:?}\n", entry.stored_as, entry.shape));
            let bytes = &entry.file.all()[entry.range.clone()];
            let last = bytes.len().saturating_sub(BYTES);
            for place in 0..PLACES {
                let start = last * place / (PLACES - 1);
                hash.update(&bytes[start..bytes.len().min(start + BYTES)]);
            }
        }
        hash.finalize().into()
    }
}
