//! The `lockstep` binary: the daemon, the witness, the demo and the command line, one file a noun.
#![forbid(unsafe_code)]

mod arguments;
mod cluster;
mod completions;
mod connect;
mod daemon;
mod demo;
mod down;
mod drain;
mod events;
mod explain;
mod interrupt;
mod keeper;
mod local;
mod node;
mod output;
mod pod;
mod pool;
mod progress;
mod recover;
mod site;
mod status;
mod up;
mod volume;
mod when;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const ABOUT: &str = "Synchronously mirrored block storage across two sites and a witness";

const EXAMPLES: &str = "\
Examples:
  lockstep demo                                   two sites on this machine, a site killed, nothing lost
  lockstep up --dir ./cluster --detach            a cluster on this machine that stays
  lockstep volume create pg --size 10GiB --copies a=2,b=1
  lockstep status                                 what is well and what is not
  lockstep explain volume pg                      who holds what, why it waits, who must return

Every command takes '-o json'. Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Parser)]
#[command(name = "lockstep", version, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    output: output::OutputOptions,
    #[command(flatten)]
    connect: connect::ConnectArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Two sites and a witness on this machine: I/O, a dying site, nothing lost
    Demo(demo::DemoArgs),
    /// Start a cluster on this machine that stays
    Up(up::UpArgs),
    /// Stop the cluster that 'up' started; its data stays
    Down(down::DownArgs),
    /// What is well and what is not
    Status(status::StatusArgs),
    /// What happened and what happens
    Events(events::EventsArgs),
    /// Volumes: create, attach, explain, grow, move, delete
    #[command(
        subcommand,
        after_help = "\
Examples:
  lockstep volume create pg --size 10GiB --copies a=2,b=1
  lockstep volume attach pg --node a1
  lockstep volume show pg"
    )]
    Volume(volume::VolumeCommand),
    /// Nodes: join tokens, joining, listing, cordoning, removing
    #[command(
        subcommand,
        after_help = "\
Examples:
  lockstep node token
  lockstep node list
  lockstep node remove b2"
    )]
    Node(node::NodeCommand),
    /// Sites
    #[command(subcommand, after_help = "Example:\n  lockstep site list")]
    Site(site::SiteCommand),
    /// Pools: the files and devices that hold data
    #[command(
        subcommand,
        after_help = "\
Examples:
  lockstep pool create p0 --path /dev/nvme1n1
  lockstep pool list"
    )]
    Pool(pool::PoolCommand),
    /// Pods of Kubernetes: where they can run, and where they run best
    #[command(subcommand, after_help = "Example:\n  lockstep pod explain shop/pg-0")]
    Pod(pod::PodCommand),
    /// The cluster: founding, settings, ledger
    #[command(
        subcommand,
        after_help = "\
Examples:
  lockstep cluster init --cluster prod --name a1 --site a --control 10.0.0.1:7400 --data 10.0.0.1:7401
  lockstep cluster ledger"
    )]
    Cluster(cluster::ClusterCommand),
    /// Why something is as it is
    #[command(subcommand, after_help = "Example:\n  lockstep explain volume pg")]
    Explain(explain::ExplainCommand),
    /// Forced recovery: overrides rules, is audited, wants names typed
    #[command(
        subcommand,
        after_help = "\
Examples:
  lockstep recover candidates pg
  lockstep recover promote-replica pg"
    )]
    Recover(recover::RecoverCommand),
    /// Run this machine's node, data node or witness
    Daemon(daemon::DaemonArgs),
    /// Keep the block devices of a node while its daemon is away; daemons start it by themselves
    #[command(hide = true)]
    Keeper(keeper::KeeperArgs),
    /// Print shell completions
    Completions(completions::CompletionsArgs),
}

fn main() -> ExitCode {
    abort_on_panic();
    let cli = Cli::parse();
    let output = output::Output::new(&cli.output);
    match run(cli.command, &cli.connect, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// A broken assertion ends the process, whichever thread or task met it: nothing goes on from a state
/// that was not to be.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::abort();
    }));
}

fn run(
    command: Command,
    connect: &connect::ConnectArgs,
    output: &output::Output,
) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(args, output),
        Command::Up(args) => up::run(args, connect, output),
        Command::Down(args) => down::run(args, connect, output),
        Command::Status(args) => status::run(args, connect, output),
        Command::Events(args) => events::run(args, connect, output),
        Command::Volume(command) => volume::run(command, connect, output),
        Command::Node(command) => node::run(command, connect, output),
        Command::Site(command) => site::run(command, connect, output),
        Command::Pool(command) => pool::run(command, connect, output),
        Command::Pod(command) => pod::run(command, output),
        Command::Cluster(command) => cluster::run(command, connect, output),
        Command::Explain(command) => explain::run(command, connect, output),
        Command::Recover(command) => recover::run(command, connect, output),
        Command::Daemon(args) => daemon::run(&args, connect),
        Command::Keeper(args) => keeper::run(&args),
        Command::Completions(args) => completions::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_examples() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() && command.get_name() != "help" {
                let examples = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(
                    examples.contains("Example"),
                    "'{path} --help' has no examples"
                );
            }
            command
                .get_subcommands()
                .for_each(|inner| check(inner, &path));
        }
        check(&Cli::command(), "");
    }
}
