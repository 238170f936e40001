//! `lockstep node drain`, `lockstep site drain`: whether nodes can be switched off without a volume noticing, and until
//! they can. Nothing is moved that need not be: copies stay, and catch up when their nodes are back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use lockstep_api::{Client, proto};
use lockstep_node::units::Span;
use serde::Serialize;

use crate::connect::words;
use crate::output::{Output, Row, table};
use crate::progress::Progress;
use crate::volume::all_volumes;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Of both commands.
#[derive(Args)]
pub struct DrainArgs {
    /// Only say what is in the way, and change nothing: the exit code is 0 if nothing is
    #[arg(long)]
    check: bool,
    /// How long what is in the way is waited for
    #[arg(long, value_name = "TIME", default_value = "10m")]
    timeout: Span,
}

/// What is in the way.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
struct Obstacle {
    /// The volume; empty if it is the control plane.
    volume: String,
    /// `attached`, `last-copy`, `strict`, `quorum` or `voters-changing`.
    code: &'static str,
    /// In words, and what to do.
    text: String,
}

impl Row for Obstacle {
    const COLUMNS: &'static [&'static str] = &["VOLUME", "IN THE WAY"];

    fn cells(&self) -> Vec<String> {
        vec![self.volume.clone(), self.text.clone()]
    }
}

/// What was done.
#[derive(Serialize)]
struct Drained {
    drained: Vec<String>,
}

/// All that is judged, as one daemon says it.
struct Cluster {
    nodes: Vec<proto::Node>,
    volumes: Vec<proto::Volume>,
    voters: Vec<proto::Voter>,
    voters_changing: bool,
}

/// Cordons these nodes, and waits until nothing needs them.
///
/// # Errors
/// Something does, and still does when the time is over: then they are as usable as before.
pub async fn drain(
    going: Vec<proto::Node>,
    args: &DrainArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let names: BTreeSet<&str> = going.iter().map(|it| it.name.as_str()).collect();
    if args.check {
        return check(&names, client, output).await;
    }
    let cordoned: Vec<&proto::Node> = going.iter().filter(|it| !it.cordoned).collect();
    for node in &cordoned {
        set_cordon(client, node, true).await?;
    }
    let ready = wait(&names, args.timeout.0, client, output).await;
    if let Err(error) = ready {
        for node in cordoned {
            if set_cordon(client, node, false).await.is_err() {
                let words = format!(
                    "node '{0}' stays cordoned: 'lockstep node uncordon {0}'",
                    node.name
                );
                return Err(error.context(words));
            }
        }
        return Err(error);
    }
    let list: Vec<String> = names.iter().map(ToString::to_string).collect();
    let text = format!(
        "Nothing needs {} now: switch off what is to be mended. Then 'lockstep node uncordon NODE'.",
        list.join(", ")
    );
    output.one(&Drained { drained: list }, &text)
}

async fn check(names: &BTreeSet<&str>, client: &Client, output: &Output) -> anyhow::Result<()> {
    let obstacles = judge(names, &look(client).await?);
    if obstacles.is_empty() && !output.is_json() {
        let list: Vec<&str> = names.iter().copied().collect();
        return crate::output::print(&format!("Nothing needs {}.", list.join(", ")));
    }
    output.list(&obstacles)?;
    match obstacles.len() {
        0 => Ok(()),
        count => bail!("{count} in the way"),
    }
}

