//! Everything that a user can see, checked against something that this project did not write.

mod models;
mod support;
