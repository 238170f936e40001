//! Links to the other data nodes.

use lockstep_control::State;
use lockstep_types::NodeId;

use super::text::{Kind, Text};
use crate::plane::LinkMeasure;

pub(super) fn describe(state: &State, links: &[LinkMeasure], text: &mut Text) {
    let who = |peer: NodeId| {
        let site = state.nodes.get(&peer).map(|node| node.site.clone());
        (state.node_name(peer), site.unwrap_or_default())
    };
    let name = "lockstep_link_up";
    text.family(
        name,
        Kind::Gauge,
        "1 if the replication link to the peer stands",
    );
    for link in links {
        let (peer, site) = who(link.peer);
        let labels = [("peer", peer.as_str()), ("peer_site", site.as_str())];
        text.sample(name, &labels, u8::from(link.up));
    }
    let name = "lockstep_link_round_trip_seconds";
    text.family(
        name,
        Kind::Gauge,
        "The round trip to the peer, as the kernel has smoothed it",
    );
    for link in links {
        let Some(round_trip) = link.round_trip else {
            continue;
        };
        let (peer, site) = who(link.peer);
        let labels = [("peer", peer.as_str()), ("peer_site", site.as_str())];
        text.sample(name, &labels, round_trip.as_secs_f64());
    }
}
