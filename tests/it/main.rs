//! Everything that a user can see, checked against something that this project did not write.

#[cfg(feature = "cli")]
mod bad_classic;
#[cfg(feature = "cli")]
mod bad_config;
#[cfg(feature = "cli")]
mod bad_decoder;
#[cfg(feature = "cli")]
mod bad_input;
#[cfg(feature = "cli")]
mod bad_tokenizer;
#[cfg(feature = "cli")]
mod bad_weights;
mod batch;
#[cfg(feature = "cli")]
mod bench;
#[cfg(all(feature = "cli", unix))]
mod bundle;
#[cfg(all(feature = "cli", unix))]
mod cache;
#[cfg(all(feature = "cli", unix))]
mod cache_verify;
#[cfg(feature = "cli")]
mod cards;
mod chat;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_chat;
#[cfg(all(feature = "cli", feature = "ember", unix))]
mod cli_files;
#[cfg(feature = "cli")]
mod cli_pairs;
#[cfg(feature = "cli")]
mod cli_shell;
#[cfg(feature = "cli")]
mod cli_verbs;
mod constrained;
#[cfg(feature = "cli")]
mod damage;
#[cfg(feature = "ember")]
mod ember;
mod experts;
#[cfg(feature = "cli")]
mod exploits;
mod generate;
mod gguf;
#[cfg(all(feature = "cli", feature = "hub"))]
mod hub;
mod jinja;
#[cfg(all(feature = "cli", feature = "hub", unix))]
mod lockfile;
mod long_texts;
mod memory;
mod models;
#[cfg(all(feature = "cli", unix))]
mod offline;
#[cfg(feature = "cli")]
mod program;
#[cfg(all(feature = "cli", feature = "ember"))]
mod prompt_cache;
mod quant;
mod quantize;
mod score;
mod session;
mod smollm2;
mod support;
mod switches;
mod text;
mod tidy;
mod unusual;
mod vocab;