async fn wait(
    names: &BTreeSet<&str>,
    patience: Duration,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    let progress = Progress::begin(output);
    loop {
        let obstacles = judge(names, &look(client).await?);
        let Some(first) = obstacles.first() else {
            return Ok(());
        };
        if tokio::time::Instant::now() >= deadline {
            drop(progress);
            bail!(
                "still in the way after {} s, so that nothing is switched off:\n{}",
                patience.as_secs(),
                table(&obstacles)
            );
        }
        progress.tell(
            format!("{} in the way: {}", obstacles.len(), first.text),
            None,
        );
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(client: &Client) -> anyhow::Result<Cluster> {
    let nodes = client.nodes().list(proto::ListNodesRequest {}).await;
    let status = client.cluster().status(proto::StatusRequest {}).await;
    let status = status.map_err(words)?.into_inner();
    Ok(Cluster {
        nodes: nodes.map_err(words)?.into_inner().nodes,
        volumes: all_volumes(client).await?,
        voters: status.voters,
        voters_changing: status.voters_changing,
    })
}

/// What needs these nodes. Judged over what is there without them, so that nodes that are silent already count too.
fn judge(going: &BTreeSet<&str>, cluster: &Cluster) -> Vec<Obstacle> {
    let stays = |name: &str| {
        let node = cluster.nodes.iter().find(|it| it.name == name);
        node.is_some_and(|it| it.answering) && !going.contains(name)
    };
    let mut obstacles: Vec<Obstacle> = quorum(cluster, stays).into_iter().collect();
    for volume in &cluster.volumes {
        obstacles.extend(attached(going, volume));
        obstacles.extend(copies(going, volume, stays));
    }
    obstacles
}

fn quorum(cluster: &Cluster, stays: impl Fn(&str) -> bool) -> Option<Obstacle> {
    let obstacle = |code, text| {
        Some(Obstacle {
            volume: String::new(),
            code,
            text,
        })
    };
    if cluster.voters_changing {
        let text = "voters are being exchanged; wait until that is done".to_owned();
        return obstacle("voters-changing", text);
    }
    let voters = || cluster.voters.iter().filter(|it| !it.learner);
    let (all, left) = (
        voters().count(),
        voters().filter(|it| stays(&it.node)).count(),
    );
    if left > all / 2 {
        return None;
    }
    obstacle(
        "quorum",
        format!(
            "{left} of {all} voters would be left, and a majority is needed: have others answer first"
        ),
    )
}

fn attached(going: &BTreeSet<&str>, volume: &proto::Volume) -> Option<Obstacle> {
    let node = &volume.attachment.as_ref()?.node;
    going.contains(node.as_str()).then(|| Obstacle {
        volume: volume.name.clone(),
        code: "attached",
        text: format!(
            "it is attached to node '{node}': move its pod ('kubectl drain'), or detach it"
        ),
    })
}

fn copies(
    going: &BTreeSet<&str>,
    volume: &proto::Volume,
    stays: impl Fn(&str) -> bool,
) -> Option<Obstacle> {
    let certified = || volume.replicas.iter().filter(|it| it.certified);
    let goes = |it: &&proto::Replica| going.contains(it.node.as_str());
    let nodes: BTreeSet<&str> = certified()
        .filter(goes)
        .map(|it| it.node.as_str())
        .collect();
    if nodes.is_empty() {
        return None;
    }
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let nodes = nodes.join(", ");
    let left: Vec<&proto::Replica> = certified()
        .filter(|it| it.able && stays(&it.node))
        .collect();
    let resyncs = volume
        .replicas
        .iter()
        .any(|it| !it.certified && stays(&it.node));
    let what = match resyncs {
        true => "wait for the resync of another",
        false => "move it ('lockstep volume move-replica') or add another",
    };
    if left.is_empty() {
        return Some(Obstacle {
            volume: volume.name.clone(),
            code: "last-copy",
            text: format!("its last certified copy that can serve is on {nodes}: {what}"),
        });
    }
    let policy = volume.policy.as_ref();
    let strict = policy.is_some_and(|it| it.rpo() == proto::Rpo::Strict);
    let has = |site: &str| left.iter().any(|it| it.site == site);
    let emptied = certified().map(|it| it.site.as_str()).find(|it| !has(it));
    let site = emptied.filter(|_| strict)?;
    Some(Obstacle {
        volume: volume.name.clone(),
        code: "strict",
        text: format!(
            "rpo 'strict': its writes would wait, for no certified copy would be left in site '{site}': {what}"
        ),
    })
}

/// Keeps new things away from a node, or lets it be given some again.
pub(crate) async fn set_cordon(
    client: &Client,
    node: &proto::Node,
    cordoned: bool,
) -> anyhow::Result<()> {
    let request = proto::CordonNodeRequest {
        node: node.id.clone(),
        cordoned,
    };
    client.nodes().cordon(request).await.map_err(words)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a1, a2, b1, b2 and w1, all voters; copies on a1 and b1.
    fn cluster(rpo: proto::Rpo) -> Cluster {
        let names = ["a1", "a2", "b1", "b2", "w1"];
        let node = |name: &&str| proto::Node {
            name: (*name).into(),
            answering: true,
            ..Default::default()
        };
        let voter = |name: &&str| proto::Voter {
            node: (*name).into(),
            ..Default::default()
        };
        let replica = |node: &str| proto::Replica {
            node: node.into(),
            site: node[..1].into(),
            certified: true,
            able: true,
            ..Default::default()
        };
        let volume = proto::Volume {
            name: "pg".into(),
            policy: Some(proto::Policy {
                rpo: rpo.into(),
                ..Default::default()
            }),
            replicas: vec![replica("a1"), replica("b1")],
            ..Default::default()
        };
        Cluster {
            nodes: names.iter().map(node).collect(),
            volumes: vec![volume],
            voters: names.iter().map(voter).collect(),
            voters_changing: false,
        }
    }

    fn codes(going: &[&str], cluster: &Cluster) -> Vec<&'static str> {
        let going = going.iter().copied().collect();
        judge(&going, cluster)
            .into_iter()
            .map(|it| it.code)
            .collect()
    }

    #[test]
    fn a_node_with_one_copy_of_two_can_go() {
        let mut all = cluster(proto::Rpo::WitnessedDegrade);
        assert_eq!(codes(&["a1"], &all), [""; 0]);
        assert_eq!(codes(&["a1", "a2"], &all), [""; 0], "a whole site");
        all.volumes[0].attachment = Some(proto::Attachment {
            node: "a1".into(),
            ..Default::default()
        });
        assert_eq!(codes(&["a1"], &all), ["attached"]);
        assert_eq!(codes(&["a2"], &all), [""; 0]);
    }

    #[test]
    fn the_last_copy_that_can_serve_stays() {
        let mut all = cluster(proto::Rpo::WitnessedDegrade);
        all.volumes[0].replicas[1].able = false;
        assert_eq!(codes(&["a1"], &all), ["last-copy"]);
        let mut all = cluster(proto::Rpo::WitnessedDegrade);
        all.nodes[2].answering = false;
        assert_eq!(codes(&["a1"], &all), ["last-copy"], "b1 is silent");
        let mut all = cluster(proto::Rpo::WitnessedDegrade);
        all.volumes[0].replicas[1].certified = false;
        let found = judge(&["a1"].into(), &all);
        assert!(found[0].text.contains("resync"), "{found:?}");
        assert_eq!(codes(&["b1"], &all), [""; 0], "it has none that counts");
    }

    #[test]
    fn strict_keeps_a_copy_in_each_site() {
        let all = cluster(proto::Rpo::Strict);
        assert_eq!(codes(&["a1"], &all), ["strict"]);
        let mut more = cluster(proto::Rpo::Strict);
        let mut second = more.volumes[0].replicas[0].clone();
        second.node = "a2".into();
        more.volumes[0].replicas.push(second);
        assert_eq!(codes(&["a1"], &more), [""; 0]);
        assert_eq!(codes(&["a1", "a2"], &more), ["strict"]);
    }

    #[test]
    fn a_majority_of_voters_stays() {
        let mut all = cluster(proto::Rpo::WitnessedDegrade);
        all.volumes.clear();
        assert_eq!(codes(&["a1", "a2", "w1"], &all), ["quorum"]);
        all.nodes[4].answering = false;
        assert_eq!(codes(&["a1", "a2"], &all), ["quorum"], "w1 is silent");
        all.voters[4].learner = true;
        all.nodes[4].answering = true;
        assert_eq!(codes(&["a1", "a2"], &all), ["quorum"], "two of four");
        all.voters_changing = true;
        assert_eq!(codes(&["a1"], &all), ["voters-changing"]);
    }
}
