//! `fireside completions`: what a shell needs to complete our arguments.

use anyhow::Result;

use super::output::answer;

/// Print a shell's completion script
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside completions bash > ~/.local/share/bash-completion/completions/fireside
  fireside completions zsh > ~/.zfunc/_fireside
  fireside completions zsh generate > ~/.zfunc/_generate")]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
    /// The command to complete
    #[arg(value_enum, default_value_t)]
    command: Command,
}

/// A program of this package.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Command {
    #[default]
    Fireside,
    Generate,
}

pub(super) fn run(args: Args) -> Result<()> {
    let (mut command, name) = match args.command {
        Command::Fireside => (super::command(), "fireside"),
        Command::Generate => (super::generate_command(), "generate"),
    };
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    answer(&String::from_utf8_lossy(&script))
}
