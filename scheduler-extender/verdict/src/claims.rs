//! What Kubernetes said: claims, what they are bound to, classes, and the pods that use them. Each watch tells
//! all of its kind once, and then what changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockstep_types::VolumeId;

use crate::wanted::{self, Source, Wanted, WantedVolume, Wish};

/// A namespace, and a name in it.
pub type Key = (String, String);

/// A PersistentVolumeClaim.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// Its class; empty if it names none.
    pub class: String,
    /// The PersistentVolume that it is bound to; empty if it is not.
    pub volume: String,
    /// Bytes asked for.
    pub bytes: u64,
    /// Whether it can be used on one node only.
    pub exclusive: bool,
}

/// A PersistentVolume, as far as it matters whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistent {
    /// Of another driver.
    Foreign,
    /// Of ours; its handle is a volume's id, or is none.
    Ours(Option<VolumeId>),
}

/// A StorageClass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Of another driver.
    Foreign,
    /// Of ours; none if its parameters are not valid.
    Ours(Option<Arc<Wish>>),
}

/// A pod that has claims.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pod {
    /// Its namespace and name.
    pub key: Key,
    /// Its unique id: one of the same name may follow it.
    pub uid: String,
    /// The node that it is bound to; empty if it is not.
    pub node: String,
    /// It has been told to end, or has ended.
    pub ending: bool,
    /// Names of its claims, those of ephemeral volumes included.
    pub claims: Vec<String>,
    /// The value of [`wanted::ANNOTATION`]; empty if it is missing.
    pub locality: String,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    claims: ByName<Claim>,
    persistent: BTreeMap<String, Persistent>,
    classes: BTreeMap<String, Class>,
    default_class: String,
    pods: ByName<Pod>,
    /// Names of pods by namespace and claim.
    users: ByName<BTreeSet<String>>,
    told: Told,
}

/// Which kinds have been told in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Claims.
    pub claims: bool,
    /// PersistentVolumes.
    pub persistent: bool,
    /// Classes.
    pub classes: bool,
    /// Pods.
    pub pods: bool,
}

impl Claims {
    /// What a pod asks for. Of claims that are told of later, nothing is assumed but what is said at
    /// [`Source::NotYet`] and [`Source::Missing`].
    pub fn wanted(&self, pod: &Pod) -> Wanted {
        let mut wanted = Wanted {
            locality: wanted::locality(&pod.locality),
            volumes: Vec::with_capacity(pod.claims.len()),
        };
        let names: BTreeSet<&String> = pod.claims.iter().collect();
        for name in names {
            let claim = self.claims.get(&pod.key.0, name);
            if let Some(source) = claim.map_or(Some(Source::NotYet), |it| self.source(it)) {
                let exclusive = claim.is_some_and(|it| it.exclusive);
                wanted.volumes.push(WantedVolume {
                    claim: name.clone(),
                    source,
                    users: if exclusive {
                        self.users(pod, name)
                    } else {
                        Vec::new()
                    },
                });
            }
        }
        // Claims that are not known yet may be anybody's: they bring no rule of ours.
        if wanted.volumes.iter().all(|it| it.source == Source::NotYet) {
            wanted.volumes.clear();
        }
        wanted
    }

    /// Whether a claim is ours; none if that is not known.
    pub fn is_ours(&self, namespace: &str, claim: &str) -> Option<bool> {
        let claim = self.claims.get(namespace, claim)?;
        if let Some(persistent) = self.persistent.get(&claim.volume) {
            return Some(matches!(persistent, Persistent::Ours(_)));
        }
        self.is_class_ours(&claim.class)
    }

    /// Whether a class is ours, empty for the default one; none if that is not known.
    pub fn is_class_ours(&self, class: &str) -> Option<bool> {
        let class = if class.is_empty() {
            &self.default_class
        } else {
            class
        };
        let class = self.classes.get(class)?;
        Some(matches!(class, Class::Ours(_)))
    }

