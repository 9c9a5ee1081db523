//! The command `generate`: the verb `fireside generate` under its own name.

fn main() -> std::process::ExitCode {
    fireside::cli::generate()
}
