//! Whatever is told to the monitor, and in whatever order: it acts only on fresh evidence, fences before it deletes,
//! leaves alone what it must, and comes to an end.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_evict::evidence::{Life, Member};
use lockstep_evict::monitor::{Graces, Input, Monitor, Output};
use lockstep_evict::plan::{Action, BATCH, kept, plan};
use lockstep_evict::scene::{Attachment, Machine, Owner, Pod, Published, Scene, Use};
use lockstep_types::{Nanos, millis, seconds};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

const GRACES: Graces = Graces {
    dead: seconds(3),
    alive: seconds(60),
};
const NODES: [&str; 4] = ["a1", "b1", "b2", "w1"];
const VOTERS: [&str; 3] = ["a1", "b1", "w1"];

fn owner() -> impl Strategy<Value = Owner> {
    use Owner::{Controller, DaemonSet, Mirror, Nobody};
    select(vec![
        Controller, Controller, Controller, DaemonSet, Mirror, Nobody,
    ])
}

fn uses() -> impl Strategy<Value = Vec<Use>> {
    let ours = (0..12_u8).prop_map(|it| Use::Ours(format!("v{it}")));
    vec(
        prop_oneof![8 => ours, 1 => Just(Use::Exclusive), 1 => Just(Use::Shared)],
        0..3,
    )
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let pod = (owner(), any::<bool>(), uses());
    vec(pod, 0..30).prop_map(|pods| {
        let pod = |(number, (owner, opted_in, uses))| Pod {
            namespace: "ns".into(),
            name: format!("p{number}"),
            uid: format!("u{number}"),
            owner,
            opted_in,
            uses,
        };
        pods.into_iter().enumerate().map(pod).collect()
    })
}

/// Any silent node: not everything that a pod uses need be attached, nor used what is.
fn scene() -> impl Strategy<Value = Scene> {
    let some = || btree_set((0..14_u8).prop_map(|it| format!("v{it}")), 0..14);
    (pods(), some(), some(), some(), any::<bool>()).prop_map(
        |(pods, attached, published, in_use, tainted)| Scene {
            node: "a1".into(),
            machine: Some(Machine {
                name: "m-a1".into(),
                tainted,
                in_use: in_use.into_iter().collect(),
                kubelet: Some("1".into()),
                ..Machine::default()
            }),
            attachments: attached.into_iter().map(attachment).collect(),
            published: published.into_iter().map(publication).collect(),
            pods,
        },
    )
}

fn attachment(volume: String) -> Attachment {
    Attachment {
        id: format!("of-{volume}"),
        volume,
    }
}

fn publication(volume: String) -> Published {
    Published {
        name: format!("csi-{volume}"),
        volume,
    }
}

/// What one daemon says; `deaf` hear nobody and are heard by nobody.
fn life(asked: &str, deaf: &BTreeSet<&str>, cordoned: &BTreeSet<&str>, quorum: bool) -> Life {
    let answer = |name: &&str| !deaf.contains(*name);
    let by: BTreeSet<String> = NODES.into_iter().filter(answer).map(String::from).collect();
    let member = |name: &str| {
        let heard_by = if deaf.contains(name) {
            BTreeSet::new()
        } else {
            by.clone()
        };
        Member {
            heard_by,
            monitored: true,
            cordoned: cordoned.contains(name),
        }
    };
    Life {
        node: asked.into(),
        leader: asked.into(),
        quorum,
        voters: VOTERS.map(String::from).into(),
        voters_outgoing: Vec::new(),
        members: NODES.map(|it| (it.to_owned(), member(it))).into(),
    }
}

fn our_volumes(pod: &Pod) -> Vec<&String> {
    let mut ours = Vec::new();
    for used in &pod.uses {
        if let Use::Ours(volume) = used {
            ours.push(volume);
        }
    }
    ours
}

/// A pod that must never be touched, said in other words than the product's.
fn is_untouchable(pod: &Pod) -> bool {
    matches!(pod.owner, Owner::DaemonSet | Owner::Mirror)
        || pod.owner == Owner::Nobody && !pod.opted_in
        || pod.uses.contains(&Use::Exclusive)
}

/// What a cluster does with an action.
fn apply(scene: &mut Scene, action: &Action) {
    match action {
        Action::Fence { attachment, .. } => scene.attachments.retain(|it| it.id != *attachment),
        Action::Taint { .. } => scene.machine.as_mut().expect("one").tainted = true,
        Action::Delete { uid, .. } => scene.pods.retain(|it| it.uid != *uid),
        Action::Forget { volumes, .. } => {
            let machine = scene.machine.as_mut().expect("one");
            machine.in_use.retain(|it| !volumes.contains(it));
            // Kubernetes detaches what is in use no more.
            scene.published.retain(|it| !volumes.contains(&it.volume));
        }
        Action::Unpublish { name } => scene.published.retain(|it| it.name != *name),
    }
}

