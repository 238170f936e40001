//! Hearing from Lockstep: its nodes, pools and volumes, asked once a second in the background. Nothing is asked
//! while a pod is being placed.

use std::time::Duration;

use lockstep_api::{Client, Target, proto};
use lockstep_csi::daemon::Daemon;
use lockstep_placement::Space;
use lockstep_types::{DeviceId, EXTENT, Locality, Nanos, NodeId, NodeRole, VolumeId};
use lockstep_verdict::storage::{Copy, Heard, Member, Storage, Volume, WHOLE};
use tonic::Status;

use crate::measure;
use crate::state::State;

/// How often it is asked, if nobody wants it sooner.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two times, however many want it.
const LEAST: Duration = Duration::from_millis(200);
/// How long all answers of one time may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Volumes in one answer.
const PAGE: u32 = 1000;

/// Hears, for as long as it is polled, from the first of these that answers; one that does not, or has no
/// majority behind it, is passed over for the next.
///
/// # Panics
/// Without any.
pub async fn hear(targets: Vec<Target>, state: State) {
    // One by one, so that a daemon that says nothing, without an error, is passed over too.
    let daemons: Vec<Daemon> = targets
        .into_iter()
        .map(|target| Daemon::new(vec![target]))
        .collect();
    assert!(!daemons.is_empty(), "somebody must be asked");
    let (mut current, mut failures) = (0, 0);
    loop {
        let begun = state.now();
        let heard = tokio::time::timeout(PATIENCE, ask(&daemons[current], begun)).await;
        match heard.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in 5 s"))) {
            Ok(heard) => {
                if failures >= daemons.len() {
                    tracing::info!("Lockstep answers again");
                }
                failures = 0;
                // Milliseconds where there are many volumes: not on a thread that answers.
                let arranged = tokio::task::spawn_blocking(|| Storage::new(heard)).await;
                state.set_storage(arranged.expect("arranging does not panic, and is not aborted"));
            }
            Err(status) => {
                measure::source_failed("lockstep");
                failures += 1;
                current = (current + 1) % daemons.len();
                if failures == daemons.len() {
                    let why = status.message();
                    tracing::warn!(
                        why,
                        "no daemon of Lockstep answers; what was heard counts less and less"
                    );
                }
            }
        }
        tokio::time::sleep(LEAST).await;
        // Another daemon is asked at once.
        if failures == 0 || failures >= daemons.len() {
            let rest = PERIOD.saturating_sub(LEAST);
            let _ = tokio::time::timeout(rest, state.asked_soon()).await;
        }
    }
}

/// Everything, as of `begun`: what changes while it is asked for is heard next time.
///
/// # Errors
/// No daemon answers, or the one that does has no majority behind it: what it says may be long past.
async fn ask(daemon: &Daemon, begun: Nanos) -> Result<Heard, Status> {
    let status = daemon.ask(|client: Client| async move {
        client.cluster().status(proto::StatusRequest {}).await
    });
    if !status.await?.quorum {
        return Err(Status::unavailable(
            "the daemon asked has no majority of the control plane behind it",
        ));
    }
    let nodes = daemon.nodes().await?;
    let pools = daemon.ask(|client: Client| async move {
        let all = proto::ListPoolsRequest::default();
        client.pools().list(all).await
    });
    let members = members(nodes, pools.await?.pools);
    Ok(Heard {
        at: Some(begun),
        members,
        volumes: all_volumes(daemon).await?,
        // The interface does not tell round trips between sites.
        links: Vec::new(),
    })
}

async fn all_volumes(daemon: &Daemon) -> Result<Vec<Volume>, Status> {
    let (mut volumes, mut page) = (Vec::new(), String::new());
    loop {
        let from = page.clone();
        let reply = daemon.ask(|client: Client| {
            let request = proto::ListVolumesRequest {
                page: from.clone(),
                limit: PAGE,
            };
            async move { client.volumes().list(request).await }
        });
        let reply = reply.await?;
        volumes.extend(reply.volumes.into_iter().filter_map(volume));
        if reply.next_page.is_empty() {
            return Ok(volumes);
        }
        page = reply.next_page;
    }
}

/// Nodes with their pools. One without an id is passed over: nothing can be placed on it.
fn members(nodes: Vec<proto::Node>, pools: Vec<proto::Pool>) -> Vec<Member> {
    let mut members: Vec<Member> = nodes.into_iter().filter_map(member).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    for pool in pools {
        let at = members.binary_search_by(|it| it.name.cmp(&pool.node));
        if let (Ok(at), Some(space)) = (at, space(&pool)) {
            members[at].pools.push(space);
        }
    }
    members
}

fn member(node: proto::Node) -> Option<Member> {
    let id: NodeId = node.id.parse().ok()?;
    let role = match node.role() {
        proto::Role::Data => NodeRole::Data,
        proto::Role::Witness | proto::Role::Unspecified => NodeRole::Witness,
    };
    Some(Member {
        id,
        role,
        name: node.name,
        site: node.site,
        zone: node.zone,
        rack: node.rack,
        answering: node.answering,
        cordoned: node.cordoned,
        attachments: node.attachments,
        pools: Vec::new(),
    })
}

