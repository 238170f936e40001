//! `lockstep site`.

use anyhow::bail;
use clap::Subcommand;
use lockstep_api::proto;
use lockstep_node::units::Size;
use serde::Serialize;

use crate::connect::{ConnectArgs, block_on, words};
use crate::drain::{DrainArgs, drain};
use crate::output::{Output, Row};

/// `lockstep site …`.
#[derive(Subcommand)]
pub enum SiteCommand {
    /// List the sites
    #[command(after_help = "Examples:\n  lockstep site list\n  lockstep site list -o json")]
    List,
    /// Prepare a site for being switched off: nothing new, and wait until nothing needs it
    #[command(after_help = "\
Examples:
  lockstep site drain a
  lockstep site drain a --check -o json

As 'lockstep node drain' for all its nodes at once. Afterwards: 'lockstep node uncordon' for each.")]
    Drain {
        /// Its name
        site: String,
        #[command(flatten)]
        args: DrainArgs,
    },
}

#[derive(Serialize)]
struct SiteRow {
    name: String,
    nodes: u32,
    nodes_answering: u32,
    witnesses: u32,
    voters: u32,
    bytes: u64,
    bytes_free: u64,
    voterless: bool,
}

impl From<proto::Site> for SiteRow {
    fn from(site: proto::Site) -> Self {
        Self {
            name: site.name,
            nodes: site.nodes,
            nodes_answering: site.nodes_answering,
            witnesses: site.witnesses,
            voters: site.voters,
            bytes: site.bytes,
            bytes_free: site.bytes_free,
            voterless: site.voterless,
        }
    }
}

impl Row for SiteRow {
    const COLUMNS: &'static [&'static str] = &[
        "SITE",
        "DATA NODES",
        "WITNESSES",
        "VOTERS",
        "CAPACITY",
        "FREE",
        "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            format!("{} of {} answer", self.nodes_answering, self.nodes),
            self.witnesses.to_string(),
            self.voters.to_string(),
            Size(self.bytes).to_string(),
            Size(self.bytes_free).to_string(),
            self.state(),
        ]
    }
}

impl SiteRow {
    fn state(&self) -> String {
        if self.voterless {
            "lost its voters: none of its copies is certified before it has one again".into()
        } else if self.nodes_answering < self.nodes {
            format!("{} silent", self.nodes - self.nodes_answering)
        } else {
            "well".into()
        }
    }
}

/// Runs it.
pub fn run(command: SiteCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    match command {
        SiteCommand::List => list(connect, output),
        SiteCommand::Drain { site, args } => block_on(async {
            let client = connect.connect().await?;
            let all = client.nodes().list(proto::ListNodesRequest {}).await;
            let mut nodes = all.map_err(words)?.into_inner().nodes;
            nodes.retain(|it| it.site == site);
            if nodes.is_empty() {
                bail!("there is no site '{site}'; 'lockstep site list' shows what there is");
            }
            drain(nodes, &args, &client, output).await
        }),
    }
}

fn list(connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    block_on(async {
        let client = connect.connect().await?;
        let reply = client
            .cluster()
            .list_sites(proto::ListSitesRequest {})
            .await
            .map_err(words)?;
        let mut rows: Vec<SiteRow> = reply
            .into_inner()
            .sites
            .into_iter()
            .map(Into::into)
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        output.list(&rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_lost_its_voters_says_so_first() {
        let mut site = proto::Site {
            name: "a".into(),
            nodes: 2,
            nodes_answering: 2,
            bytes: 3 << 30,
            ..Default::default()
        };
        let cells = SiteRow::from(site.clone()).cells();
        assert_eq!(cells.len(), SiteRow::COLUMNS.len());
        assert_eq!(
            (cells[1].as_str(), cells[4].as_str(), cells[6].as_str()),
            ("2 of 2 answer", "3GiB", "well")
        );
        site.nodes_answering = 1;
        assert_eq!(SiteRow::from(site.clone()).state(), "1 silent");
        site.voterless = true;
        assert!(SiteRow::from(site).state().starts_with("lost its voters"));
    }
}
