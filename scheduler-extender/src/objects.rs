//! Objects of Kubernetes, cut down to what verdicts need.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use lockstep_csi::DRIVER;
use lockstep_verdict::claims::{Claim, Class, Key, Persistent, Pod};
use lockstep_verdict::cluster::Machine;
use lockstep_verdict::wanted::{ANNOTATION, Wish};

use crate::quantity;

/// The label by which a node of Kubernetes tells its name in Lockstep; kubelet puts it there.
pub const NODE_LABEL: &str = "topology.lockstep.dev/node";
/// The annotation of the class that claims without one get.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Access modes that keep a volume on one node.
pub const ON_ONE_NODE: [&str; 2] = ["ReadWriteOnce", "ReadWriteOncePod"];

/// A node.
pub fn machine(node: &v1::Node) -> Machine {
    let conditions = node.status.iter().flat_map(|it| it.conditions.iter());
    let ready = conditions
        .flatten()
        .any(|it| it.type_ == "Ready" && it.status == "True");
    Machine {
        name: node.name_any(),
        member: node.labels().get(NODE_LABEL).cloned().unwrap_or_default(),
        ready,
    }
}

/// A pod; one without claims has none to tell of.
pub fn pod(pod: &v1::Pod) -> Pod {
    let spec = pod.spec.as_ref();
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    Pod {
        key: key(pod),
        uid: pod.uid().unwrap_or_default(),
        node: spec.and_then(|it| it.node_name.clone()).unwrap_or_default(),
        ending: ended || pod.metadata.deletion_timestamp.is_some(),
        claims: claims_of(pod),
        locality: pod
            .annotations()
            .get(ANNOTATION)
            .cloned()
            .unwrap_or_default(),
    }
}

/// Names of a pod's claims: those that it names, and those that are made for it, which are called after both.
pub fn claims_of(pod: &v1::Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter()).flatten();
    let claim = |volume: &v1::Volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some(claim.claim_name.clone());
        }
        let ephemeral = volume.ephemeral.as_ref()?;
        ephemeral.volume_claim_template.as_ref()?;
        Some(format!("{}-{}", pod.name_any(), volume.name))
    };
    volumes.filter_map(claim).collect()
}

/// A claim.
pub fn claim(claim: &PersistentVolumeClaim) -> (Key, Claim) {
    let spec = claim.spec.clone().unwrap_or_default();
    let asked = spec.resources.and_then(|it| it.requests);
    let asked = asked.and_then(|it| quantity::bytes(&it.get("storage")?.0));
    let modes = spec.access_modes.unwrap_or_default();
    let bound = Claim {
        class: spec.storage_class_name.unwrap_or_default(),
        volume: spec.volume_name.unwrap_or_default(),
        bytes: asked.unwrap_or(0),
        exclusive: modes.iter().any(|it| ON_ONE_NODE.contains(&it.as_str())),
    };
    (key(claim), bound)
}

/// A PersistentVolume.
pub fn persistent(volume: &PersistentVolume) -> (String, Persistent) {
    let csi = volume.spec.as_ref().and_then(|it| it.csi.as_ref());
    let whose = match csi {
        Some(csi) if csi.driver == DRIVER => {
            Persistent::Ours(lockstep_csi::names::id(&csi.volume_handle))
        }
        _ => Persistent::Foreign,
    };
    (volume.name_any(), whose)
}

/// All classes, and which of them claims without one get: of several that say so, the newest, as in Kubernetes.
pub fn classes(all: &[StorageClass]) -> (Vec<(String, Class)>, String) {
    let says_so = |it: &&StorageClass| {
        it.annotations().get(DEFAULT_CLASS).map(String::as_str) == Some("true")
    };
    let age = |it: &&StorageClass| {
        (
            it.creation_timestamp().map(|time| time.0),
            std::cmp::Reverse(it.name_any()),
        )
    };
    let default = all.iter().filter(says_so).max_by_key(age);
    let named = all.iter().map(|it| (it.name_any(), class(it)));
    (
        named.collect(),
        default.map(ResourceExt::name_any).unwrap_or_default(),
    )
}

fn class(class: &StorageClass) -> Class {
    if class.provisioner != DRIVER {
        return Class::Foreign;
    }
    let parameters = class.parameters.clone().unwrap_or_default();
    let wish = wish(&class.name_any(), parameters);
    if let Err(why) = &wish {
        tracing::warn!(class = %class.name_any(), why, "the class's parameters are not valid");
    }
    Class::Ours(wish.ok().map(Arc::new))
}

/// What a class asks for, read as the CSI driver reads it.
fn wish(class: &str, parameters: BTreeMap<String, String>) -> Result<Wish, String> {
    let parameters: HashMap<String, String> = parameters.into_iter().collect();
    let policy = lockstep_csi::parameters::policy(&parameters, &HashMap::new());
    let policy = policy.and_then(|it| lockstep_api::wish::new_policy(&it));
    let policy = policy.map_err(|status| status.message().to_owned())?;
    Ok(Wish {
        class: class.to_owned(),
        copies: policy.copies,
        fault_domain: policy.fault_domain,
        locality: policy.locality,
    })
}

fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_types::{FaultDomain, Locality, VolumeId};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object of Kubernetes")
    }

    #[test]
    fn a_node_is_ready_when_it_says_so_and_called_as_its_label_says() {
        let node = |status: &str| {
            machine(&object(json!({
                "metadata": {"name": "ip-1", "labels": {NODE_LABEL: "a1"}},
                "status": {"conditions": [
                    {"type": "MemoryPressure", "status": "True"},
                    {"type": "Ready", "status": status}]},
            })))
        };
        assert_eq!(
            (node("True").name, node("True").member),
            ("ip-1".into(), "a1".into())
        );
        assert_eq!([node("True").ready, node("Unknown").ready], [true, false]);
        assert!(!machine(&object(json!({"metadata": {}}))).ready);
    }

    #[test]
    fn a_pod_has_the_claims_that_it_names_and_those_made_for_it() {
        let pod = pod(&object(json!({
            "metadata": {"namespace": "ns", "name": "pg-0", "uid": "u",
                         "annotations": {"lockstep.dev/locality": "require"}},
            "spec": {"containers": [], "nodeName": "n1", "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-pg-0"}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "config", "configMap": {"name": "x"}}]},
            "status": {"phase": "Running"},
        })));
        assert_eq!(pod.claims, ["data-pg-0", "pg-0-scratch"]);
        assert_eq!(
            (pod.node.as_str(), pod.locality.as_str()),
            ("n1", "require")
        );
        assert!(!pod.ending);
    }

    #[test]
    fn a_pod_that_ended_or_was_told_to_uses_nothing() {
        for value in [
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"metadata": {}, "status": {"phase": "Failed"}}),
            json!({"metadata": {}, "status": {"phase": "Succeeded"}}),
        ] {
            assert!(pod(&object(value.clone())).ending, "{value}");
        }
    }

    #[test]
    fn claims_and_what_they_are_bound_to() {
        let (key, bound) = claim(&object(json!({
            "metadata": {"namespace": "ns", "name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": "pv-1",
                     "resources": {"requests": {"storage": "10Gi"}}},
        })));
        assert_eq!(key, ("ns".into(), "data".into()));
        assert_eq!((bound.bytes, bound.exclusive), (10 << 30, true));
        assert_eq!(
            (bound.class.as_str(), bound.volume.as_str()),
            ("fast", "pv-1")
        );
        let (_, empty) = claim(&object(json!({"metadata": {}})));
        assert_eq!(empty, Claim::default());
        let id = VolumeId::from_u128(7);
        let whose = |driver: &str, handle: &str| {
            persistent(&object(json!({
                "metadata": {"name": "pv-1"},
                "spec": {"csi": {"driver": driver, "volumeHandle": handle}},
            })))
            .1
        };
        assert_eq!(whose(DRIVER, &id.to_string()), Persistent::Ours(Some(id)));
        assert_eq!(whose(DRIVER, "pvc-1"), Persistent::Ours(None));
        assert_eq!(whose("other", &id.to_string()), Persistent::Foreign);
    }

    #[test]
    fn classes_are_read_as_the_driver_reads_them() {
        let class = |name: &str, provisioner: &str, default: &str, parameters: Value| {
            object::<StorageClass>(json!({
                "metadata": {"name": name, "annotations": {DEFAULT_CLASS: default},
                             "creationTimestamp": "2026-01-01T00:00:00Z"},
                "provisioner": provisioner, "parameters": parameters,
            }))
        };
        let all = [
            class(
                "fast",
                DRIVER,
                "true",
                json!({"sites": "a=2,b=1", "faultDomain": "rack", "locality": "require"}),
            ),
            class("plain", DRIVER, "false", json!({})),
            class("bad", DRIVER, "true", json!({"copies": "2"})),
            class("other", "ebs.csi.aws.com", "false", json!({"copies": "2"})),
        ];
        let (named, default) = classes(&all);
        assert_eq!(default, "bad", "of two that are as old, the first by name");
        let named: BTreeMap<_, _> = named.into_iter().collect();
        let Class::Ours(Some(fast)) = &named["fast"] else {
            panic!("{named:?}");
        };
        assert_eq!(fast.copies.to_string(), "a=2,b=1");
        assert_eq!(
            (fast.fault_domain, fast.locality),
            (FaultDomain::Rack, Locality::Require)
        );
        let Class::Ours(Some(plain)) = &named["plain"] else {
            panic!("{named:?}");
        };
        assert_eq!(
            (plain.copies.to_string().as_str(), plain.locality),
            ("2", Locality::Prefer)
        );
        assert_eq!(named["bad"], Class::Ours(None));
        assert_eq!(named["other"], Class::Foreign);
    }
}
