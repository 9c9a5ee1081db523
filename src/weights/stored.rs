//! A tensor's numbers where they lie: in a mapped file, in the binary, or on the heap after a conversion.

use std::ops::{Deref, Range};
use std::str::FromStr;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::kernels::{CacheType, Format, Pool, Slice};
use crate::mapped::Bytes;

/// The number formats that weights are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        })
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" | "float32" => Ok(Dtype::F32),
            "f16" | "float16" => Ok(Dtype::F16),
            "bf16" | "bfloat16" => Ok(Dtype::Bf16),
            _ => Err("expected `f32`, `f16` or `bf16`".to_owned()),
        }
    }
}

/// How the numbers of a tensor are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One after the other.
    Dense(Dtype),
    /// Quantised.
    Blocks(Format),
}

impl Kind {
    /// Bytes of so many numbers; of blocks, whole ones.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Kind::Dense(dtype) => numbers * dtype.bytes(),
            Kind::Blocks(format) => format.bytes(numbers),
        }
    }
}

impl Kind {
    /// What keys and values are kept as beside such weights, unless somebody asks for something else: exactly where products
    /// with them are exact, in half precision where those round activations more than that.
    pub fn cache(self) -> CacheType {
        match self {
            Kind::Dense(Dtype::F32 | Dtype::F16) => CacheType::F32,
            Kind::Dense(Dtype::Bf16) | Kind::Blocks(_) => CacheType::F16,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Dense(dtype) => dtype.fmt(f),
            Kind::Blocks(format) => f.write_str(format.name()),
        }
    }
}

/// One tensor's numbers, in the order of the file. Clones share them.
#[derive(Clone)]
pub enum Stored {
    /// 32 bits.
    F32(Buffer<f32>),
    /// 16 bits, IEEE.
    F16(Buffer<f16>),
    /// 16 bits, the upper half of an f32.
    Bf16(Buffer<bf16>),
    /// Quantised blocks, rows of outputs after each other.
    Blocks(Format, Buffer<u8>),
}

impl Stored {
    /// A range of a file as numbers of this kind: where they lie if the file aligns them, copied otherwise.
    pub(super) fn of_file(file: &Bytes, kind: Kind, range: Range<usize>) -> Stored {
        match kind {
            Kind::Dense(Dtype::F32) => Stored::F32(Buffer::of_file(file, range)),
            Kind::Dense(Dtype::F16) => Stored::F16(Buffer::of_file(file, range)),
            Kind::Dense(Dtype::Bf16) => Stored::Bf16(Buffer::of_file(file, range)),
            Kind::Blocks(format) => Stored::Blocks(format, Buffer::of_file(file, range)),
        }
    }