fn check(scene: &Scene, actions: &[Action]) {
    let pods: BTreeMap<&str, &Pod> = scene.pods.iter().map(|it| (it.uid.as_str(), it)).collect();
    let held: BTreeSet<&String> = scene
        .pods
        .iter()
        .filter(|it| is_untouchable(it))
        .flat_map(our_volumes)
        .collect();
    let attached: BTreeSet<&String> = scene.attachments.iter().map(|it| &it.volume).collect();
    let mut count = 0;
    for action in actions {
        match action {
            Action::Fence { volume, attachment } => {
                assert!(
                    !held.contains(volume),
                    "{volume} is used by a pod that stays"
                );
                assert!(scene.attachments.contains(&Attachment {
                    volume: volume.clone(),
                    id: attachment.clone()
                }));
                let known = scene.published.iter().any(|it| it.volume == *volume)
                    || scene
                        .pods
                        .iter()
                        .any(|it| our_volumes(it).contains(&volume));
                assert!(known, "{volume} was attached by hand");
                count += 1;
            }
            Action::Delete { uid, .. } => {
                let pod = pods[uid.as_str()];
                assert!(!is_untouchable(pod), "{pod:?}");
                assert!(!our_volumes(pod).is_empty(), "not ours: {pod:?}");
                for volume in our_volumes(pod) {
                    assert!(!attached.contains(volume), "{volume} is not fenced yet");
                    assert!(
                        !held.contains(volume),
                        "{volume} is shared with one that stays"
                    );
                }
                let tainted = scene.machine.as_ref().is_some_and(|it| it.tainted);
                let taints = |it: &Action| matches!(it, Action::Taint { .. });
                assert!(
                    tainted || actions.first().is_some_and(taints),
                    "it would come back"
                );
                count += 1;
            }
            Action::Forget { volumes, .. } => {
                for volume in volumes {
                    assert!(!attached.contains(volume), "{volume} is not fenced yet");
                    let used = |it: &Pod| our_volumes(it).contains(&volume);
                    assert!(!scene.pods.iter().any(used), "{volume} is used");
                }
                count += volumes.len();
            }
            Action::Taint { .. } => {}
            Action::Unpublish { .. } => count += 1,
        }
    }
    assert!(count <= BATCH);
}

proptest! {
    /// Step by step to the end: what can go is gone, what must stay has stayed.
    #[test]
    fn a_silent_node_is_emptied_of_what_may_go(mut scene in scene()) {
        let before = scene.clone();
        let stay: BTreeSet<String> = kept(&scene).into_keys().map(String::from).collect();
        for _ in 0..100 {
            let actions = plan(&scene);
            check(&scene, &actions);
            if actions.is_empty() {
                break;
            }
            for action in &actions {
                apply(&mut scene, action);
            }
        }
        prop_assert!(plan(&scene).is_empty(), "it does not come to an end");
        let has_ours = |it: &&Pod| !our_volumes(it).is_empty();
        let left: BTreeSet<String> =
            scene.pods.iter().filter(has_ours).map(|it| it.uid.clone()).collect();
        prop_assert_eq!(left, stay);
        // Nothing of pods without our volumes was touched, nor of those that nobody would make again.
        for pod in before.pods.iter().filter(|it| is_untouchable(it) || our_volumes(it).is_empty()) {
            prop_assert!(scene.pods.contains(pod), "{:?} is gone", pod);
            for volume in our_volumes(pod) {
                let attached = |it: &Scene| it.attachments.iter().any(|it| it.volume == *volume);
                prop_assert_eq!(attached(&before), attached(&scene), "{} of {:?}", volume, pod);
            }
        }
    }

    /// Two that are alike in all but the order of their lists are treated alike.
    #[test]
    fn the_order_of_pods_does_not_decide_which_stay(scene in scene()) {
        let mut turned = scene.clone();
        turned.pods.reverse();
        prop_assert_eq!(kept(&scene), kept(&turned));
    }
}

