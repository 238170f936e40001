//! What is known now. Verdicts are made over a [`Cluster`] that is exchanged as a whole, and over claims, which
//! change one at a time and are read for a moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use lockstep_types::Nanos;
use lockstep_verdict::claims::{Claims, Pod};
use lockstep_verdict::cluster::{Cluster, Machine};
use lockstep_verdict::refused::Refused;
use lockstep_verdict::storage::Storage;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

/// All of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    cluster: RwLock<Arc<Cluster>>,
    parts: Mutex<Parts>,
    claims: RwLock<Claims>,
    refused: Mutex<Refused>,
    /// Somebody needs to hear from Lockstep sooner than it would be asked.
    ask: Notify,
}

/// What the cluster is made from.
#[derive(Debug, Default)]
struct Parts {
    storage: Arc<Storage>,
    machines: BTreeMap<String, Machine>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                start: Instant::now(),
                cluster: RwLock::default(),
                parts: Mutex::default(),
                claims: RwLock::default(),
                refused: Mutex::default(),
                ask: Notify::new(),
            }),
        }
    }
}

impl State {
    /// The time since this process began.
    pub fn now(&self) -> Nanos {
        u64::try_from(self.inner.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The nodes and volumes, as last heard.
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.inner.cluster.read())
    }

    /// Looks at the claims. Nothing is to be waited for meanwhile.
    pub fn with_claims<T>(&self, look: impl FnOnce(&Claims) -> T) -> T {
        look(&self.inner.claims.read())
    }

    /// Changes the claims.
    pub fn change_claims<T>(&self, change: impl FnOnce(&mut Claims) -> T) -> T {
        change(&mut self.inner.claims.write())
    }

    /// Lockstep has spoken.
    pub fn set_storage(&self, storage: Storage) {
        let mut parts = self.inner.parts.lock();
        parts.storage = Arc::new(storage);
        self.arrange(&parts);
    }

    /// A node of Kubernetes as it is now.
    pub fn put_machine(&self, machine: Machine) {
        let mut parts = self.inner.parts.lock();
        // A node's status is written often; what counts of it changes rarely.
        if parts.machines.get(&machine.name) != Some(&machine) {
            parts.machines.insert(machine.name.clone(), machine);
            self.arrange(&parts);
        }
    }

    /// A node of Kubernetes is gone.
    pub fn remove_machine(&self, name: &str) {
        let mut parts = self.inner.parts.lock();
        if parts.machines.remove(name).is_some() {
            self.arrange(&parts);
        }
    }

    /// All nodes of Kubernetes there are.
    pub fn set_machines(&self, all: impl IntoIterator<Item = Machine>) {
        let mut parts = self.inner.parts.lock();
        parts.machines = all.into_iter().map(|it| (it.name.clone(), it)).collect();
        self.arrange(&parts);
    }

    /// These nodes were refused for a pod.
    pub fn note_refused(&self, pod: &Pod, nodes: Vec<String>) {
        self.inner.refused.lock().note(pod, nodes);
    }

    /// Nodes that take a pod by now that they were refused for, at most so many.
    pub fn lapsed(&self, most: usize) -> Vec<String> {
        let (cluster, now) = (self.cluster(), self.now());
        let claims = self.inner.claims.read();
        let mut refused = self.inner.refused.lock();
        refused.lapsed(&cluster, &claims, now, most)
    }

    /// Pods that are remembered because nodes were refused for them.
    pub fn refused(&self) -> usize {
        self.inner.refused.lock().len()
    }

    /// Has Lockstep asked soon.
    pub fn ask_soon(&self) {
        self.inner.ask.notify_one();
    }

    /// Waits until somebody wants Lockstep asked.
    pub async fn asked_soon(&self) {
        self.inner.ask.notified().await;
    }

    /// Whether Kubernetes has told everything once, and Lockstep has spoken.
    pub fn is_ready(&self) -> bool {
        let told = self.inner.claims.read().told();
        let heard = self.cluster().storage().heard().is_some();
        told.claims && told.persistent && told.classes && told.pods && heard
    }

    /// In the parts' lock, so that of two changes the later one is what stays.
    fn arrange(&self, parts: &Parts) {
        let cluster = Cluster::new(Arc::clone(&parts.storage), parts.machines.values());
        *self.inner.cluster.write() = Arc::new(cluster);
    }
}
