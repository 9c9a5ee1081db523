//! Strings ⇄ tokens: the tokenizer, and a stream of whole characters out of single tokens.
//!
//! It knows nothing of models; a token is a number and the bytes that it stands for.

mod added;
mod crate_model;
mod stream;
mod tokenizer;
mod tokenizer_json;

pub use added::Specials;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
