//! GGUF files: what they say of a model, where its tensors lie, and what other modules call both.
//!
//! A file is mapped; its header is checked as a whole before anything of it is used, and nothing is allocated by a length
//! that the file states before that fits into what is left of it. Numbers of tensors are not looked at here. The format:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; versions 2 and 3, little endian.

mod config;
mod describe;
mod dtype;
mod families;
mod header;
mod metadata;
mod model;
mod names;
mod reader;
mod write;

pub(crate) use describe::describe;
pub(crate) use dtype::{ReadAs, TensorType};
pub(crate) use header::Header;
pub(crate) use metadata::Metadata;
pub(crate) use model::Gguf;
#[cfg(all(feature = "cli", feature = "hub"))]
pub(crate) use model::Tensor;
pub(crate) use write::{Planned, Writer, Written};

#[cfg(test)]
mod tests;
