//! Tensors of GGUF files, where they lie.

use std::collections::HashMap;

use super::{Dtype, Entry, Keep, Kind};
use crate::error::{Error, Result, quote};
use crate::gguf::{Gguf, ReadAs, TensorType};
use crate::source::Location;

/// What to do about a type that is not read.
pub(super) const OTHER_TYPE: &str = "take a copy in another quantisation, such as Q4_K_M, Q8_0 or F16";

/// The types that are read, for messages.
pub(super) fn names_of_read() -> String {
    TensorType::names_of_read()
}

/// The tensors of a file and its further parts.
pub(super) fn open(location: &Location, keep: Keep) -> Result<HashMap<String, Entry>> {
    let gguf = Gguf::open(location)?;
    let mut entries = HashMap::new();
    for tensor in gguf.tensors()? {
        let stored_as = tensor.read_as.map(kind_of).map_err(str::to_owned);
        if let (Keep::Quantized(quant), Ok(Kind::Blocks(format))) = (keep, &stored_as) {
            return Err(Error::setting(
                "quant",
                format!(
                    "is `{quant}`, but tensor {} of the file is quantised already ({})",
                    quote(&tensor.name),
                    format.name()
                ),
                "leave `--quant` away, or quantise a file with F32, F16 or BF16 weights",
            ));
        }
        let entry = Entry { file: tensor.bytes, stored_as, shape: tensor.shape, range: tensor.range };
        entries.insert(tensor.name, entry);
    }
    Ok(entries)
}

/// Judges a file by its head alone, before the rest of it is fetched: are the weights of types that are read?
pub fn check_tensors(gguf: &Gguf) -> Result<()> {
    let tensors = gguf.tensors()?;
    let unread = tensors.iter().find_map(|tensor| tensor.read_as.err().map(|found| (&tensor.name, found)));
    let Some((name, found)) = unread else { return Ok(()) };
    let expected = names_of_read();
    Err(Error::unsupported(
        gguf.path(),
        format!("tensor {}: expected dtype {expected}, found {found}", quote(name)),
        OTHER_TYPE,
    ))
}

/// How a type is kept.
pub fn kind_of(read_as: ReadAs) -> Kind {
    match read_as {
        ReadAs::F32 => Kind::Dense(Dtype::F32),
        ReadAs::F16 => Kind::Dense(Dtype::F16),
        ReadAs::Bf16 => Kind::Dense(Dtype::Bf16),
        ReadAs::Blocks(format) => Kind::Blocks(format),
    }
}
