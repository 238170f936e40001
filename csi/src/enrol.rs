//! Letting nodes of Kubernetes into the cluster: pods that wait to join find their one-time tokens in a Secret,
//! which kubelet mounts for them, so that no node may read Secrets. Why so, and how a cluster is founded:
//! docs/decisions/0024-founding-in-kubernetes.md.
//!
//! The Secret has a key for each node that waits, with its token, and `founded`, with the cluster's id, since
//! there is a cluster. A token goes when its node has joined. Every controller may do this at the same time:
//! a change names the version that it was decided on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use lockstep_api::proto::{self, Role};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::kubernetes::{Api, ApiError};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(3);
/// How long a token is good for.
const VALID: Duration = Duration::from_secs(24 * 3600);
/// The label of pods that are nodes of the cluster: what their node does in it.
const ROLE: &str = "lockstep.dev/role";
/// The key that says that there is a cluster.
const FOUNDED: &str = "founded";

/// Looks after one Secret.
#[derive(Debug)]
pub struct Enrolment {
    api: Api,
    daemon: Daemon,
    namespace: String,
    secret: String,
    /// When this process made a token, by node.
    made: BTreeMap<String, Instant>,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq, Default)]
struct Plan {
    /// Nodes that wait without a token that is known to be good.
    make: BTreeMap<String, Role>,
    /// Keys of nodes that need no token.
    remove: BTreeSet<String>,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    resource_version: String,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    /// None while it is not scheduled.
    node_name: Option<String>,
}

