//! The health monitor: asks who is heard, looks at nodes that are not, and does what [`lockstep_evict`] says.
//!
//! | job | module |
//! |---|---|
//! | who is heard, what Lockstep says of a node | [`lockstep`] |
//! | what Kubernetes says of it | [`scene`], [`uses`] |
//! | doing it | [`act`] |
//! | replacing daemons after an upgrade | [`rollout`] |

pub mod act;
pub mod lockstep;
pub mod rollout;
pub mod scene;
pub mod uses;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kube::Client;
use lockstep_csi::daemon::Daemon;
use lockstep_evict::monitor::{Graces, Input, Monitor, Output};
use lockstep_evict::plan::{Kept, kept};
use lockstep_evict::scene::Scene;
use lockstep_types::Nanos;

/// How often it is asked who is heard.
const PERIOD: Duration = Duration::from_secs(1);
/// The same while something is to be done about a silent node.
const BUSY: Duration = Duration::from_millis(100);
/// How long it may take to look at a node, or to do one thing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for nodes with our taint, and for daemons that can be replaced.
const UPKEEP: Duration = Duration::from_secs(5);

/// Whom it asks.
#[derive(Clone)]
pub struct World {
    /// Lockstep, at one node.
    pub daemon: Daemon,
    /// The API server.
    pub client: Client,
    /// The namespace of the daemons' pods, if they are pods.
    pub daemon_pods: Option<String>,
    /// Daemons' pods are replaced when there is a newer revision of them.
    pub rolls_out: bool,
}

/// Watches for as long as it is polled.
pub async fn watch(world: World, graces: Graces) {
    let mut watch = Watch {
        world,
        monitor: Monitor::new(graces),
        start: Instant::now(),
        said: String::new(),
        upkept: None,
        told: BTreeSet::new(),
    };
    loop {
        let begun = Instant::now();
        watch.round().await;
        let period = match watch.monitor.is_busy(watch.now()) {
            true => BUSY,
            false => PERIOD,
        };
        tokio::time::sleep(period.saturating_sub(begun.elapsed())).await;
    }
}

struct Watch {
    world: World,
    monitor: Monitor,
    start: Instant,
    /// What went wrong last: said once.
    said: String,
    /// When what is less urgent was looked for.
    upkept: Option<Instant>,
    /// Pods of which it was said that they stay.
    told: BTreeSet<String>,
}

impl Watch {
    fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.monitor.step(self.now(), input, &mut outputs);
        outputs
    }

    async fn round(&mut self) {
        let asked = self.now();
        let life = match within(lockstep::life(&self.world.daemon)).await {
            Ok(life) => life,
            Err(error) => return self.complain(&error),
        };
        let acts = life.acts();
        if self.monitor.is_calm() {
            self.told.clear();
        }
        let outputs = self.tell(Input::Life { asked, life });
        self.carry_out(outputs).await;
        if acts && self.upkept.is_none_or(|at| at.elapsed() > UPKEEP) {
            self.upkept = Some(Instant::now());
            match self.upkeep().await {
                Ok(()) => self.said.clear(),
                Err(error) => self.complain(&error),
            }
        }
    }

    /// Batches of different nodes, and looks at them, at the same time.
    async fn carry_out(&mut self, outputs: Vec<Output>) {
        let asked = self.now();
        let world = &self.world;
        let (mut acts, mut looks) = (Vec::new(), Vec::new());
        for output in outputs {
            match output {
                Output::Act { node, actions } => acts.push(async move {
                    act::all(world, &node, &actions).await;
                    node
                }),
                Output::Look { node } => looks.push(async move {
                    let scene = within(scene::read(world, &node)).await;
                    (node, scene)
                }),
                Output::Untaint { machine } => act::untaint(world, &machine).await,
                Output::Silent { node } => {
                    tracing::warn!(node, "nobody hears the node");
                }
                Output::Back { node, after } => {
                    let seconds = Duration::from_nanos(after).as_secs_f32();
                    tracing::info!(node, seconds, "the node is heard again");
                }
            }
        }
        let (done, seen) = tokio::join!(join_all(acts), join_all(looks));
        for node in done {
            self.tell(Input::Done { node });
        }
        for (node, scene) in seen {
            match scene {
                Ok(scene) => {
                    self.explain_kept(&scene);
                    self.tell(Input::Scene { asked, scene });
                }
                Err(error) => {
                    tracing::warn!(
                        node,
                        error = format!("{error:#}"),
                        "the silent node cannot be looked at; again soon"
                    );
                }
            }
        }
    }

    /// What one of the monitors does when nothing presses.
    async fn upkeep(&mut self) -> anyhow::Result<()> {
        let machines = within(scene::tainted(&self.world.client)).await?;
        let outputs = self.tell(Input::Tainted { machines });
        self.carry_out(outputs).await;
        match &self.world.daemon_pods {
            Some(namespace) if self.world.rolls_out && self.monitor.is_calm() => {
                within(rollout::step(&self.world, namespace)).await
            }
            _ => Ok(()),
        }
    }

    /// Once for each thing that goes wrong, not every time that it does.
    fn complain(&mut self, error: &anyhow::Error) {
        let words = format!("{error:#}");
        if words != self.said {
            tracing::warn!(error = %words, "nodes are not watched over as they should be; again soon");
            self.said = words;
        }
    }

    /// Says once why a pod stays where it is.
    fn explain_kept(&mut self, scene: &Scene) {
        for (uid, why) in kept(scene) {
            let pod = scene.pods.iter().find(|it| it.uid == uid);
            let Some(pod) = pod.filter(|_| self.told.insert(uid.to_owned())) else {
                continue;
            };
            let (node, namespace, pod) = (&scene.node, &pod.namespace, &pod.name);
            let why = words(why);
            tracing::info!(node, namespace, pod, why, "the pod stays on the node");
        }
    }
}

const fn words(why: Kept) -> &'static str {
    match why {
        Kept::HasNoOtherPlace => "it is a DaemonSet's or the node's own",
        Kept::Bare => {
            "nobody would make it again; the annotation lockstep.dev/evict: \"true\" lets it be deleted"
        }
        Kept::ForeignVolume => {
            "it has a ReadWriteOnce volume of another driver, which is not fenced"
        }
        Kept::Shares => "it shares a volume with a pod that stays",
    }
}

async fn within<T, E: Into<anyhow::Error>>(
    asked: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => anyhow::bail!("no answer in {PATIENCE:?}"),
    }
}
