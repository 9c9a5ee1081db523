//! Weights that nobody trained: any tensor that an architecture asks for, by its name and shape.
//!
//! For measuring a model's shape without its files. The numbers are those that training starts from, N(0, 0.02), with
//! norms near 1, so that sums stay as small as in a real model and no kernel meets infinities or denormals that it would
//! not meet there. A tensor depends on the seed and on its name alone. What is made lies in memory pages of its own size, as a
//! mapped file does, and goes through the same conversions.

use std::sync::Arc;

use half::{bf16, f16};
use memmap2::MmapMut;

use super::{Dtype, Kind, Stored};
use crate::error::{Error, Result, quote};
use crate::kernels::Pool;
use crate::mapped::Bytes;
use crate::memory::Memory;

/// The spread of the numbers: what GPT-2 and its successors are initialised with.
const DEVIATION: f32 = 0.02;

/// Numbers that one thread makes in one go: some hundred kilobytes, so that even a small tensor is made by all of them.
const MADE_AT_ONCE: usize = 1 << 16;

/// What must stay free beside the weights, for activations and the cache of a few thousand tokens.
const SPARE: u64 = 256 << 20;

/// A source of tensors.
pub(super) struct Random {
    pub(super) seed: u64,
    pub(super) dtype: Dtype,
    pub(super) made: Made,
}

/// What is made of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Its numbers.
    Numbers,
    /// Zeros that take no memory until somebody looks at them: to see how large a model would be.
    Sizes,
}

/// Zeros that take no memory until somebody looks at them.
pub(super) fn zeros(name: &str, kind: Kind, numbers: usize) -> Result<Stored> {
    let bytes = kind.bytes(numbers);
    let map = MmapMut::map_anon(bytes.max(1)).and_then(MmapMut::make_read_only);
    let map = map.map_err(|error| Error::memory(format!("cannot lay out {}: {error}", quote(name)), ""))?;
    Ok(Stored::of_file(&Bytes::Mapped(Arc::new(map)), kind, 0..bytes))
}

impl Random {
    /// A tensor by its full name.
    pub(super) fn tensor(&self, name: &str, shape: &[usize], pool: &Pool) -> Result<Stored> {
        let numbers = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        let bytes = numbers.and_then(|numbers| numbers.checked_mul(self.dtype.bytes()));
        let room = match self.made {
            Made::Numbers => Memory::now().available.map(|available| available.saturating_sub(SPARE)),
            Made::Sizes => None,
        };
        let bytes = bytes.filter(|bytes| room.is_none_or(|room| *bytes as u64 <= room));
        let map = bytes.and_then(|bytes| MmapMut::map_anon(bytes.max(1)).ok());
        let (Some(mut map), Some(bytes)) = (map, bytes) else {
            let problem = format!("there is no room for random weights beyond {}, which is {shape:?}", quote(name));
            return Err(Error::setting("random", problem, "ask for fewer layers or a smaller format"));
        };
        // A file's pages are small ones, and these stand for a file's.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        // Of a norm's scale the middle is 1; it is the one kind of weight that has a single dimension.
        let middle = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
        let seed = name.bytes().fold(self.seed, |hash, byte| mixed(hash ^ u64::from(byte)));
        match (self.made, self.dtype) {
            (Made::Sizes, _) => {}
            (Made::Numbers, Dtype::F32) => fill(&mut map[..bytes], pool, seed, |x| middle + x),
            (Made::Numbers, Dtype::F16) => fill(&mut map[..bytes], pool, seed, |x| f16::from_f32(middle + x)),
            (Made::Numbers, Dtype::Bf16) => fill(&mut map[..bytes], pool, seed, |x| bf16::from_f32(middle + x)),
        }
        let map = map
            .make_read_only()
            .map_err(|error| Error::setting("random", format!("cannot finish {}: {error}", quote(name)), ""))?;
        Ok(Stored::of_file(&Bytes::Mapped(Arc::new(map)), Kind::Dense(self.dtype), 0..bytes))
    }
}

/// Fills memory with numbers; what a piece holds depends on its place alone and not on the thread that makes it.
fn fill<T: bytemuck::Pod + Send>(bytes: &mut [u8], pool: &Pool, seed: u64, number: impl Fn(f32) -> T + Send + Sync) {
    let pieces = bytemuck::cast_slice_mut::<u8, T>(bytes).chunks_mut(MADE_AT_ONCE).enumerate().collect();
    pool.for_each(pieces, |(i, piece): (usize, &mut [T])| {
        let mut state = mixed(seed ^ (i as u64));
        for slot in piece {
            state = state.wrapping_add(WEYL);
            *slot = number(normal(mixed(state)) * DEVIATION);
        }
    });
}

/// 2⁶⁴ over the golden ratio.
const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;

/// A word whose every bit depends on every bit of another: the last steps of MurmurHash3, with the multipliers of
/// Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators".
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// About N(0, 1): four uniform numbers of 16 bits each, added. Their sum has the deviation √(4/12) and ends at 3.5 of it,
/// so there are no outliers, which quantised formats would suffer from.
fn normal(word: u64) -> f32 {
    let sum = (word & 0xFFFF) + (word >> 16 & 0xFFFF) + (word >> 32 & 0xFFFF) + (word >> 48);
    const UNIT: f32 = 1.0 / 65536.0;
    const WIDEN: f32 = 1.732_050_8; // √3
    (sum as f32 * UNIT - 2.0) * WIDEN
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn made(name: &str, shape: &[usize], dtype: Dtype, threads: usize) -> Vec<f32> {
        let pool = Pool::new(NonZeroUsize::new(threads)).expect("threads");
        let random = Random { seed: 7, dtype, made: Made::Numbers };
        random.tensor(name, shape, &pool).expect("room for a small tensor").to_f32()
    }

    #[test]
    fn numbers_have_the_spread_of_untrained_weights_in_every_format() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            for (name, shape, middle) in
                [("h.0.w.weight", &[300, 700][..], 0.0), ("ln.weight", &[90_000], 1.0), ("ln.bias", &[90_000], 0.0)]
            {
                let numbers = made(name, shape, dtype, 2);
                assert_eq!(numbers.len(), shape.iter().product::<usize>());
                let n = numbers.len() as f64;
                let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                let spread = (numbers.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt();
                assert!((mean - middle).abs() < 3e-4, "{dtype} {name}: mean {mean}");
                assert!((spread - 0.02).abs() < 3e-4, "{dtype} {name}: deviation {spread}");
                assert!(numbers.iter().all(|x| (f64::from(*x) - middle).abs() < 0.08), "{dtype} {name}: no outliers");
            }
        }
    }

    #[test]
    fn a_tensor_depends_on_its_name_and_not_on_threads() {
        let shape = [3, MADE_AT_ONCE + 5];
        let one = made("a.weight", &shape, Dtype::F32, 1);
        assert_eq!(one, made("a.weight", &shape, Dtype::F32, 3));
        let other = made("b.weight", &shape, Dtype::F32, 1);
        assert!(one.iter().zip(&other).filter(|(a, b)| a == b).count() < one.len() / 1000);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let pool = Pool::new(NonZeroUsize::new(1)).expect("a thread");
        let random = Random { seed: 7, dtype: Dtype::F32, made: Made::Numbers };
        for shape in [&[usize::MAX, 2][..], &[1 << 30, 1 << 20]] {
            let error = random.tensor("h.3.w.weight", shape, &pool).err().expect("no machine has room for it");
            assert!(error.to_string().contains("`h.3.w.weight`"), "{error}");
        }
    }
}
