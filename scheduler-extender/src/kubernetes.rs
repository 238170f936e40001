//! Hearing from Kubernetes: five watches, each of which tells everything once and then what changes. Of an
//! object is kept what [`crate::objects`] leaves of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;

use futures_util::StreamExt;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use lockstep_verdict::claims::{self, Claim, Key, Persistent};
use lockstep_verdict::cluster::Machine;
use serde::de::DeserializeOwned;

use crate::state::State;
use crate::{measure, objects};

/// Pods that have ended use nothing, and there are many of them.
const LIVING: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// What a watch tells.
enum News<T> {
    /// All there is, in place of what was told before.
    All(Vec<T>),
    /// One thing as it is now.
    Is(T),
    /// One thing is gone.
    Gone(T),
}

/// Hears, for as long as it is polled. An API server that does not answer is asked again, ever more slowly.
pub async fn hear(client: Client, state: State) {
    let mut all_classes = BTreeMap::new();
    let living = Config::default().fields(LIVING);
    tokio::join!(
        follow(all(&client), Config::default(), objects::machine, |news| {
            machine(&state, news);
        }),
        follow(all(&client), living, objects::pod, |news| pod(&state, news)),
        follow(all(&client), Config::default(), objects::claim, |news| {
            claim(&state, news);
        }),
        follow(
            all(&client),
            Config::default(),
            objects::persistent,
            |news| {
                persistent(&state, news);
            }
        ),
        follow(
            all(&client),
            Config::default(),
            StorageClass::clone,
            |news| {
                class(&state, &mut all_classes, news);
            }
        ),
    );
}

fn all<K: Resource<DynamicType = ()>>(client: &Client) -> Api<K> {
    Api::all(client.clone())
}

async fn follow<K, T>(
    api: Api<K>,
    config: Config,
    trim: impl Fn(&K) -> T,
    mut tell: impl FnMut(News<T>),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&());
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.push(trim(&object)),
            Ok(Event::InitDone) => tell(News::All(std::mem::take(&mut listed))),
            Ok(Event::Apply(object)) => tell(News::Is(trim(&object))),
            Ok(Event::Delete(object)) => tell(News::Gone(trim(&object))),
            Err(error) => {
                measure::source_failed("kubernetes");
                tracing::warn!(%kind, %error, "Kubernetes does not tell; what it told before stays in use");
            }
        }
    }
}

fn machine(state: &State, news: News<Machine>) {
    match news {
        News::All(all) => state.set_machines(all),
        News::Is(machine) => state.put_machine(machine),
        News::Gone(machine) => state.remove_machine(&machine.name),
    }
}

fn pod(state: &State, news: News<claims::Pod>) {
    state.change_claims(|claims| match news {
        News::All(all) => claims.set_pods(all),
        News::Is(pod) => claims.put_pod(pod),
        News::Gone(pod) => claims.remove_pod(&pod.key),
    });
}

fn claim(state: &State, news: News<(Key, Claim)>) {
    state.change_claims(|claims| match news {
        News::All(all) => claims.set_claims(all),
        News::Is((key, claim)) => claims.put_claim(key, claim),
        News::Gone((key, _)) => claims.remove_claim(&key),
    });
}

fn persistent(state: &State, news: News<(String, Persistent)>) {
    let new = state.change_claims(|claims| match news {
        News::All(all) => {
            claims.set_persistent(all);
            false
        }
        News::Is((name, volume)) => claims.put_persistent(name, volume),
        News::Gone((name, _)) => {
            claims.remove_persistent(&name);
            false
        }
    });
    // Pods that use it are refused until Lockstep has told of it.
    if new {
        state.ask_soon();
    }
}

fn class(state: &State, known: &mut BTreeMap<String, StorageClass>, news: News<StorageClass>) {
    match news {
        News::All(all) => *known = all.into_iter().map(|it| (it.name_any(), it)).collect(),
        News::Is(class) => {
            known.insert(class.name_any(), class);
        }
        News::Gone(class) => {
            known.remove(&class.name_any());
        }
    }
    let all: Vec<StorageClass> = known.values().cloned().collect();
    let (named, default) = objects::classes(&all);
    state.change_claims(|claims| claims.set_classes(named, default));
}
