//! `lockstep pool`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use lockstep_api::proto;
use lockstep_node::directory::Directory;
use lockstep_node::pool::create::{CreatePool, create};
use lockstep_node::units::Size;
use serde::Serialize;

use crate::connect::{ConnectArgs, block_on, words};
use crate::output::{Output, Row};
use crate::progress::{Progress, Share};

/// Making a pool is shown after so long.
const LONG: Duration = Duration::from_secs(1);

/// `lockstep pool …`.
#[derive(Subcommand)]
pub enum PoolCommand {
    /// Make a pool on this node: a fully allocated file, or a block device that holds nothing else
    #[command(after_help = "\
Examples:
  lockstep pool create p0 --path /srv/lockstep/p0.img --size 100GiB
  lockstep pool create p1 --path /dev/nvme1n1
  lockstep pool create p1 --path /dev/nvme1n1 --overwrite /dev/nvme1n1   (destroys what is there)

The daemon of this node opens it at its next start.")]
    Create {
        /// The pool's name on this node
        name: String,
        /// A file to be made, or a block device
        #[arg(long)]
        path: PathBuf,
        /// Of a file; of a block device all of it when not given
        #[arg(long)]
        size: Option<Size>,
        /// Size of the journal; derived from the pool's size when not given
        #[arg(long)]
        journal: Option<Size>,
        /// Destroy what is on the device; names the device once more
        #[arg(long, value_name = "PATH")]
        overwrite: Option<PathBuf>,
    },
    /// List the pools of all nodes
    #[command(after_help = "Examples:\n  lockstep pool list\n  lockstep pool list --node b1")]
    List {
        /// Only of this node
        #[arg(long, default_value = "")]
        node: String,
    },
    /// Remove a pool that holds nothing any more
    #[command(after_help = "Example:\n  lockstep pool remove p1 --node b1")]
    Remove {
        /// Its name or id
        pool: String,
        /// The node it is on
        #[arg(long, default_value = "")]
        node: String,
    },
}

#[derive(Serialize)]
struct Made {
    name: String,
    device: String,
    bytes: u64,
    journal_bytes: u64,
    extents: u64,
    /// Copies that it can hold.
    places: u32,
}

#[derive(Serialize)]
struct PoolRow {
    id: String,
    name: String,
    node: String,
    bytes: u64,
    bytes_free: u64,
    bytes_promised: u64,
    copies: u32,
    /// Copies that it can hold; 0 if it has not told.
    places: u32,
    failed: String,
}

impl Row for PoolRow {
    const COLUMNS: &'static [&'static str] = &[
        "NODE", "POOL", "CAPACITY", "FREE", "PROMISED", "COPIES", "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        let state = if self.failed.is_empty() {
            "serves".into()
        } else {
            format!("failed: {}", self.failed)
        };
        vec![
            self.node.clone(),
            self.name.clone(),
            Size(self.bytes).to_string(),
            Size(self.bytes_free).to_string(),
            Size(self.bytes_promised).to_string(),
            match self.places {
                0 => self.copies.to_string(),
                places => format!("{} of {places}", self.copies),
            },
            state,
        ]
    }
}

/// Runs it.
pub fn run(command: PoolCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    match command {
        PoolCommand::Create {
            name,
            path,
            size,
            journal,
            overwrite,
        } => {
            let new = CreatePool {
                name: &name,
                path: &path,
                size,
                journal,
                overwrite: overwrite.as_deref(),
            };
            make(&new, connect, output)
        }
        PoolCommand::List { node } => block_on(list(node, connect, output)),
        PoolCommand::Remove { pool, node } => block_on(remove(pool, node, connect, output)),
    }
}

fn make(new: &CreatePool<'_>, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    let directory = Directory::new(connect.directory());
    let identity = directory
        .identity()
        .context("a pool is made on the node that will use it")?;
    let (cluster, node) = identity.ids()?;
    let made = {
        let mut shown = Shown::new(new.name, output);
        create(&directory, cluster, node, new, &mut |done, total| {
            shown.tell(done, total)
        })?
    };
    let text = format!(
        "Pool '{}': {} with a journal of {}. The daemon opens it at its next start.",
        new.name,
        Size(made.bytes),
        Size(made.journal)
    );
    let value = Made {
        name: new.name.to_owned(),
        device: made.device.to_string(),
        bytes: made.bytes,
        journal_bytes: made.journal,
        extents: made.extents,
        places: made.places,
    };
    output.one(&value, &text)
}

/// How far a pool is, once its making has taken long.
struct Shown<'a> {
    name: &'a str,
    output: &'a Output,
    begun: Instant,
    progress: Option<Progress>,
}

impl<'a> Shown<'a> {
    fn new(name: &'a str, output: &'a Output) -> Self {
        Self {
            name,
            output,
            begun: Instant::now(),
            progress: None,
        }
    }

    fn tell(&mut self, done: u64, total: u64) {
        if self.begun.elapsed() < LONG {
            return;
        }
        let text = format!(
            "pool '{}': journal and metadata are zeroed, {} of {}",
            self.name,
            Size(done),
            Size(total)
        );
        self.progress
            .get_or_insert_with(|| Progress::begin(self.output))
            .tell(text, Some(Share { done, total }));
    }
}

async fn list(node: String, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    let request = proto::ListPoolsRequest { node };
    let reply = connect
        .connect()
        .await?
        .pools()
        .list(request)
        .await
        .map_err(words)?
        .into_inner();
    let row = |pool: proto::Pool| PoolRow {
        id: pool.id,
        name: pool.name,
        node: pool.node,
        bytes: pool.bytes,
        bytes_free: pool.bytes_free,
        bytes_promised: pool.bytes_promised,
        copies: pool.replicas,
        places: pool.places,
        failed: pool.failed,
    };
    let mut rows: Vec<_> = reply.pools.into_iter().map(row).collect();
    rows.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
    output.list(&rows)
}

async fn remove(
    pool: String,
    node: String,
    connect: &ConnectArgs,
    output: &Output,
) -> anyhow::Result<()> {
    if pool.is_empty() {
        bail!("name the pool");
    }
    let request = proto::RemovePoolRequest {
        pool: pool.clone(),
        node,
    };
    connect
        .connect()
        .await?
        .pools()
        .remove(request)
        .await
        .map_err(words)?;
    output.one(
        &serde_json::json!({ "removed": pool }),
        &format!("Pool '{pool}' is removed."),
    )
}
