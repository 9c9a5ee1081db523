//! Strings ⇄ tokens: the tokenizer, a stream of whole characters out of single tokens, and conversations as text.
//!
//! It knows nothing of models; a token is a number and the bytes that it stands for.

mod added;
mod bpe;
mod byte_level;
mod byte_level_model;
mod charsmap;
mod chat;
mod crate_model;
mod gguf;
mod gguf_metadata;
mod guard;
mod jinja;
mod own_model;
mod pair;
mod sentencepiece;
mod splits;
mod spm;
mod stream;
mod tokenizer;
mod tokenizer_config;
mod tokenizer_json;
mod unigram;
mod vocabulary;
mod words;

pub use added::Specials;
pub(crate) use chat::ChatFiles;
pub use chat::{ChatOptions, ChatTemplate, Message};
pub(crate) use gguf_metadata::metadata_of;
pub use guard::ChatPrompt;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
