//! CreateVolume, DeleteVolume, GetCapacity.

use lockstep_api::proto as admin;
use lockstep_api::wish::new_policy;
use lockstep_types::{BLOCK, EXTENT, MAX_VOLUME_BLOCKS};
use tonic::{Code, Status};

use super::ControllerService;
use crate::capability::{self, Capability};
use crate::{names, parameters, proto, topology};

/// Bytes of a volume when nothing is asked for.
const DEFAULT: u64 = 1 << 30;
/// Bytes of the smallest volume.
const LEAST: u64 = EXTENT as u64;
/// Bytes of the largest.
const MOST: u64 = MAX_VOLUME_BLOCKS * BLOCK as u64;
/// Seconds until a volume that is not ready yet is promised all the same: its copies are being made.
const READY: u32 = 20;
/// Seconds until a deletion is told to be done: what is left of it goes on by itself.
const GONE: u32 = 10;

impl ControllerService {
    pub(super) async fn create_volume(
        &self,
        request: proto::CreateVolumeRequest,
    ) -> Result<proto::CreateVolumeResponse, Status> {
        let name = names::label(&request.name)?;
        let capabilities = capability::read_all(&request.volume_capabilities)?;
        let policy = parameters::policy(&request.parameters, &request.mutable_parameters)?;
        let range = range(request.capacity_range.as_ref(), &capabilities)?;
        if request.volume_content_source.is_some() {
            return Err(Status::invalid_argument(
                "volumes made from a snapshot or another volume are not served yet",
            ));
        }
        let _turn = self.serialize.begin(&name)?;
        let nodes = self.daemon.nodes().await?;
        let volume = match self.existing(&name).await? {
            Some(volume) => volume,
            None => {
                let requirement = request.accessibility_requirements.as_ref();
                let local = topology::local_node(requirement, &nodes)?.unwrap_or_default();
                self.make(&name, range.bytes, policy.clone(), local).await?
            }
        };
        if !range.holds(volume.bytes) || !is_wished(&volume, &policy) {
            let words = format!(
                "volume '{}' exists with {} bytes and copies {}, which is not what is asked for",
                request.name,
                volume.bytes,
                volume.policy.unwrap_or_default().copies()
            );
            return Err(Status::already_exists(words));
        }
        let shown = shown(&volume, &nodes);
        Ok(proto::CreateVolumeResponse {
            volume: Some(proto::Volume {
                volume_context: parameters::context(&request.parameters),
                ..shown
            }),
        })
    }

