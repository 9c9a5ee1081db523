//! Strings ⇄ tokens: the tokenizer, and a stream of whole characters out of single tokens.
//!
//! It knows nothing of models; a token is a number and the bytes that it stands for.

mod added;
mod bpe;
mod byte_level;
mod charsmap;
mod crate_model;
mod gguf;
mod own_model;
mod pair;
mod sentencepiece;
mod spm;
mod stream;
mod tokenizer;
mod tokenizer_config;
mod tokenizer_json;
mod unigram;
mod vocabulary;
mod words;

pub use added::Specials;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
