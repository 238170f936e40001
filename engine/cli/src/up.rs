//! `lockstep up`: a cluster on this machine that stays.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use lockstep_node::units::Size;
use serde::Serialize;

use crate::connect::{ConnectArgs, block_on};
use crate::interrupt::Interrupts;
use crate::local::{Layout, LocalCluster, is_running};
use crate::output::Output;

/// Of a new cluster, unless something else is asked for.
const NODES_PER_SITE: u32 = 2;
const POOL_SIZE: Size = Size(2 << 30);

/// `lockstep up`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockstep up --dir ./cluster                      until Ctrl-C
  lockstep up --dir ./cluster --detach             then: lockstep --dir ./cluster status
  lockstep up --dir ./cluster --nodes-per-site 1   three processes in all

The same directory brings the same cluster up again, with its data.")]
pub struct UpArgs {
    /// Data nodes in each of the two sites; of a new cluster 2 when not given
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=8))]
    nodes_per_site: Option<u32>,
    /// Size of each data node's pool; of a new cluster 2GiB when not given
    #[arg(long, value_name = "SIZE")]
    pool_size: Option<Size>,
    /// Return once it stands, and leave it running
    #[arg(long)]
    detach: bool,
}

#[derive(Serialize)]
struct Up {
    dir: std::path::PathBuf,
    nodes: Vec<UpNode>,
}

#[derive(Serialize)]
struct UpNode {
    name: String,
    site: String,
    control: String,
    socket: std::path::PathBuf,
    metrics: String,
}

/// Starts it, and stays unless told otherwise.
pub fn run(args: UpArgs, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    let root = std::path::absolute(connect.directory())?;
    let layout = layout(&root, &args)?;
    if let Some(node) = layout
        .nodes
        .iter()
        .find(|node| is_running(&layout.pid_file(node)))
    {
        bail!(
            "node {} runs already in {}; 'lockstep down --dir {}' stops the cluster",
            node.name,
            root.display(),
            root.display()
        );
    }
    block_on(async {
        let tell = |text: &str| {
            if !output.is_json() {
                eprintln!("{text}");
            }
        };
        let mut interrupts = Interrupts::listen()?;
        let mut cluster = tokio::select! {
            started = LocalCluster::start(layout, &tell) => started?,
            name = interrupts.next() => bail!("{name} came before the cluster stood; what was started is stopped"),
        };
        let up = describe(&cluster.layout);
        output.one(&up, &usage(&up))?;
        if args.detach {
            cluster.leave_running();
            return Ok(());
        }
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = interrupts.next() => break,
                _ = ticks.tick() => if let Some(ended) = cluster.take_ended()? {
                    tell(&format!("{ended}; the cluster goes on without it"));
                },
            }
        }
        tell("stopping");
        cluster.stop();
        Ok(())
    })
}

fn layout(root: &Path, args: &UpArgs) -> anyhow::Result<Layout> {
    if let Some(layout) = Layout::read(root)? {
        refuse_another(&layout, args)?;
        return Ok(layout);
    }
    if root.exists() && std::fs::read_dir(root)?.next().is_some() {
        bail!(
            "{} is not empty and holds no cluster; choose another --dir",
            root.display()
        );
    }
    let nodes = args.nodes_per_site.unwrap_or(NODES_PER_SITE);
    let layout = Layout::new(root, nodes, args.pool_size.unwrap_or(POOL_SIZE).0)?;
    layout.write()?;
    Ok(layout)
}

/// What was asked for and the cluster that is there must not differ: it is brought up as it is.
fn refuse_another(layout: &Layout, args: &UpArgs) -> anyhow::Result<()> {
    let dir = layout.root().display();
    let nodes = layout.site("a").count();
    if let Some(asked) = args.nodes_per_site.filter(|asked| *asked as usize != nodes) {
        bail!(
            "the cluster in {dir} has {nodes} data nodes a site and not {asked}; leave out --nodes-per-site to bring it up, or choose another --dir for a new one"
        );
    }
    let size = Size(layout.pool_bytes);
    if let Some(asked) = args.pool_size.filter(|asked| asked.0 != size.0) {
        bail!(
            "the pools of the cluster in {dir} have {size} and not {asked}; leave out --pool-size to bring it up, or choose another --dir for a new one"
        );
    }
    Ok(())
}

fn describe(layout: &Layout) -> Up {
    let nodes = layout.nodes.iter().map(|node| UpNode {
        name: node.name.clone(),
        site: node.site.clone(),
        control: format!("127.0.0.1:{}", node.control_port),
        socket: layout.directory(node).admin_socket(),
        metrics: format!("http://127.0.0.1:{}/metrics", node.metrics_port),
    });
    Up {
        dir: layout.root().to_owned(),
        nodes: nodes.collect(),
    }
}

fn usage(up: &Up) -> String {
    let mut lines = vec!["The cluster stands:".to_owned()];
    for node in &up.nodes {
        lines.push(format!(
            "  {:<4} site {:<3} {}  {}",
            node.name, node.site, node.control, node.metrics
        ));
    }
    let dir = up.dir.display();
    lines.push(format!(
        "\nUse it:\n  export LOCKSTEP_DIR={dir}\n  lockstep volume create pg --size 512MiB --copies a=2,b=1\n  lockstep volume attach pg --node a1\n  lockstep status\n  nbdinfo 'nbd+unix:///pg?socket={dir}/a1/exports/pg.sock'\n\nStop it:\n  lockstep down --dir {dir}"
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes_per_site: Option<u32>, pool_size: Option<u64>) -> UpArgs {
        UpArgs {
            nodes_per_site,
            pool_size: pool_size.map(Size),
            detach: false,
        }
    }

    #[test]
    fn a_cluster_is_brought_up_as_it_is_or_not_at_all() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("cluster");
        let made = layout(&root, &args(Some(1), Some(1 << 30))).expect("a new one");
        assert_eq!((made.nodes.len(), made.pool_bytes), (3, 1 << 30));
        for same in [
            args(None, None),
            args(Some(1), None),
            args(Some(1), Some(1 << 30)),
        ] {
            assert_eq!(layout(&root, &same).expect("the same one"), made);
        }
        for (other, expected) in [
            (args(Some(2), None), "has 1 data nodes a site and not 2"),
            (args(None, Some(2 << 30)), "have 1GiB and not 2GiB"),
        ] {
            let error = layout(&root, &other).expect_err(expected).to_string();
            assert!(
                error.contains(expected) && error.contains("leave out --"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_new_cluster_has_two_nodes_a_site() {
        let place = tempfile::tempdir().expect("a directory");
        let made = layout(place.path(), &args(None, None)).expect("a new one");
        assert_eq!((made.nodes.len(), made.pool_bytes), (5, POOL_SIZE.0));
    }
}
