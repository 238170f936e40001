//! What is added to pods, as the API server asks and is answered.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use lockstep_scheduler_extender::RESOURCE;
use lockstep_scheduler_extender::webhook::{Origin, answer, origins, patch};
use serde_json::{Value, json};

const REVIEW: &str = include_str!("golden/review.json");
const PATCH: &str = include_str!("golden/patch.json");

fn request(review: &str) -> AdmissionRequest<Pod> {
    let review: AdmissionReview<Pod> = serde_json::from_str(review).expect("a review");
    review.try_into().expect("a request")
}

fn answered(request: &AdmissionRequest<Pod>, ours: bool) -> (Value, bool) {
    let (review, changed) = answer(request, ours).expect("an answer");
    (serde_json::to_value(&review).expect("JSON"), changed)
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
}

/// The pod after its patch, if it gets one.
fn patched(spec: Value) -> Option<Value> {
    let pod = pod(spec);
    let mut value = serde_json::to_value(&pod).expect("JSON");
    json_patch::patch(&mut value, &patch(&pod)?).expect("the patch fits the pod");
    Some(value)
}

#[test]
fn a_pod_with_a_claim_of_ours_gets_the_resource() {
    let (answer, changed) = answered(&request(REVIEW), true);
    assert!(changed);
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    // Go reads a list of numbers into bytes as it reads base64.
    let bytes: Vec<u8> = serde_json::from_value(response["patch"].clone()).expect("bytes");
    let patch: Value = serde_json::from_slice(&bytes).expect("a patch");
    assert_eq!(
        patch,
        serde_json::from_str::<Value>(PATCH).expect("the golden patch")
    );
    let mut pod = serde_json::from_str::<Value>(REVIEW).expect("JSON")["request"]["object"].take();
    let patch: Patch = serde_json::from_value(patch).expect("a patch");
    json_patch::patch(&mut pod, &patch).expect("the patch fits what the API server has");
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"], json!({RESOURCE: "1"}));
    assert_eq!(
        resources["requests"],
        json!({RESOURCE: "1", "cpu": "500m", "memory": "1Gi"})
    );
}

#[test]
fn other_pods_and_other_operations_are_left_as_they_are() {
    let mut review: Value = serde_json::from_str(REVIEW).expect("JSON");
    let (answer, changed) = answered(&request(REVIEW), false);
    assert!(!changed && answer["response"]["allowed"] == true);
    assert!(answer["response"].get("patch").is_none());
    review["request"]["operation"] = "UPDATE".into();
    let (answer, changed) = answered(&request(&review.to_string()), true);
    assert!(!changed && answer["response"]["allowed"] == true);
    review["request"]["operation"] = "DELETE".into();
    review["request"]["object"] = Value::Null;
    assert!(!answered(&request(&review.to_string()), true).1);
}

#[test]
fn whatever_a_container_has_the_resource_is_requested_and_limited_once() {
    for resources in [
        Value::Null,
        json!({}),
        json!({"limits": {"cpu": "1"}}),
        json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}),
    ] {
        let pod = patched(json!({"containers": [
            {"name": "a", "resources": resources}, {"name": "b"}]}));
        let pod = pod.expect("a patch");
        let of = |at: usize| &pod["spec"]["containers"][at]["resources"];
        for map in ["limits", "requests"] {
            assert_eq!(of(0)[map][RESOURCE], "1", "{resources}: {map}");
            assert_eq!(of(1)[map], Value::Null);
        }
    }
}

#[test]
fn a_pod_that_asks_for_it_already_or_has_no_container_gets_nothing() {
    let asks = json!({"limits": {RESOURCE: "1"}});
    for spec in [
        json!({"containers": [{"name": "a"}, {"name": "b", "resources": asks}]}),
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i", "resources": asks}]}),
        json!({"containers": []}),
    ] {
        assert_eq!(patched(spec.clone()), None, "{spec}");
    }
    assert_eq!(patch(&Pod::default()), None);
}

#[test]
fn a_pod_s_volumes_are_made_from_claims_and_templates() {
    let pod = pod(json!({"containers": [], "volumes": [
        {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "fast"}}}},
        {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        {"name": "d", "emptyDir": {}}]}));
    let expected = [
        Origin::Claim("data".into()),
        Origin::Template("fast".into()),
        Origin::Template(String::new()),
    ];
    assert_eq!(origins(&pod), expected);
}