    /// The volume of that name, if it is not on its way out.
    async fn existing(&self, name: &str) -> Result<Option<admin::Volume>, Status> {
        let show = |client: lockstep_api::Client| {
            let volume = name.to_owned();
            async move {
                client
                    .volumes()
                    .show(admin::ShowVolumeRequest { volume })
                    .await
            }
        };
        match self.daemon.ask(show).await {
            Ok(volume) if volume.name != name => Ok(None),
            Ok(volume) if volume.status() == admin::VolumeStatus::Deleting => {
                let words = format!("volume '{name}' is being deleted; ask again when it is gone");
                Err(Status::aborted(words))
            }
            Ok(volume) => Ok(Some(volume)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    async fn make(
        &self,
        name: &str,
        bytes: u64,
        policy: admin::Policy,
        local_node: String,
    ) -> Result<admin::Volume, Status> {
        let local_required = policy.locality() == admin::Locality::Require;
        let request = admin::CreateVolumeRequest {
            name: name.to_owned(),
            bytes,
            policy: Some(policy),
            local_node,
            local_required,
            wait_seconds: READY,
        };
        let create = |client: lockstep_api::Client| {
            let request = request.clone();
            async move { client.volumes().create(request).await }
        };
        let made = self.daemon.ask(create).await?;
        made.volume
            .ok_or_else(|| Status::internal("a volume was made and is not shown"))
    }

    pub(super) async fn delete_volume(
        &self,
        request: proto::DeleteVolumeRequest,
    ) -> Result<proto::DeleteVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let gone = proto::DeleteVolumeResponse {};
        let Some(id) = names::id(&request.volume_id) else {
            return Ok(gone); // never ours
        };
        let _turn = self.serialize.begin(&request.volume_id)?;
        match self.daemon.volume(id).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => return Ok(gone),
            Err(status) => return Err(status),
        }
        let delete = |client: lockstep_api::Client| {
            let request = admin::DeleteVolumeRequest {
                volume: id.to_string(),
                wait_seconds: GONE,
            };
            async move { client.volumes().delete(request).await }
        };
        match self.daemon.ask(delete).await {
            Ok(_) => Ok(gone),
            Err(status) if status.code() == Code::NotFound => Ok(gone),
            Err(status) => Err(status),
        }
    }

    pub(super) async fn capacity(
        &self,
        request: proto::GetCapacityRequest,
    ) -> Result<proto::GetCapacityResponse, Status> {
        let policy = parameters::policy(&request.parameters, &Default::default())?;
        let least = match request.volume_capabilities.as_slice() {
            [] => LEAST,
            given => capability::least_bytes(&capability::read_all(given)?).max(LEAST),
        };
        let nodes = self.daemon.nodes().await?;
        let segment = request.accessible_topology;
        let elsewhere = segment
            .as_ref()
            .is_some_and(|it| !topology::exists(it, &nodes));
        let requirement = segment.map(|topology| proto::TopologyRequirement {
            requisite: Vec::new(),
            preferred: vec![topology],
        });
        let bytes = if elsewhere {
            0
        } else {
            let request = admin::CapacityRequest {
                local_node: topology::local_node(requirement.as_ref(), &nodes)?.unwrap_or_default(),
                local_required: policy.locality() == admin::Locality::Require,
                policy: Some(policy),
            };
            let ask = |client: lockstep_api::Client| {
                let request = request.clone();
                async move { client.volumes().capacity(request).await }
            };
            self.daemon.ask(ask).await?.bytes
        };
        Ok(proto::GetCapacityResponse {
            available_capacity: signed(bytes),
            maximum_volume_size: Some(signed(bytes)),
            minimum_volume_size: Some(signed(least)),
        })
    }
}

/// A volume as CSI shows it.
pub(super) fn shown(volume: &admin::Volume, nodes: &[admin::Node]) -> proto::Volume {
    proto::Volume {
        capacity_bytes: signed(volume.bytes),
        volume_id: volume.id.clone(),
        volume_context: Default::default(),
        content_source: None,
        accessible_topology: topology::reachable(nodes),
    }
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether a volume is what would be made now.
fn is_wished(volume: &admin::Volume, wish: &admin::Policy) -> bool {
    let has = volume.policy.clone().unwrap_or_default();
    match (new_policy(&has), new_policy(wish)) {
        (Ok(has), Ok(wish)) => has == wish,
        _ => false,
    }
}

/// Which sizes are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    /// What a new volume gets: whole blocks.
    pub bytes: u64,
    least: u64,
    most: u64,
}

impl Range {
    pub(super) fn holds(&self, bytes: u64) -> bool {
        (self.least..=self.most).contains(&bytes)
    }
}

/// Reads it.
///
/// # Errors
/// OUT_OF_RANGE if no size of ours lies in it.
pub(super) fn range(
    range: Option<&proto::CapacityRange>,
    capabilities: &[Capability],
) -> Result<Range, Status> {
    let out = |words: String| Err(Status::out_of_range(words));
    let given = range.copied().unwrap_or_default();
    let (Ok(required), Ok(limit)) = (
        u64::try_from(given.required_bytes),
        u64::try_from(given.limit_bytes),
    ) else {
        return out("a size below 0".into());
    };
    let most = if limit == 0 { MOST } else { limit.min(MOST) };
    if required > most {
        return out(format!(
            "{required} bytes are required and at most {most} are possible"
        ));
    }
    let floor = LEAST.max(capability::least_bytes(capabilities));
    let wished = if required == 0 {
        DEFAULT.min(most)
    } else {
        required
    };
    let bytes = wished.max(floor).next_multiple_of(BLOCK as u64);
    // Without a requirement the limit may be met from below.
    let bytes = match bytes > most && required == 0 {
        true => most - most % BLOCK as u64,
        false => bytes,
    };
    if bytes > most || bytes < floor {
        return out(format!(
            "the smallest volume for this has {} bytes, and the limit is {most}",
            floor.max(wished).next_multiple_of(BLOCK as u64)
        ));
    }
    Ok(Range {
        bytes,
        least: required,
        most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(required: i64, limit: i64) -> Result<u64, Code> {
        let given = proto::CapacityRange {
            required_bytes: required,
            limit_bytes: limit,
        };
        range(Some(&given), &[])
            .map(|it| it.bytes)
            .map_err(|status| status.code())
    }

    #[test]
    fn sizes_are_rounded_up_and_stay_in_their_range() {
        assert_eq!(range(None, &[]).expect("a default").bytes, DEFAULT);
        assert_eq!(of(1, 0), Ok(LEAST));
        assert_eq!(of(1_000_000_000, 0), Ok(1_000_001_536));
        assert_eq!(of(0, 1_000_000), Ok(999_424));
        assert_eq!(of(1_000_000, 1_000_000), Err(Code::OutOfRange));
        assert_eq!(of(2, 1), Err(Code::OutOfRange));
        assert_eq!(of(-1, 0), Err(Code::OutOfRange));
        assert_eq!(of(i64::MAX, 0), Err(Code::OutOfRange));
    }

    #[test]
    fn a_file_system_needs_room() {
        let xfs = Capability {
            access: capability::Access::Mount {
                filesystem: capability::FileSystem::Xfs,
                options: vec![],
            },
            one_pod: false,
            read_only: false,
        };
        let given = proto::CapacityRange {
            required_bytes: 1 << 20,
            limit_bytes: 0,
        };
        let read = range(Some(&given), std::slice::from_ref(&xfs)).expect("grown");
        assert_eq!(read.bytes, 300 << 20);
        let tight = proto::CapacityRange {
            limit_bytes: 2 << 20,
            ..given
        };
        assert!(range(Some(&tight), &[xfs]).is_err());
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let of = |copies: Option<&str>| admin::Policy {
            copies: copies.map(str::to_owned),
            ..admin::Policy::default()
        };
        let volume = admin::Volume {
            policy: Some(of(Some("2"))),
            ..admin::Volume::default()
        };
        assert!(is_wished(&volume, &of(None)));
        assert!(!is_wished(&volume, &of(Some("3"))));
    }
}
