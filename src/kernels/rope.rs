//! Rotary positions: pairs of a head's elements turned by an angle that grows with the position.

use std::sync::OnceLock;

/// Which elements make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Element i of the first half with element i of the second: Llama and NeoX as transformers has them.
    Halves,
    /// Neighbours: GPT-J, and Llama as Meta published it.
    Neighbours,
}

/// Positions whose angles are computed at a time.
const BLOCK: usize = 64;

/// Cosines and sines of every position, computed when a position is first met.
#[derive(Debug)]
pub struct Rotary {
    frequencies: Vec<f32>,
    factor: f32,
    pairing: Pairing,
    /// Each (BLOCK, 2, frequencies): cosines, then sines.
    blocks: Vec<OnceLock<Vec<f32>>>,
}

impl Rotary {
    /// Pair i of a head is turned by `position * frequencies[i]` radians; elements behind the pairs stay as they are.
    /// Cosines and sines are multiplied by `factor`, which is 1 but for YaRN and its kin.
    #[must_use]
    pub fn new(frequencies: Vec<f32>, pairing: Pairing, factor: f32, positions: usize) -> Rotary {
        let blocks = (0..positions.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
        Rotary { frequencies, factor, pairing, blocks }
    }

    /// The elements that are turned, two for each frequency.
    #[must_use]
    pub fn dim(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Which elements make a pair.
    #[must_use]
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// What cosines and sines are multiplied by.
    #[must_use]
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// How many positions it turns, at least.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Cosines and sines of a position, one for each frequency.
    ///
    /// # Panics
    ///
    /// When there are not so many positions.
    #[must_use]
    pub fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        let count = self.frequencies.len();
        let block = self.blocks[position / BLOCK].get_or_init(|| {
            let first = position / BLOCK * BLOCK;
            let mut block = Vec::with_capacity(BLOCK * 2 * count);
            for position in first..first + BLOCK {
                // The product is rounded to f32, as where these models were trained.
                let angle = |frequency: &f32| f64::from(position as f32 * frequency);
                block.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32 * self.factor));
                block.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32 * self.factor));
            }
            block
        });
        block[position % BLOCK * 2 * count..][..2 * count].split_at(count)
    }

    /// Turns one head.
    #[inline(always)]
    pub(super) fn turn(&self, position: usize, x: &mut [f32]) {
        let (cos, sin) = self.angles(position);
        let x = &mut x[..2 * cos.len()];
        match self.pairing {
            Pairing::Halves => {
                let (a, b) = x.split_at_mut(cos.len());
                for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            Pairing::Neighbours => {
                for (([a, b], cos), sin) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
