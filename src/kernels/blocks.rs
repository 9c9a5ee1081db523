//! Block-quantised weights, as GGUF files lay them out: what formats there are and how large their blocks are.

/// A block format. A row of weights is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32 numbers of 4 bits, one scale.
    Q4_0,
    /// 32 numbers of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 numbers of 5 bits, one scale.
    Q5_0,
    /// 32 numbers of 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 numbers of 8 bits, one scale.
    Q8_0,
    /// 256 numbers of 2 bits, 16 scales and minima of 4 bits.
    Q2K,
    /// 256 numbers of 3 bits, 16 scales of 6 bits.
    Q3K,
    /// 256 numbers of 4 bits, 8 scales and minima of 6 bits.
    Q4K,
    /// 256 numbers of 5 bits, 8 scales and minima of 6 bits.
    Q5K,
    /// 256 numbers of 6 bits, 16 scales of 8 bits.
    Q6K,
    /// 32 indices of 4 bits into a table of uneven steps, one scale.
    Iq4Nl,
    /// 32 floats of 4 bits, one power of two.
    Mxfp4,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 12] = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Iq4Nl,
        Format::Mxfp4,
    ];

    /// As GGUF tools spell it, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
            Format::Q8_0 => "q8_0",
            Format::Q2K => "q2_k",
            Format::Q3K => "q3_k",
            Format::Q4K => "q4_k",
            Format::Q5K => "q5_k",
            Format::Q6K => "q6_k",
            Format::Iq4Nl => "iq4_nl",
            Format::Mxfp4 => "mxfp4",
        }
    }

    /// Numbers in a block.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K => 256,
            _ => 32,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Format::Q4_0 | Format::Iq4Nl => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2K => 84,
            Format::Q3K => 110,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
            Format::Mxfp4 => 17,
        }
    }

    /// Bytes of `numbers` weights, which are whole blocks.
    #[must_use]
    pub fn bytes(self, numbers: usize) -> usize {
        numbers / self.block_len() * self.block_bytes()
    }
}
