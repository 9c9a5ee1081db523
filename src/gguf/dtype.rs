//! The types of tensors: their numbers in the file, names, sizes, and which of them kernels read.

use crate::kernels::Format;

/// A type of tensors that is known, read or not.
#[derive(Debug)]
pub(crate) struct TensorType {
    /// Its number in the file.
    pub(crate) id: u32,
    /// As GGUF tools spell it.
    pub(crate) name: &'static str,
    /// Numbers in a block; 1 where they stand alone.
    pub(crate) block_len: usize,
    /// Bytes of a block.
    pub(crate) block_bytes: usize,
    /// How kernels read it.
    pub(crate) read_as: Option<ReadAs>,
}

/// How kernels read a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadAs {
    F32,
    F16,
    Bf16,
    Blocks(Format),
}

const fn plain(id: u32, name: &'static str, bytes: usize, read_as: Option<ReadAs>) -> TensorType {
    TensorType { id, name, block_len: 1, block_bytes: bytes, read_as }
}

const fn blocks(id: u32, name: &'static str, format: Format) -> TensorType {
    let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
    TensorType { id, name, block_len, block_bytes, read_as: Some(ReadAs::Blocks(format)) }
}

const fn unread(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> TensorType {
    TensorType { id, name, block_len, block_bytes, read_as: None }
}

/// Every type of the format. Numbers that are missing were given up by its authors before or after files had them.
pub(crate) const TYPES: &[TensorType] = &[
    plain(0, "F32", 4, Some(ReadAs::F32)),
    plain(1, "F16", 2, Some(ReadAs::F16)),
    blocks(2, "Q4_0", Format::Q4_0),
    blocks(3, "Q4_1", Format::Q4_1),
    blocks(6, "Q5_0", Format::Q5_0),
    blocks(7, "Q5_1", Format::Q5_1),
    blocks(8, "Q8_0", Format::Q8_0),
    unread(9, "Q8_1", 32, 36),
    blocks(10, "Q2_K", Format::Q2K),
    blocks(11, "Q3_K", Format::Q3K),
    blocks(12, "Q4_K", Format::Q4K),
    blocks(13, "Q5_K", Format::Q5K),
    blocks(14, "Q6_K", Format::Q6K),
    unread(15, "Q8_K", 256, 292),
    unread(16, "IQ2_XXS", 256, 66),
    unread(17, "IQ2_XS", 256, 74),
    unread(18, "IQ3_XXS", 256, 98),
    unread(19, "IQ1_S", 256, 50),
    blocks(20, "IQ4_NL", Format::Iq4Nl),
    unread(21, "IQ3_S", 256, 110),
    unread(22, "IQ2_S", 256, 82),
    blocks(23, "IQ4_XS", Format::Iq4Xs),
    plain(24, "I8", 1, None),
    plain(25, "I16", 2, None),
    plain(26, "I32", 4, None),
    plain(27, "I64", 8, None),
    plain(28, "F64", 8, None),
    unread(29, "IQ1_M", 256, 56),
    plain(30, "BF16", 2, Some(ReadAs::Bf16)),
    unread(34, "TQ1_0", 256, 54),
    unread(35, "TQ2_0", 256, 66),
    blocks(39, "MXFP4", Format::Mxfp4),
    unread(40, "NVFP4", 64, 36),
];

impl TensorType {
    /// The type of this number.
    pub(crate) fn of(id: u32) -> Option<&'static TensorType> {
        TYPES.iter().find(|known| known.id == id)
    }

    /// The type that kernels read in this way.
    pub(crate) fn read_as(read_as: ReadAs) -> &'static TensorType {
        TYPES.iter().find(|known| known.read_as == Some(read_as)).expect("every way of reading has a type")
    }

    /// Bytes of so many numbers; `None` where they are no whole blocks or too many for this machine.
    pub(crate) fn bytes(&self, numbers: usize) -> Option<usize> {
        numbers.is_multiple_of(self.block_len).then_some(numbers / self.block_len)?.checked_mul(self.block_bytes)
    }

    /// The names of those that are read, for messages.
    pub(crate) fn names_of_read() -> String {
        TYPES.iter().filter(|known| known.read_as.is_some()).map(|known| known.name).collect::<Vec<_>>().join(", ")
    }
}
