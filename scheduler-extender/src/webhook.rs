//! The mutating admission webhook: pods with claims of ours get `lockstep.dev/volume: 1`, by which schedulers
//! know whom to ask about. A pod whose claims are all somebody else's, or not known yet, is left as it is: it is
//! then placed by topology alone.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use serde_json::{Value, json};

use crate::RESOURCE;

/// What a volume of a pod is made from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// A claim of this name.
    Claim(String),
    /// A claim that is made together with the pod, of this class; empty for the default one.
    Template(String),
}

/// What a pod's volumes are made from.
pub fn origins(pod: &Pod) -> Vec<Origin> {
    let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter()).flatten();
    let origin = |volume: &k8s_openapi::api::core::v1::Volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some(Origin::Claim(claim.claim_name.clone()));
        }
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let class = template.spec.storage_class_name.clone();
        Some(Origin::Template(class.unwrap_or_default()))
    };
    volumes.filter_map(origin).collect()
}

/// What is to be changed about a pod with volumes of ours; none if a container asks for the resource already,
/// or there is no container.
pub fn patch(pod: &Pod) -> Option<Patch> {
    let spec = pod.spec.as_ref()?;
    let initial = spec.init_containers.iter().flatten();
    let mut all = initial.chain(&spec.containers);
    let first = spec.containers.first()?;
    if all.any(asks) {
        return None;
    }
    let resources = first.resources.clone().unwrap_or_default();
    let operations = if first.resources.is_none() {
        let both = json!({"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}});
        vec![add(&["resources"], both)]
    } else {
        // An extended resource's request and limit are the same.
        vec![
            one("limits", resources.limits.as_ref()),
            one("requests", resources.requests.as_ref()),
        ]
    };
    Some(Patch(operations))
}

/// The answer to a request: the pod may be stored; if it is ours, with what it lacks.
///
/// # Errors
/// A patch cannot be written, which a patch always can.
pub fn answer(
    request: &AdmissionRequest<Pod>,
    ours: bool,
) -> Result<(AdmissionReview<kube::core::DynamicObject>, bool), serde_json::Error> {
    let response = AdmissionResponse::from(request);
    let pod = request.object.as_ref();
    let change = pod.filter(|_| ours && concerns(request)).and_then(patch);
    let Some(change) = change else {
        return Ok((response.into_review(), false));
    };
    let changed = response.with_patch(change);
    let changed = changed.map_err(|error| serde::ser::Error::custom(error.to_string()))?;
    Ok((changed.into_review(), true))
}

/// A pod that is made; its resources cannot be changed later.
pub fn concerns(request: &AdmissionRequest<Pod>) -> bool {
    request.operation == Operation::Create && request.sub_resource.is_none()
}

fn asks(container: &Container) -> bool {
    let resources = container.resources.as_ref();
    let has =
        |map: Option<&BTreeMap<String, Quantity>>| map.is_some_and(|it| it.contains_key(RESOURCE));
    resources.is_some_and(|it| has(it.requests.as_ref()) || has(it.limits.as_ref()))
}

/// Adds the resource to one of the first container's maps.
fn one(map: &str, present: Option<&BTreeMap<String, Quantity>>) -> PatchOperation {
    match present {
        None => add(&["resources", map], json!({RESOURCE: "1"})),
        Some(_) => add(&["resources", map, RESOURCE], json!("1")),
    }
}

fn add(below: &[&str], value: Value) -> PatchOperation {
    let path = ["spec", "containers", "0"]
        .into_iter()
        .chain(below.iter().copied());
    PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path),
        value,
    })
}