/// Its values are not read: this process has no use for them.
#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Enrolment {
    /// Of the Secret `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn new(api: Api, daemon: Daemon, secret: &str) -> anyhow::Result<Self> {
        let (namespace, secret) = secret
            .split_once('/')
            .filter(|(namespace, name)| is_dns_name(namespace) && is_dns_name(name))
            .with_context(|| format!("--enrol {secret}: give NAMESPACE/NAME of a Secret"))?;
        Ok(Self {
            api,
            daemon,
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            made: BTreeMap::new(),
        })
    }

    /// Looks after it for good.
    pub async fn look_after(mut self) {
        let mut said = String::new();
        loop {
            let words = match self.step().await {
                Ok(()) => String::new(),
                Err(error) => format!("{error:#}"),
            };
            // Once for each thing that goes wrong, not every time that it does.
            if !words.is_empty() && words != said {
                tracing::warn!(error = %words, "nodes that wait to join are let in later");
            }
            said = words;
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        let status = self
            .daemon
            .ask(|client| async move { client.cluster().status(proto::StatusRequest {}).await })
            .await?;
        if status.cluster_id.is_empty() {
            return Ok(()); // its founder has not committed it yet
        }
        let members = self.daemon.nodes().await?;
        let members: BTreeSet<String> = members.into_iter().map(|node| node.name).collect();
        let waiting = self.node_pods().await?;
        let path = format!(
            "/api/v1/namespaces/{}/secrets/{}",
            self.namespace, self.secret
        );
        let secret: Secret = self.api.get(&path).await?;
        let founded = secret.data.get(FOUNDED);
        if founded.is_some_and(|id| *id != base64(&status.cluster_id)) {
            bail!(
                "the Secret {} is of another cluster than this one, {}: two have been founded here; nobody is let in before one of them is removed",
                self.secret,
                status.cluster_id
            );
        }
        let held: BTreeSet<&str> = secret.data.keys().map(String::as_str).collect();
        let plan = plan(&waiting, &members, &held, |node| self.is_good(node));
        let mut data = BTreeMap::new();
        for node in plan.remove {
            data.insert(node, Value::Null);
        }
        for (node, role) in plan.make {
            let token = self.token(role).await?;
            tracing::info!(%node, "made a token for a node that waits to join");
            self.made.insert(node.clone(), Instant::now());
            data.insert(node, Value::from(base64(&token)));
        }
        if founded.is_none() {
            let id = base64(&status.cluster_id);
            data.insert(FOUNDED.into(), Value::from(id));
        }
        if data.is_empty() {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": secret.metadata.resource_version },
            "data": data,
        });
        match self.api.patch(&path, &patch).await {
            Err(error) if error.is_conflict() => {
                // Another controller was first; what this one has made was not told to anybody.
                self.made.clear();
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// Kubernetes' nodes with a pod that is a node of the cluster, or is to be one.
    async fn node_pods(&self) -> Result<BTreeMap<String, Role>, ApiError> {
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector={ROLE}",
            self.namespace
        );
        let pods: List<Pod> = self.api.get(&path).await?;
        let of = |pod: Pod| {
            let role = match pod.metadata.labels.get(ROLE)?.as_str() {
                "data" => Role::Data,
                "witness" => Role::Witness,
                _ => return None,
            };
            Some((pod.spec.node_name?, role))
        };
        Ok(pods.items.into_iter().filter_map(of).collect())
    }

    async fn token(&self, role: Role) -> anyhow::Result<String> {
        let request = proto::CreateTokenRequest {
            role: role.into(),
            valid_seconds: u32::try_from(VALID.as_secs())?,
        };
        let create = |client: lockstep_api::Client| async move {
            client.cluster().create_token(request).await
        };
        Ok(self.daemon.ask(create).await?.token)
    }

    /// Whether this process knows that a node's token will be good for a while. Of one that another process made
    /// it is not known, so that it is made anew: once.
    fn is_good(&self, node: &str) -> bool {
        let made = self.made.get(node);
        made.is_some_and(|made| made.elapsed() < VALID / 2)
    }
}

fn plan(
    waiting: &BTreeMap<String, Role>,
    members: &BTreeSet<String>,
    held: &BTreeSet<&str>,
    is_good: impl Fn(&str) -> bool,
) -> Plan {
    let needs = |node: &str| waiting.contains_key(node) && !members.contains(node);
    let make = waiting
        .iter()
        .filter(|(node, _)| needs(node) && !(held.contains(node.as_str()) && is_good(node)))
        .map(|(node, role)| (node.clone(), *role));
    let remove = held
        .iter()
        .filter(|key| **key != FOUNDED && !needs(key))
        .map(|key| (*key).to_owned());
    Plan {
        make: make.collect(),
        remove: remove.collect(),
    }
}

fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// As Secrets have their values.
fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(ToString::to_string).collect()
    }

    fn pods() -> BTreeMap<String, Role> {
        let all = [
            ("a1", Role::Data),
            ("b1", Role::Data),
            ("w1", Role::Witness),
        ];
        all.map(|(name, role)| (name.to_owned(), role)).into()
    }

    #[test]
    fn who_waits_gets_a_token_and_who_has_joined_loses_it() {
        let first = plan(&pods(), &names(&["a1"]), &BTreeSet::new(), |_| false);
        let make = [("b1", Role::Data), ("w1", Role::Witness)];
        assert_eq!(first.make, make.map(|(n, r)| (n.to_owned(), r)).into());
        assert_eq!(first.remove, names(&[]));

        let held = BTreeSet::from([FOUNDED, "b1", "w1"]);
        let waits = plan(&pods(), &names(&["a1"]), &held, |_| true);
        assert_eq!(waits, Plan::default(), "nothing is done twice");

        let joined = plan(&pods(), &names(&["a1", "b1"]), &held, |_| true);
        assert_eq!(joined.make, BTreeMap::new());
        assert_eq!(joined.remove, names(&["b1"]), "a cluster stays founded");
    }

    #[test]
    fn a_token_of_unknown_age_is_made_anew() {
        let held = BTreeSet::from([FOUNDED, "b1", "w1"]);
        let plan = plan(&pods(), &names(&["a1"]), &held, |node| node == "b1");
        assert_eq!(
            plan.make.into_keys().collect::<BTreeSet<_>>(),
            names(&["w1"])
        );
    }

    #[test]
    fn a_node_that_has_gone_keeps_no_token() {
        let held = BTreeSet::from([FOUNDED, "c9"]);
        let plan = plan(&pods(), &names(&["a1", "b1", "w1"]), &held, |_| true);
        assert_eq!(plan.remove, names(&["c9"]));
    }

    #[test]
    fn secrets_are_named_with_their_namespace() {
        let nowhere = || {
            let target = lockstep_api::Target::Unix("/nonexistent".into());
            (Api::for_tests(), Daemon::new(vec![target]))
        };
        for bad in ["", "secret", "a/b/c", "a/", "/b", "a/../b", "a/b?x"] {
            let (api, daemon) = nowhere();
            assert!(Enrolment::new(api, daemon, bad).is_err(), "{bad}");
        }
        let (api, daemon) = nowhere();
        assert!(Enrolment::new(api, daemon, "lockstep/lockstep-cluster").is_ok());
    }
}
