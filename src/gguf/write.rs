//! Writing a GGUF file: version 3, little endian, one part.
//!
//! The head is written first, since it says where each tensor lies; then the tensors, in the order of the table, each as
//! it comes, so that no more than one of them is in memory. The file appears under its name when it is whole.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::dtype::TensorType;
use crate::error::{Error, Result, quote};
use crate::whole::WholeFile;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// What tensors' places are multiples of where the file does not say otherwise.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Bools(Vec<bool>),
    /// The number of a kind and the bytes of a value, as another file has them.
    Raw(u32, Vec<u8>),
}

/// A tensor of the table.
pub(crate) struct Planned {
    pub(crate) name: String,
    /// As checkpoints have it: the dimension whose numbers lie side by side comes last.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: &'static TensorType,
}

impl Planned {
    /// Its bytes, for a shape of whole blocks.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let numbers = self.shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size))?;
        self.dtype.bytes(numbers).map(|bytes| bytes as u64)
    }
}

/// A file on its way.
pub(crate) struct Writer {
    path: PathBuf,
    file: BufWriter<WholeFile>,
    /// Bytes that each tensor has, in the order of the table.
    expected: Vec<u64>,
    written: usize,
    /// Bytes of the next tensor that are written.
    of_tensor: u64,
}

impl Writer {
    /// Writes the head of a file.
    pub(crate) fn create(path: &Path, pairs: &[(String, Written)], tensors: &[Planned]) -> Result<Writer> {
        let file = WholeFile::create(path).map_err(|error| failed(path, &error))?;
        let mut expected = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            expected.push(tensor.bytes().ok_or_else(|| {
                let Planned { name, shape, dtype } = tensor;
                Error::unwritten(
                    path,
                    format!("tensor {}: {shape:?} is not whole blocks of {}", quote(name), dtype.name),
                    "",
                )
            })?);
        }
        let mut writer = Writer {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            expected,
            written: 0,
            of_tensor: 0,
        };
        writer.put(&head(pairs, tensors, &writer.expected))?;
        Ok(writer)
    }

    /// Writes the next bytes of the next tensor of the table.
    pub(crate) fn part(&mut self, bytes: &[u8]) -> Result<()> {
        self.of_tensor += bytes.len() as u64;
        self.put(bytes)
    }

    /// Ends a tensor, all of which was written.
    pub(crate) fn end_tensor(&mut self) -> Result<()> {
        assert_eq!(self.expected.get(self.written), Some(&self.of_tensor), "bytes of tensor {}", self.written);
        self.written += 1;
        let padding = padding(std::mem::take(&mut self.of_tensor));
        self.put(&[0; ALIGNMENT as usize][..padding as usize])
    }

    /// Makes the file appear.
    pub(crate) fn finish(self) -> Result<()> {
        assert_eq!(self.written, self.expected.len(), "tensors");
        let file = self.file.into_inner().map_err(|error| failed(&self.path, error.error()))?;
        file.finish().map_err(|error| failed(&self.path, &error))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, &error))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::unwritten(path, error.to_string(), "name a file in a folder with enough room that may be written to")
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT) - length
}

/// All that stands before the first tensor.
fn head(pairs: &[(String, Written)], tensors: &[Planned], bytes: &[u64]) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut head, key);
        value.append(&mut head);
    }
    let mut offset = 0;
    for (tensor, bytes) in tensors.iter().zip(bytes) {
        text(&mut head, &tensor.name);
        head.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            head.extend_from_slice(&(*size as u64).to_le_bytes());
        }
        head.extend_from_slice(&tensor.dtype.id.to_le_bytes());
        head.extend_from_slice(&u64::to_le_bytes(offset));
        offset += bytes + padding(*bytes);
    }
    let pad = padding(head.len() as u64);
    head.resize(head.len() + pad as usize, 0);
    head
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend_from_slice(&(text.len() as u64).to_le_bytes());
    to.extend_from_slice(text.as_bytes());
}

impl Written {
    /// The kind of the value, and the value.
    fn append(&self, to: &mut Vec<u8>) {
        const U32: u32 = 4;
        const I32: u32 = 5;
        const F32: u32 = 6;
        const BOOL: u32 = 7;
        const TEXT: u32 = 8;
        const ARRAY: u32 = 9;
        let kind = match self {
            Written::U32(_) => U32,
            Written::F32(_) => F32,
            Written::Bool(_) => BOOL,
            Written::Text(_) => TEXT,
            Written::Texts(_) | Written::Floats(_) | Written::Integers(_) | Written::Bools(_) => ARRAY,
            Written::Raw(kind, _) => *kind,
        };
        to.extend_from_slice(&kind.to_le_bytes());
        let array = |to: &mut Vec<u8>, kind: u32, length: usize| {
            to.extend_from_slice(&kind.to_le_bytes());
            to.extend_from_slice(&(length as u64).to_le_bytes());
        };
        match self {
            Written::U32(value) => to.extend_from_slice(&value.to_le_bytes()),
            Written::F32(value) => to.extend_from_slice(&value.to_le_bytes()),
            Written::Bool(value) => to.push(u8::from(*value)),
            Written::Text(value) => text(to, value),
            Written::Texts(values) => {
                array(to, TEXT, values.len());
                values.iter().for_each(|value| text(to, value));
            }
            Written::Floats(values) => {
                array(to, F32, values.len());
                values.iter().for_each(|value| to.extend_from_slice(&value.to_le_bytes()));
            }
            Written::Integers(values) => {
                array(to, I32, values.len());
                values.iter().for_each(|value| to.extend_from_slice(&value.to_le_bytes()));
            }
            Written::Bools(values) => {
                array(to, BOOL, values.len());
                to.extend(values.iter().map(|value| u8::from(*value)));
            }
            Written::Raw(_, bytes) => to.extend_from_slice(bytes),
        }
    }
}
