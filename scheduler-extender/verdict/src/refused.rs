//! Who was refused where, so that a scheduler can be told when that lapses: without a hint it looks at a pod
//! that did not fit again only after five minutes.

use std::collections::BTreeMap;

use lockstep_types::Nanos;

use crate::claims::{Claims, Key, Pod};
use crate::cluster::Cluster;
use crate::filter::filter;

/// Pods remembered at most; of more, the oldest is forgotten. It then waits as without a hint.
pub const MOST_PODS: usize = 100;

/// The pods that nodes were refused for, and those nodes.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    pods: BTreeMap<Key, Entry>,
    count: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    pod: Pod,
    /// Older entries have smaller ones.
    number: u64,
    nodes: Vec<String>,
}

impl Refused {
    /// These nodes, and no others, were refused for a pod just now.
    pub fn note(&mut self, pod: &Pod, nodes: Vec<String>) {
        if nodes.is_empty() {
            self.pods.remove(&pod.key);
            return;
        }
        self.count += 1;
        let entry = Entry {
            pod: pod.clone(),
            number: self.count,
            nodes,
        };
        self.pods.insert(pod.key.clone(), entry);
        if self.pods.len() > MOST_PODS {
            let oldest = self.pods.iter().min_by_key(|(_, entry)| entry.number);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.pods.remove(&key);
            }
        }
    }

    /// Nodes that take a pod now and did not before, one for each such pod, each once; up to `most`, the others
    /// are told of next time. A scheduler looks again at the pods that could run on a node that changed.
    pub fn lapsed(
        &mut self,
        cluster: &Cluster,
        claims: &Claims,
        now: Nanos,
        most: usize,
    ) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        self.pods.retain(|key, entry| {
            let known = claims.pod(&key.0, &key.1);
            let waits =
                known.is_none_or(|it| it.uid == entry.pod.uid && it.node.is_empty() && !it.ending);
            if !waits {
                return false;
            }
            let wanted = claims.wanted(&entry.pod);
            let names = entry.nodes.iter().map(String::as_str);
            let verdicts = filter(cluster, now, &wanted, names);
            let stays = verdicts.iter().position(Option::is_none);
            let Some(node) = stays.map(|at| entry.nodes[at].clone()) else {
                return true;
            };
            if !told.contains(&node) {
                if told.len() >= most {
                    return true;
                }
                told.push(node);
            }
            // The scheduler asks again, and what is refused then is noted anew.
            false
        });
        told
    }

    /// Pods that are remembered.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}
