//! A node dies, or only seems to: what the monitor does, in order.

use lockstep_evict::evidence::{Life, Member};
use lockstep_evict::monitor::{Graces, Input, Monitor, Output};
use lockstep_evict::plan::Action;
use lockstep_evict::scene::{Attachment, Machine, Owner, Pod, Published, Scene, Use};
use lockstep_types::{Nanos, millis, seconds};

const GRACES: Graces = Graces {
    dead: seconds(3),
    alive: seconds(60),
};

/// Of a1, b1 and w1, as b1 says it while it leads.
fn life(a1_is_heard: bool) -> Life {
    let both = ["b1", "w1"];
    let all = ["a1", "b1", "w1"];
    let by: &[&str] = if a1_is_heard { &all } else { &both };
    let member = |name: &str| {
        let heard = a1_is_heard || name != "a1";
        let by = if heard { by } else { &[] };
        Member {
            heard_by: by.iter().map(ToString::to_string).collect(),
            monitored: true,
            cordoned: false,
        }
    };
    Life {
        node: "b1".into(),
        leader: "b1".into(),
        quorum: true,
        voters: all.map(String::from).into(),
        voters_outgoing: Vec::new(),
        members: all.map(|it| (it.to_owned(), member(it))).into(),
    }
}

fn writer() -> Scene {
    Scene {
        node: "a1".into(),
        machine: Some(Machine {
            name: "m1".into(),
            in_use: vec!["v".into(), "gone".into()],
            kubelet: Some("7".into()),
            ..Machine::default()
        }),
        attachments: vec![Attachment {
            volume: "v".into(),
            id: "at".into(),
        }],
        published: vec![Published {
            name: "csi-v".into(),
            volume: "v".into(),
        }],
        pods: vec![Pod {
            namespace: "ns".into(),
            name: "writer-0".into(),
            uid: "u1".into(),
            owner: Owner::Controller,
            opted_in: false,
            uses: vec![Use::Ours("v".into())],
        }],
    }
}

struct Run {
    monitor: Monitor,
    now: Nanos,
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            monitor: Monitor::new(GRACES),
            now: seconds(1),
        };
        assert_eq!(run.hears(life(true)), []);
        run
    }

    fn hears(&mut self, life: Life) -> Vec<Output> {
        let asked = self.now;
        self.told(Input::Life { asked, life })
    }

    fn told(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.monitor.step(self.now, input, &mut outputs);
        outputs
    }

    fn sees(&mut self, scene: &Scene) {
        let (asked, scene) = (self.now, scene.clone());
        assert_eq!(self.told(Input::Scene { asked, scene }), []);
    }

    /// Half a second: what is read, who is heard.
    fn pass(&mut self, scene: &Scene, life: Life) -> Vec<Action> {
        self.sees(scene);
        self.now += millis(500);
        let outputs = self.hears(life);
        let actions = |output| match output {
            Output::Act { actions, .. } => actions,
            _ => Vec::new(),
        };
        let actions: Vec<Action> = outputs.into_iter().flat_map(actions).collect();
        if !actions.is_empty() {
            self.told(Input::Done { node: "a1".into() });
        }
        actions
    }

    fn begin_silence(&mut self) {
        self.now += seconds(1);
        let (silent, look) = ("a1".to_owned(), "a1".to_owned());
        let wanted = [Output::Silent { node: silent }, Output::Look { node: look }];
        assert_eq!(self.hears(life(false)), wanted);
    }

    /// How long it takes until something is done.
    fn waits(&mut self, scene: &Scene) -> Nanos {
        let began = self.now;
        while self.pass(scene, life(false)).is_empty() {
            assert!(self.now < began + seconds(200), "nothing is done");
        }
        self.now - began
    }
}

#[test]
fn fenced_then_deleted_then_forgotten() {
    let (mut run, mut scene) = (Run::new(), writer());
    run.begin_silence();
    for _ in 0..5 {
        assert_eq!(run.pass(&scene, life(false)), [], "within the grace");
    }
    let fence = Action::Fence {
        volume: "v".into(),
        attachment: "at".into(),
    };
    assert_eq!(run.pass(&scene, life(false)), [fence]);
    scene.attachments.clear();
    let taint = Action::Taint {
        machine: "m1".into(),
    };
    let delete = Action::Delete {
        namespace: "ns".into(),
        name: "writer-0".into(),
        uid: "u1".into(),
    };
    // What was read before the fencing is not acted upon: it is looked again.
    run.now += millis(500);
    let again = run.hears(life(false));
    assert_eq!(again, [Output::Look { node: "a1".into() }]);
    assert_eq!(run.pass(&scene, life(false)), [taint, delete]);
    scene.pods.clear();
    let machine = scene.machine.as_mut().expect("one");
    machine.tainted = true;
    let forget = Action::Forget {
        machine: "m1".into(),
        volumes: vec!["v".into()],
    };
    assert_eq!(run.pass(&scene, life(false)), [forget]);
    let machine = scene.machine.as_mut().expect("one");
    machine.in_use = vec!["gone".into()];
    assert_eq!(run.pass(&scene, life(false)), [], "Kubernetes detaches");
    // It does not, for half a minute.
    assert_eq!(run.waits(&scene), seconds(30) - millis(500));
}

