//! `lockstep recover rebuild-quorum`: works on a stopped node's directory.

use std::time::Duration;

use anyhow::bail;
use lockstep_api::{Target, connect, proto};
use lockstep_net::tls::connector;
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, Role};
use lockstep_node::directory::Directory;
use lockstep_node::rebuild::Stopped;
use lockstep_types::NodeRole;
use serde::Serialize;
use std::sync::Arc;

use super::ConfirmArgs;
use super::confirm::{Typed, typed};
use crate::connect::{ConnectArgs, block_on};
use crate::output::Output;

/// How long another node may take to say whether it knows a leader.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Serialize)]
struct Rebuilt {
    generation: u32,
    barred_voters: Vec<u64>,
    volumes: Vec<String>,
    old_log: String,
}

/// Runs it.
pub fn rebuild(
    confirmation: &ConfirmArgs,
    connect: &ConnectArgs,
    output: &Output,
) -> anyhow::Result<()> {
    let dir = connect.directory();
    if let Some(layout) = crate::local::Layout::read(&dir)? {
        let names: Vec<_> = layout.nodes.iter().map(|node| node.name.as_str()).collect();
        bail!(
            "{} holds several nodes: name one of {} with --dir {}/NODE",
            dir.display(),
            names.join(", "),
            dir.display()
        );
    }
    let stopped = Stopped::open(&dir)?;
    let cluster = stopped.state().cluster.as_ref().map(|c| c.name.clone());
    let cluster = cluster.unwrap_or_default();
    let certificates = Certificates::open(&Directory::new(&dir).certificates())?;
    if let Some(who) = block_on(async { Ok(led_elsewhere(&stopped, &certificates).await) })? {
        bail!("node '{who}' knows a leader of cluster '{cluster}': nothing is to be rebuilt");
    }
    let name = stopped.state().node_name(stopped.node());
    if !output.is_json() {
        eprintln!(
            "Node '{name}' becomes the sole voter of cluster '{cluster}'. What other voters decided and this\n\
             one has not heard of is lost; they are barred, and every volume waits for\n\
             'lockstep recover promote-replica'."
        );
    }
    let expected = Typed {
        what: "cluster's name",
        expected: &cluster,
        option: "--confirm",
    };
    typed(confirmation.confirm.clone(), &expected, output)?;
    let done = stopped.rebuild(&confirmation.operator())?;
    let rebuilt = Rebuilt {
        generation: done.generation,
        barred_voters: done.barred.into_iter().collect(),
        volumes: done.volumes,
        old_log: done.old_log.display().to_string(),
    };
    output.one(&rebuilt, &rebuilt.text(&name))
}

/// A node that answers and knows a leader: the quorum is not lost.
async fn led_elsewhere(stopped: &Stopped, certificates: &Arc<Certificates>) -> Option<String> {
    let mut asked = tokio::task::JoinSet::new();
    for node in stopped.others() {
        let connector = connector(certificates, &[lockstep_api::client::ALPN]).ok()?;
        let role = match node.role {
            NodeRole::Data => Role::DataNode,
            NodeRole::Witness => Role::Witness,
        };
        let target = Target::Tls {
            address: node.control_address.clone(),
            connector,
            name: dialled_name(role, Some(node.id)),
        };
        let name = node.name.clone();
        asked.spawn(async move {
            let quorum = tokio::time::timeout(PATIENCE, async {
                let client = connect(target).await.ok()?;
                let reply = client.cluster().status(proto::StatusRequest {}).await;
                Some(reply.ok()?.into_inner().quorum)
            });
            (name, quorum.await.ok().flatten().unwrap_or(false))
        });
    }
    let mut led = None;
    while let Some(answer) = asked.join_next().await {
        if let Ok((name, true)) = answer {
            led = Some(name);
        }
    }
    led
}

impl Rebuilt {
    fn text(&self, node: &str) -> String {
        let mut text = format!(
            "The control plane is rebuilt as generation {}; {} old voters are barred.\n\
             Start the daemon of node '{node}' now. Its old log lies in {}.",
            self.generation,
            self.barred_voters.len(),
            self.old_log
        );
        if !self.volumes.is_empty() {
            text.push_str("\nThese volumes wait for 'lockstep recover promote-replica':");
            self.volumes
                .iter()
                .for_each(|volume| text.push_str(&format!("\n  {volume}")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_says_what_is_next() {
        let mut rebuilt = Rebuilt {
            generation: 2,
            barred_voters: vec![7, 8],
            volumes: Vec::new(),
            old_log: "/x/raft.barred-1".into(),
        };
        let text = rebuilt.text("b1");
        assert!(
            text.contains("generation 2; 2 old voters are barred"),
            "{text}"
        );
        assert!(text.contains("Start the daemon of node 'b1'"), "{text}");
        rebuilt.volumes.push("pg".into());
        assert!(rebuilt.text("b1").ends_with("promote-replica':\n  pg"));
    }
}
