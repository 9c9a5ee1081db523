//! Strings ⇄ tokens: the tokenizer, a stream of whole characters out of single tokens, and conversations as text.
//!
//! It knows nothing of models; a token is a number and the bytes that it stands for.

mod added;
mod chat;
mod crate_model;
mod guard;
mod jinja;
mod stream;
mod tokenizer;
mod tokenizer_json;

pub use added::Specials;
pub(crate) use chat::ChatFiles;
pub use chat::{ChatOptions, ChatTemplate, Message};
pub use guard::ChatPrompt;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