#[test]
fn a_node_back_within_the_grace_is_left_alone() {
    let (mut run, scene) = (Run::new(), writer());
    run.begin_silence();
    for _ in 0..5 {
        assert_eq!(run.pass(&scene, life(false)), []);
    }
    assert_eq!(run.pass(&scene, life(true)), []);
    assert!(run.monitor.is_calm());
    // The next silence is another.
    run.begin_silence();
    assert_eq!(run.waits(&scene), seconds(3));
}

#[test]
fn a_node_that_comes_back_between_two_batches_keeps_what_it_has_left() {
    let (mut run, mut scene) = (Run::new(), writer());
    run.begin_silence();
    run.waits(&scene);
    scene.attachments.clear();
    assert_eq!(run.pass(&scene, life(true)), []);
    assert_eq!(run.pass(&scene, life(true)), []);
}

#[test]
fn a_machine_that_lives_is_given_longer() {
    let (mut run, mut scene) = (Run::new(), writer());
    run.begin_silence();
    assert_eq!(run.pass(&scene, life(false)), []);
    scene.machine.as_mut().expect("one").kubelet = Some("8".into());
    assert_eq!(run.waits(&scene), seconds(60) - millis(500));

    let (mut run, mut scene) = (Run::new(), writer());
    run.begin_silence();
    scene.machine.as_mut().expect("one").daemon_restarts = true;
    assert_eq!(run.waits(&scene), seconds(60));
}

#[test]
fn maintenance_is_left_alone() {
    let (mut run, mut scene) = (Run::new(), writer());
    run.begin_silence();
    scene.machine.as_mut().expect("one").unschedulable = true;
    for _ in 0..200 {
        assert_eq!(run.pass(&scene, life(false)), []);
    }
    let mut cordoned = life(false);
    cordoned.members.get_mut("a1").expect("a member").cordoned = true;
    scene.machine.as_mut().expect("one").unschedulable = false;
    assert_eq!(run.pass(&scene, cordoned), []);
    assert_ne!(run.pass(&scene, life(false)), []);
}

#[test]
fn a_monitor_that_did_not_run_has_seen_no_silence() {
    let (mut run, scene) = (Run::new(), writer());
    run.begin_silence();
    run.now += seconds(30);
    assert_eq!(run.waits(&scene), seconds(3) + millis(500));
}

#[test]
fn one_that_does_not_act_knows_when_it_has_to() {
    let (mut run, scene) = (Run::new(), writer());
    let mut other = life(false);
    other.leader = "w1".into();
    run.begin_silence();
    for _ in 0..20 {
        assert_eq!(run.pass(&scene, other.clone()), []);
    }
    assert_ne!(run.pass(&scene, life(false)), []);
}

#[test]
fn taints_go_when_their_node_is_heard() {
    let mut run = Run::new();
    let machines = || Input::Tainted {
        machines: vec![("m1".into(), "a1".into()), ("m9".into(), "removed".into())],
    };
    let lifted = |machine: &str| Output::Untaint {
        machine: machine.into(),
    };
    assert_eq!(run.told(machines()), [lifted("m1"), lifted("m9")]);
    run.begin_silence();
    assert_eq!(run.told(machines()), [lifted("m9")]);
    run.now += seconds(6);
    assert_eq!(run.told(machines()), [], "that is long ago");
}

#[test]
fn a_node_that_has_been_dead_for_long_is_looked_at_rarely() {
    let (mut run, mut scene) = (Run::new(), writer());
    (scene.attachments, scene.published, scene.pods) = (Vec::new(), Vec::new(), Vec::new());
    run.begin_silence();
    let mut looks = 0;
    for _ in 0..100 {
        run.now += millis(100);
        let outputs = run.hears(life(false));
        if outputs.contains(&Output::Look { node: "a1".into() }) {
            looks += 1;
            run.sees(&scene);
        }
    }
    // Twice a second within its grace, then every five seconds.
    assert!((6..=10).contains(&looks), "{looks} looks in 10 s");
    assert!(!run.monitor.is_busy(run.now) && !run.monitor.is_calm());
}
