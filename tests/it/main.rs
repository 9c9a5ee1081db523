//! Everything that a user can see, checked against something that this project did not write.

mod generate;
mod models;
mod score;
mod support;
mod text;
