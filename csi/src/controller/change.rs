//! ControllerExpandVolume and ControllerModifyVolume.

use lockstep_api::proto as admin;
use lockstep_placement::Grammar;
use tonic::Status;

use super::ControllerService;
use super::create::{range, signed};
use crate::{capability, names, parameters, proto};

impl ControllerService {
    pub(super) async fn controller_expand_volume(
        &self,
        request: proto::ControllerExpandVolumeRequest,
    ) -> Result<proto::ControllerExpandVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let wished = request
            .capacity_range
            .ok_or_else(|| Status::invalid_argument("the capacity range is missing"))?;
        let capabilities = match &request.volume_capability {
            Some(given) => vec![capability::read(Some(given))?],
            None => Vec::new(),
        };
        let wished = range(Some(&wished), &capabilities)?;
        let id = names::known_id(&request.volume_id)?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        let grown = if volume.bytes >= wished.bytes {
            volume
        } else {
            let resize = |client: lockstep_api::Client| {
                let request = admin::ResizeVolumeRequest {
                    volume: volume.id.clone(),
                    bytes: wished.bytes,
                };
                async move { client.volumes().resize(request).await }
            };
            self.daemon.ask(resize).await?
        };
        Ok(proto::ControllerExpandVolumeResponse {
            capacity_bytes: signed(grown.bytes),
            // Of a block device too: it is waited for until it shows its new size.
            node_expansion_required: true,
        })
    }

    pub(super) async fn controller_modify_volume(
        &self,
        request: proto::ControllerModifyVolumeRequest,
    ) -> Result<proto::ControllerModifyVolumeResponse, Status> {
        let id = names::known_id(&request.volume_id)?;
        let change = parameters::change(&request.mutable_parameters)?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        refuse_weaker(&volume, &change)?;
        if change != admin::Policy::default() {
            let set = |client: lockstep_api::Client| {
                let request = admin::SetPolicyRequest {
                    volume: volume.id.clone(),
                    policy: Some(change.clone()),
                };
                async move { client.volumes().set_policy(request).await }
            };
            self.daemon.ask(set).await?;
        }
        Ok(proto::ControllerModifyVolumeResponse {})
    }
}

/// Any owner of a claim may switch its class, so that what was promised is not lowered this way.
fn refuse_weaker(volume: &admin::Volume, change: &admin::Policy) -> Result<(), Status> {
    let has = volume.policy.clone().unwrap_or_default();
    let weaker = |what: &str, from: &str, to: &str| {
        Err(Status::invalid_argument(format!(
            "parameter {what}: '{to}' promises less than '{from}', which the volume has; 'lockstep volume policy' lowers it"
        )))
    };
    let (old, new) = (copies(has.copies()), change.copies.as_deref().map(copies));
    if let (Some(old), Some(Some(new))) = (old, new)
        && new < old
    {
        return weaker("replicas", has.copies(), change.copies());
    }
    if change.rpo() == admin::Rpo::WitnessedDegrade && has.rpo() == admin::Rpo::Strict {
        return weaker("rpo", "strict", "witnessed-degrade");
    }
    Ok(())
}

/// How many copies are asked for; none where that depends on how many sites there are.
fn copies(grammar: &str) -> Option<u64> {
    match grammar.parse().ok()? {
        Grammar::Count(count) => Some(u64::from(count)),
        Grammar::Sites(wanted) => Some(wanted.values().map(|count| u64::from(*count)).sum()),
        Grammar::EachSite(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_where_they_can_be() {
        assert_eq!(copies("3"), Some(3));
        assert_eq!(copies("a=2,b=1"), Some(3));
        assert_eq!(copies("*=1"), None);
    }

    #[test]
    fn less_is_refused_and_more_is_not() {
        let volume = admin::Volume {
            policy: Some(admin::Policy {
                copies: Some("a=1,b=1".into()),
                rpo: admin::Rpo::Strict.into(),
                ..admin::Policy::default()
            }),
            ..admin::Volume::default()
        };
        let copies = |copies: &str| admin::Policy {
            copies: Some(copies.into()),
            ..admin::Policy::default()
        };
        assert!(refuse_weaker(&volume, &copies("a=2,b=1")).is_ok());
        assert!(refuse_weaker(&volume, &copies("*=1")).is_ok());
        assert!(refuse_weaker(&volume, &copies("1")).is_err());
        let rpo = admin::Policy {
            rpo: admin::Rpo::WitnessedDegrade.into(),
            ..admin::Policy::default()
        };
        assert!(refuse_weaker(&volume, &rpo).is_err());
    }
}
