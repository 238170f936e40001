//! Shell completions.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// `lockstep completions`.
#[derive(Args)]
#[command(after_help = "Example:\n  lockstep completions bash > /etc/bash_completion.d/lockstep")]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints them.
pub fn run(args: CompletionsArgs) -> anyhow::Result<()> {
    let mut command = crate::Cli::command();
    clap_complete::generate(args.shell, &mut command, "lockstep", &mut std::io::stdout());
    Ok(())
}
