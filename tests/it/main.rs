//! Everything that a user can see, checked against something that this project did not write.

#[cfg(feature = "cli")]
mod bad_config;
#[cfg(feature = "cli")]
mod bad_input;
#[cfg(feature = "cli")]
mod bad_tokenizer;
#[cfg(feature = "cli")]
mod bad_weights;
mod batch;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_shell;
#[cfg(feature = "cli")]
mod cli_verbs;
#[cfg(feature = "cli")]
mod damage;
#[cfg(feature = "ember")]
mod ember;
mod generate;
mod models;
#[cfg(feature = "cli")]
mod program;
mod score;
mod support;
mod text;
mod tidy;
