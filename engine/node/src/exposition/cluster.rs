//! The cluster, as the control plane's leader sees it. Only the leader tells it, so that each is told once; whether
//! there is a leader is told by every node.

use std::collections::BTreeMap;

use lockstep_control::{State, Volume, policy};

use super::text::{Kind, Text};
use crate::control::Control;
use crate::control::heartbeat::PrimaryBeat;

pub(super) fn describe(control: &Control, text: &mut Text) {
    let role = *control.role().borrow();
    let state = control.state();
    let me = control.node();
    let site = state.nodes.get(&me).map_or("", |node| node.site.as_str());
    let name = "lockstep_node_info";
    text.family(name, Kind::Gauge, "1; who this node is");
    let labels = [
        ("node", state.node_name(me)),
        ("site", site.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let labels: Vec<_> = labels.iter().map(|(l, v)| (*l, v.as_str())).collect();
    text.sample(name, &labels, 1);
    let name = "lockstep_control_has_leader";
    text.family(
        name,
        Kind::Gauge,
        "1 if this node knows a leader of the control plane",
    );
    text.sample(name, &[], u8::from(role.leader_id != 0));
    let leads = role.leader == Some(me);
    let name = "lockstep_control_leads";
    text.family(name, Kind::Gauge, "1 if this node is the leader");
    text.sample(name, &[], u8::from(leads));
    if leads {
        nodes(control, &state, text);
        volumes(control, &state, text);
    }
}

fn nodes(control: &Control, state: &State, text: &mut Text) {
    let answering = control.answering();
    let name = "lockstep_cluster_node_answers";
    text.family(name, Kind::Gauge, "1 if the leader hears from the node");
    for node in state.nodes.values() {
        let labels = [("node", node.name.as_str()), ("site", node.site.as_str())];
        text.sample(name, &labels, u8::from(answering.contains(&node.id)));
    }
}

/// One sample a volume.
type Measure<'a> = Box<dyn Fn(&Volume, Option<&PrimaryBeat>) -> u64 + 'a>;

fn volumes(control: &Control, state: &State, text: &mut Text) {
    let heartbeats = control.heartbeats();
    let primaries: BTreeMap<&str, &PrimaryBeat> = heartbeats
        .values()
        .flat_map(|beat| &beat.primaries)
        .map(|primary| (primary.volume.as_str(), primary))
        .collect();
    let sites = state.data_sites().len();
    let families: [(&str, &str, Measure<'_>); 6] = [
        (
            "lockstep_volume_copies_wanted",
            "Copies that the volume's policy asks for",
            Box::new(|volume, _| volume.policy.copies.copies(sites)),
        ),
        (
            "lockstep_volume_copies_certified",
            "Copies in the in-sync set",
            Box::new(|volume, _| volume.membership.in_sync.len() as u64),
        ),
        (
            "lockstep_volume_copies_resyncing",
            "Copies that are being made or caught up",
            Box::new(|_, primary| primary.map_or(0, |beat| beat.resyncs.len() as u64)),
        ),
        (
            "lockstep_volume_single_site",
            "1 if all certified copies stand in one site, and two were promised",
            Box::new(|volume, _| policy::exposed_site(volume, &state.nodes).is_some().into()),
        ),
        (
            "lockstep_volume_attached",
            "1 if the volume is attached to a node",
            Box::new(|volume, _| volume.membership.attachment.is_some().into()),
        ),
        (
            "lockstep_volume_open",
            "1 if its primary serves clients",
            Box::new(|_, primary| primary.is_some_and(|beat| beat.open).into()),
        ),
    ];
    for (name, help, measure) in families {
        text.family(name, Kind::Gauge, help);
        for volume in state.volumes.values() {
            let primary = primaries.get(volume.id.to_string().as_str()).copied();
            text.sample(name, &[("volume", &volume.name)], measure(volume, primary));
        }
    }
}
