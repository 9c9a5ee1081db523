//! The command `fireside`: every verb.

fn main() -> std::process::ExitCode {
    fireside::cli::fireside()
}
