//! Who can be reached.

use crate::io::Output;
use crate::node::Node;
use lockstep_types::{Nanos, NodeId, VolumeId, seconds};

/// Without a link for so long, a peer counts as silent: the lease of whatever primary it has is over,
/// and it has had its turn at the control plane (safety.md: the other side delays by L + 2 s).
const SILENT_AFTER: Nanos = seconds(5);

/// A link to a peer, as the shell told of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Link {
    pub up: bool,
    /// Since when, as far as this node ran (R22).
    pub since: Nanos,
}

impl Node {
    pub(crate) fn on_link_up(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        // Whatever was under way on the link before is lost, be its end told or not, and be it the
        // same start of the peer's process or another.
        if self.links.get(&peer).is_some_and(|link| link.up) {
            self.on_link_down(peer, out);
        }
        let since = self.now;
        self.links.insert(peer, Link { up: true, since });
        self.tell_primaries(peer, true, out);
        self.probe_again(peer, out);
    }

    pub(crate) fn on_link_down(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        let link = self.links.get_mut(&peer);
        if let Some(link) = link.filter(|link| link.up) {
            link.up = false;
            link.since = self.now;
            self.early.retain(|(from, _)| *from != peer);
            self.tell_primaries(peer, false, out);
        }
    }

    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.me || self.links.get(&node).is_some_and(|link| link.up)
    }

    /// Whether nothing has been heard of a node for longer than any lease. One that was not seen since
    /// this process started is given as long as a member that is sealed (R9).
    pub(crate) fn is_silent(&self, node: NodeId) -> bool {
        match self.links.get(&node) {
            _ if node == self.me => false,
            Some(link) => !link.up && self.now >= link.since + SILENT_AFTER,
            None => self.now >= self.started + self.timings.start_grace,
        }
    }

    /// R22: silence counts only while this node itself ran. Called every half second while anything
    /// may be decided by it.
    pub(crate) fn forgive_silence(&mut self) {
        let now = self.now;
        if now > self.silence_seen + 2 * self.timings.beacon {
            self.links
                .values_mut()
                .filter(|link| !link.up)
                .for_each(|link| link.since = now);
        }
        self.silence_seen = now;
    }

    fn tell_primaries(&mut self, peer: NodeId, up: bool, out: &mut Vec<Output>) {
        let running: Vec<VolumeId> = self
            .volumes
            .iter()
            .filter(|(_, v)| v.running.is_some())
            .map(|(id, _)| *id)
            .collect();
        for volume in running {
            self.with_primary(volume, out, |primary, now, _, pushed| {
                primary.on_link(now, peer, up, pushed);
            });
        }
    }
}
