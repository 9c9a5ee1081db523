//! Everything that a user can see, checked against something that this project did not write.

#[cfg(feature = "cli")]
mod bad_input;
#[cfg(feature = "cli")]
mod cli;
mod generate;
mod models;
#[cfg(feature = "cli")]
mod program;
mod score;
mod support;
mod text;
mod tidy;
