//! `fireside completions`: what a shell needs to complete our arguments.

use anyhow::Result;

use super::output::answer;

/// Print a shell's completion script
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside completions bash > ~/.local/share/bash-completion/completions/fireside
  fireside completions zsh > ~/.zfunc/_fireside")]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "fireside", &mut script);
    answer(&String::from_utf8_lossy(&script))
}