/// What may happen between two rounds.
#[derive(Clone, Debug)]
enum Event {
    Pass(Nanos),
    /// Who hears nobody and is heard by nobody.
    Deaf(BTreeSet<&'static str>),
    Cordon(BTreeSet<&'static str>),
    Quorum(bool),
    /// The monitor that is asked sits at another node.
    Asked(&'static str),
    Kubelet,
    Restarts(bool),
    /// A reading that began a while ago arrives only now.
    Late(Nanos),
}

fn event() -> impl Strategy<Value = Event> {
    let some = || btree_set(select(NODES.to_vec()), 0..3);
    prop_oneof![
        12 => (100..2500_u64).prop_map(|it| Event::Pass(millis(it))),
        1 => (5..70_u64).prop_map(|it| Event::Pass(seconds(it))),
        3 => some().prop_map(Event::Deaf),
        4 => Just(Event::Deaf(["a1"].into())),
        1 => some().prop_map(Event::Cordon),
        1 => any::<bool>().prop_map(Event::Quorum),
        1 => select(vec!["b1", "b2"]).prop_map(Event::Asked),
        1 => Just(Event::Kubelet),
        1 => any::<bool>().prop_map(Event::Restarts),
        1 => (0..8_u64).prop_map(|it| Event::Late(seconds(it))),
    ]
}

/// The monitor in a world in which only node a1 has pods.
struct World {
    monitor: Monitor,
    now: Nanos,
    scene: Scene,
    deaf: BTreeSet<&'static str>,
    cordoned: BTreeSet<&'static str>,
    quorum: bool,
    asked: &'static str,
    /// When a1 was heard last, as far as anybody has told.
    heard: Nanos,
    /// When something was done last.
    done: Nanos,
    late: Nanos,
    acted: usize,
}

impl World {
    fn new(scene: Scene) -> Self {
        Self {
            monitor: Monitor::new(GRACES),
            now: seconds(100),
            scene,
            deaf: BTreeSet::new(),
            cordoned: BTreeSet::new(),
            quorum: true,
            asked: "b1",
            heard: seconds(100),
            done: 0,
            late: 0,
            acted: 0,
        }
    }

    fn round(&mut self) {
        let life = life(self.asked, &self.deaf, &self.cordoned, self.quorum);
        if !self.deaf.contains("a1") {
            self.heard = self.now;
        }
        let silent = life.is_silent("a1");
        let mut outputs = Vec::new();
        let input = Input::Life {
            asked: self.now,
            life,
        };
        self.monitor.step(self.now, input, &mut outputs);
        let mut looks = false;
        for output in outputs {
            match output {
                Output::Look { node } => looks |= node == "a1",
                Output::Act { node, actions } => {
                    if node == "a1" {
                        assert!(silent, "a1 is heard, or nobody can tell");
                        self.done(&actions);
                    }
                    let done = Input::Done { node };
                    self.monitor.step(self.now, done, &mut Vec::new());
                }
                Output::Untaint { .. } => panic!("nothing was said of taints"),
                Output::Silent { .. } | Output::Back { .. } => {}
            }
        }
        if looks {
            let asked = self.now.saturating_sub(std::mem::take(&mut self.late));
            let scene = self.scene.clone();
            self.monitor
                .step(self.now, Input::Scene { asked, scene }, &mut Vec::new());
        }
    }

    fn done(&mut self, actions: &[Action]) {
        assert!(self.now >= self.heard + GRACES.dead, "within the grace");
        assert!(!self.cordoned.contains("a1"), "it is in maintenance");
        check(&self.scene, actions);
        for action in actions {
            apply(&mut self.scene, action);
        }
        self.done = self.now;
        self.acted += 1;
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Pass(time) => self.now += time,
            Event::Deaf(nodes) => self.deaf = nodes,
            Event::Cordon(nodes) => self.cordoned = nodes,
            Event::Quorum(quorum) => self.quorum = quorum,
            Event::Asked(node) => self.asked = node,
            Event::Kubelet => {
                let machine = self.scene.machine.as_mut().expect("one");
                machine.kubelet = Some(format!("{}", self.now));
            }
            Event::Restarts(restarts) => {
                let machine = self.scene.machine.as_mut().expect("one");
                machine.daemon_restarts = restarts;
            }
            Event::Late(time) => self.late = time,
        }
        self.round();
    }
}

proptest! {
    #[test]
    fn nothing_is_done_without_evidence(scene in scene(), events in vec(event(), 0..60)) {
        let mut world = World::new(scene);
        world.round();
        for event in events {
            // Without a machine that changes under it, a late reading would show what is gone: names protect then,
            // which this world has not.
            world.happens(event);
        }
    }

    /// A node that stays silent is emptied in time, and no later than its grace and a second for each batch.
    #[test]
    fn what_stays_silent_is_dealt_with(scene in scene()) {
        let mut world = World::new(scene);
        world.round();
        world.deaf = ["a1"].into();
        let todo = !plan(&world.scene).is_empty();
        for _ in 0..40 {
            world.happens(Event::Pass(millis(300)));
        }
        prop_assert_eq!(todo, world.acted > 0);
        prop_assert!(plan(&world.scene).is_empty());
    }
}