    /// A pod that was told of.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(namespace, name)
    }

    /// Which kinds have been told in full.
    pub fn told(&self) -> Told {
        self.told
    }

    /// Claims, volumes, and pods with claims, for people.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.claims.len(), self.persistent.len(), self.pods.len())
    }

    /// A claim as it is now.
    pub fn put_claim(&mut self, key: Key, claim: Claim) {
        self.claims.put(key, claim);
    }

    /// A claim is gone.
    pub fn remove_claim(&mut self, key: &Key) {
        self.claims.remove(key);
    }

    /// All claims there are.
    pub fn set_claims(&mut self, all: impl IntoIterator<Item = (Key, Claim)>) {
        self.claims = ByName::of(all);
        self.told.claims = true;
    }

    /// A PersistentVolume as it is now; whether it is one of ours that was not known.
    pub fn put_persistent(&mut self, name: String, volume: Persistent) -> bool {
        let before = self.persistent.insert(name, volume);
        before != Some(volume) && matches!(volume, Persistent::Ours(_))
    }

    /// A PersistentVolume is gone.
    pub fn remove_persistent(&mut self, name: &str) {
        self.persistent.remove(name);
    }

    /// All PersistentVolumes there are.
    pub fn set_persistent(&mut self, all: impl IntoIterator<Item = (String, Persistent)>) {
        self.persistent = all.into_iter().collect();
        self.told.persistent = true;
    }

    /// All classes there are, and the name of the default one, empty if there is none.
    pub fn set_classes(
        &mut self,
        all: impl IntoIterator<Item = (String, Class)>,
        default_class: String,
    ) {
        self.classes = all.into_iter().collect();
        self.default_class = default_class;
        self.told.classes = true;
    }

    /// A pod as it is now. One without claims is passed over.
    pub fn put_pod(&mut self, pod: Pod) {
        self.remove_pod(&pod.key.clone());
        if pod.claims.is_empty() {
            return;
        }
        let (namespace, name) = pod.key.clone();
        for claim in &pod.claims {
            let users = self.users.entry((namespace.clone(), claim.clone()));
            users.insert(name.clone());
        }
        self.pods.put((namespace, name), pod);
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &Key) {
        let Some(pod) = self.pods.remove(key) else {
            return;
        };
        for claim in pod.claims {
            let users = (key.0.clone(), claim);
            let left = self.users.entry(users.clone());
            left.remove(&key.1);
            if left.is_empty() {
                self.users.remove(&users);
            }
        }
    }

    /// All pods there are.
    pub fn set_pods(&mut self, all: impl IntoIterator<Item = Pod>) {
        self.pods = ByName::default();
        self.users = ByName::default();
        all.into_iter().for_each(|pod| self.put_pod(pod));
        self.told.pods = true;
    }

    /// What stands behind a claim; none if it is not ours.
    fn source(&self, claim: &Claim) -> Option<Source> {
        let class = self.classes.get(&claim.class);
        if claim.volume.is_empty() {
            return match class {
                Some(Class::Ours(wish)) => Some(Source::Unbound {
                    wish: wish.clone(),
                    bytes: claim.bytes,
                }),
                Some(Class::Foreign) | None => None,
            };
        }
        match self.persistent.get(&claim.volume) {
            Some(Persistent::Ours(Some(id))) => Some(Source::Bound(*id)),
            Some(Persistent::Ours(None)) => Some(Source::Missing),
            Some(Persistent::Foreign) => None,
            // Bound to what is not told of yet. Before all volumes are told nothing is refused for it.
            None if !self.told.persistent => Some(Source::NotYet),
            None if class == Some(&Class::Foreign) => None,
            None => Some(Source::Missing),
        }
    }

    /// Nodes of other pods that use a claim and are not ending.
    fn users(&self, pod: &Pod, claim: &str) -> Vec<String> {
        let names = self.users.get(&pod.key.0, claim).into_iter().flatten();
        let pods = names.filter_map(|name| self.pods.get(&pod.key.0, name));
        let others = pods.filter(|it| it.uid != pod.uid && !it.ending && !it.node.is_empty());
        let nodes: BTreeSet<&String> = others.map(|it| &it.node).collect();
        nodes.into_iter().cloned().collect()
    }
}

/// Things by namespace and name.
#[derive(Clone, Debug)]
struct ByName<T> {
    namespaces: BTreeMap<String, BTreeMap<String, T>>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
        }
    }
}

impl<T> ByName<T> {
    fn of(all: impl IntoIterator<Item = (Key, T)>) -> Self {
        let mut by_name = Self::default();
        all.into_iter().for_each(|(key, it)| by_name.put(key, it));
        by_name
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.namespaces.get(namespace)?.get(name)
    }

    fn put(&mut self, (namespace, name): Key, value: T) {
        let inside = self.namespaces.entry(namespace).or_default();
        inside.insert(name, value);
    }

    fn entry(&mut self, (namespace, name): Key) -> &mut T
    where
        T: Default,
    {
        let inside = self.namespaces.entry(namespace).or_default();
        inside.entry(name).or_default()
    }

    fn remove(&mut self, (namespace, name): &Key) -> Option<T> {
        let inside = self.namespaces.get_mut(namespace)?;
        let removed = inside.remove(name);
        if inside.is_empty() {
            self.namespaces.remove(namespace);
        }
        removed
    }

    fn len(&self) -> usize {
        self.namespaces.values().map(BTreeMap::len).sum()
    }
}