    /// The numbers, as the kernels take them.
    pub fn slice(&self) -> Slice<'_> {
        match self {
            Stored::F32(values) => Slice::F32(values),
            Stored::F16(values) => Slice::F16(values),
            Stored::Bf16(values) => Slice::Bf16(values),
            Stored::Blocks(format, bytes) => Slice::Blocks(*format, bytes),
        }
    }

    /// Whether they lie in a mapped file, so that the system may drop them and read them again.
    pub fn is_mapped(&self) -> bool {
        match self {
            Stored::F32(values) => matches!(values, Buffer::Mapped(..)),
            Stored::F16(values) => matches!(values, Buffer::Mapped(..)),
            Stored::Bf16(values) => matches!(values, Buffer::Mapped(..)),
            Stored::Blocks(_, bytes) => matches!(bytes, Buffer::Mapped(..)),
        }
    }

    /// How the numbers are kept.
    pub fn kind(&self) -> Kind {
        match self {
            Stored::F32(_) => Kind::Dense(Dtype::F32),
            Stored::F16(_) => Kind::Dense(Dtype::F16),
            Stored::Bf16(_) => Kind::Dense(Dtype::Bf16),
            Stored::Blocks(format, _) => Kind::Blocks(*format),
        }
    }

    /// A copy in f32; exact.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Stored::F32(values) => values.to_vec(),
            Stored::F16(values) => values.iter().map(|v| v.to_f32()).collect(),
            Stored::Bf16(values) => values.iter().map(|v| v.to_f32()).collect(),
            Stored::Blocks(..) => {
                let mut numbers = vec![0.0; self.slice().len()];
                crate::kernels::best().widen(self.slice(), &mut numbers);
                numbers
            }
        }
    }

    /// The same numbers in `dtype`, rounded to nearest; shared and not copied where they already are.
    pub fn converted(self, dtype: Dtype, pool: &Pool) -> Stored {
        match (&self, dtype) {
            (Stored::F32(_), Dtype::F32) | (Stored::F16(_), Dtype::F16) | (Stored::Bf16(_), Dtype::Bf16) => self,
            (Stored::F32(v), Dtype::F16) => Stored::F16(converted(v, pool, |x| f16::from_f32(*x))),
            (Stored::F32(v), Dtype::Bf16) => Stored::Bf16(converted(v, pool, |x| bf16::from_f32(*x))),
            (Stored::F16(v), Dtype::Bf16) => Stored::Bf16(converted(v, pool, |x| bf16::from_f32(x.to_f32()))),
            (Stored::F16(v), _) => Stored::F32(converted(v, pool, |x| x.to_f32())),
            (Stored::Bf16(v), Dtype::F16) => Stored::F16(converted(v, pool, |x| f16::from_f32(x.to_f32()))),
            (Stored::Bf16(v), _) => Stored::F32(converted(v, pool, |x| x.to_f32())),
            (Stored::Blocks(format, bytes), _) => {
                let wide = Stored::F32(Buffer::Heap(Arc::new(widened(*format, bytes, pool))));
                wide.converted(dtype, pool)
            }
        }
    }
}

/// What blocks stand for.
fn widened(format: Format, bytes: &[u8], pool: &Pool) -> Vec<f32> {
    /// Blocks that one thread widens in one go: some hundred kilobytes of numbers.
    const AT_ONCE: usize = 1 << 10;
    let mut numbers = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    let pieces = numbers.chunks_mut(AT_ONCE * format.block_len()).zip(bytes.chunks(AT_ONCE * format.block_bytes()));
    let kernels = crate::kernels::best();
    pool.for_each(pieces.collect(), |(numbers, bytes): (&mut [f32], &[u8])| {
        kernels.widen(Slice::Blocks(format, bytes), numbers);
    });
    numbers
}

fn converted<A: Sync, B: Send + Sync>(from: &[A], pool: &Pool, convert: impl Fn(&A) -> B + Send + Sync) -> Buffer<B> {
    Buffer::Heap(Arc::new(pool.map(from, convert)))
}

/// Numbers of one type, wherever they are.
#[derive(Clone)]
pub enum Buffer<T: 'static> {
    /// A range of bytes in a mapped file; alignment was checked when it was made.
    Mapped(Arc<Mmap>, Range<usize>),
    /// Inside the binary.
    Static(&'static [T]),
    /// Converted or quantised, or copied because the file does not align it.
    Heap(Arc<Vec<T>>),
}

impl<T: bytemuck::AnyBitPattern> Buffer<T> {
    fn of_file(file: &Bytes, range: Range<usize>) -> Buffer<T> {
        let bytes = &file.all()[range.clone()];
        match (file, bytemuck::try_cast_slice::<u8, T>(bytes)) {
            (Bytes::Mapped(map), Ok(_)) => Buffer::Mapped(Arc::clone(map), range),
            (Bytes::Embedded(all), Ok(_)) => Buffer::Static(bytemuck::cast_slice(&all[range])),
            (Bytes::Read(_), _) | (_, Err(_)) => Buffer::Heap(Arc::new(copied(bytes))),
        }
    }
}

fn copied<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

impl<T: bytemuck::AnyBitPattern> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Buffer::Mapped(file, range) => bytemuck::cast_slice(&file[range.clone()]),
            Buffer::Static(values) => values,
            Buffer::Heap(values) => values,
        }
    }
}