fn space(pool: &proto::Pool) -> Option<Space> {
    let device: DeviceId = pool.id.parse().ok()?;
    // A daemon of the last release does not say what may be promised: then it is what neither holds data nor
    // is promised, as without over-provisioning.
    let unpromised = pool.bytes.saturating_sub(pool.bytes_promised);
    let room = pool
        .bytes_room
        .unwrap_or_else(|| unpromised.min(pool.bytes_free));
    Some(Space {
        device,
        name: pool.name.clone(),
        free_extents: room / EXTENT as u64,
        has_place: pool.failed.is_empty() && (pool.places == 0 || pool.replicas < pool.places),
    })
}

fn volume(volume: proto::Volume) -> Option<Volume> {
    let id: VolumeId = volume.id.parse().ok()?;
    let policy = volume.policy.unwrap_or_default();
    let locality = match policy.locality() {
        proto::Locality::Require => Locality::Require,
        proto::Locality::None => Locality::None,
        proto::Locality::Prefer | proto::Locality::Unspecified => Locality::Prefer,
    };
    Some(Volume {
        id,
        locality,
        bytes: volume.bytes,
        strict: policy.rpo() == proto::Rpo::Strict,
        wanted: policy.copies.as_ref().and_then(|it| it.parse().ok()),
        preferred_site: policy.preferred_site.unwrap_or_default(),
        primary: volume.primary,
        attached: volume.attachment.map(|it| it.node).unwrap_or_default(),
        copies: volume.replicas.into_iter().map(copy).collect(),
    })
}

fn copy(replica: proto::Replica) -> Copy {
    Copy {
        verified: replica.resync.map_or(0, verified),
        node: replica.node,
        certified: replica.certified,
        able: replica.able,
        leaving: replica.leaving,
        sealed_off: replica.sealed_off,
    }
}

/// Thousandths of a resync that are done. Each extent that is done was compared.
fn verified(resync: proto::Resync) -> u16 {
    let whole = u128::from(resync.extents.max(1));
    let done = u128::from(resync.extents_done) * u128::from(WHOLE) / whole;
    u16::try_from(done).unwrap_or(WHOLE).min(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resync_counts_by_what_is_done_and_a_list_of_nothing_is_not_done() {
        let of = |extents_done, extents| {
            verified(proto::Resync {
                extents_done,
                extents,
                bytes_copied: 0,
            })
        };
        assert_eq!(
            [of(0, 0), of(1, 4), of(4, 4), of(9, 4)],
            [0, 250, 1000, 1000]
        );
        assert_eq!(of(u64::MAX, u64::MAX), 1000);
    }

    #[test]
    fn nodes_have_their_pools() {
        let node = |id: u128, name: &str| proto::Node {
            id: NodeId::from_u128(id).to_string(),
            name: name.into(),
            role: proto::Role::Data.into(),
            answering: true,
            ..proto::Node::default()
        };
        let pool = |id: u128, node: &str| proto::Pool {
            id: DeviceId::from_u128(id).to_string(),
            node: node.into(),
            bytes: 100 << 30,
            bytes_promised: 90 << 30,
            bytes_free: 50 << 30,
            places: 2,
            replicas: 1,
            ..proto::Pool::default()
        };
        let mut promised = pool(2, "a");
        promised.bytes_room = Some(30 << 30);
        let mut full = pool(3, "b");
        full.replicas = 2;
        let pools = vec![pool(1, "a"), promised, full, pool(4, "nowhere")];
        let mut strange = node(3, "c");
        strange.id = "x".into();
        let members = members(vec![node(2, "b"), node(1, "a"), strange], pools);
        let names: Vec<_> = members.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let room: Vec<_> = members[0].pools.iter().map(|it| it.free_extents).collect();
        let gib = 1 << 12; // extents
        assert_eq!(room, [10 * gib, 30 * gib]);
        assert!(members[0].pools[0].has_place && !members[1].pools[0].has_place);
    }

    #[test]
    fn a_volume_is_taken_as_it_is_told() {
        let id = VolumeId::from_u128(5);
        let told = proto::Volume {
            id: id.to_string(),
            bytes: 7,
            policy: Some(proto::Policy {
                copies: Some("a=2,b=1".into()),
                rpo: proto::Rpo::Strict.into(),
                locality: proto::Locality::Require.into(),
                ..proto::Policy::default()
            }),
            attachment: Some(proto::Attachment {
                node: "a1".into(),
                ..proto::Attachment::default()
            }),
            replicas: vec![proto::Replica {
                node: "a1".into(),
                certified: true,
                able: true,
                ..proto::Replica::default()
            }],
            ..proto::Volume::default()
        };
        let volume = volume(told).expect("a volume");
        assert_eq!((volume.id, volume.bytes, volume.strict), (id, 7, true));
        assert_eq!(volume.locality, Locality::Require);
        assert_eq!(volume.attached, "a1");
        assert!(volume.wanted.is_some());
        assert!(volume.copies[0].certified && volume.copies[0].able);
        let nameless = proto::Volume::default();
        assert!(super::volume(nameless).is_none());
    }
}
