//! The scheduler configurations that are shipped say what this extender needs.

use serde_json::Value;

const DEFAULT: &str = include_str!("../../deploy/scheduler/default-scheduler.yaml");
const SECOND: &str = include_str!("../../deploy/scheduler/second-scheduler.yaml");
const WEBHOOK: &str = include_str!("../../deploy/scheduler/webhook.yaml");

fn parsed(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).expect("YAML")
}

#[test]
fn both_schedulers_ask_us_in_the_same_way() {
    for (yaml, scheduler) in [
        (DEFAULT, "default-scheduler"),
        (SECOND, "lockstep-scheduler"),
    ] {
        let config = parsed(yaml);
        assert_eq!(config["apiVersion"], "kubescheduler.config.k8s.io/v1");
        assert_eq!(config["kind"], "KubeSchedulerConfiguration");
        // Above 100 nodes the scheduler would stop searching early.
        assert_eq!(config["percentageOfNodesToScore"], 100, "{scheduler}");
        assert_eq!(config["profiles"][0]["schedulerName"], scheduler);
        let extenders = config["extenders"].as_array().expect("extenders");
        assert_eq!(extenders.len(), 1);
        let extender = &extenders[0];
        let expected = serde_json::json!({
            "urlPrefix": "https://127.0.0.1:7430",
            "filterVerb": "filter",
            "prioritizeVerb": "prioritize",
            "weight": 2,
            "nodeCacheCapable": true,
            "ignorable": true,
            "httpTimeout": "250ms",
            "enableHTTPS": true,
            "tlsConfig": {
                "caFile": "/etc/lockstep/extender/ca.crt",
                "certFile": "/etc/lockstep/extender/client.crt",
                "keyFile": "/etc/lockstep/extender/client.key",
            },
            "managedResources": [
                {"name": lockstep_scheduler_extender::RESOURCE, "ignoredByScheduler": true},
            ],
        });
        assert_eq!(*extender, expected, "{scheduler}");
    }
}

#[test]
fn the_second_scheduler_has_a_lease_of_its_own() {
    let (default, second) = (parsed(DEFAULT), parsed(SECOND));
    let name = |config: &Value| config["leaderElection"]["resourceName"].clone();
    assert_eq!(name(&default), Value::Null, "the scheduler's own default");
    assert_eq!(name(&second), "lockstep-scheduler");
}

#[test]
fn the_webhook_keeps_no_pod_from_being_made() {
    let webhook = &parsed(WEBHOOK)["webhooks"][0];
    assert_eq!(webhook["failurePolicy"], "Ignore");
    assert_eq!(webhook["timeoutSeconds"], 2);
    assert_eq!(webhook["clientConfig"]["service"]["path"], "/mutate");
    let excluded = &webhook["namespaceSelector"]["matchExpressions"][0];
    assert_eq!(excluded["operator"], "NotIn");
    let namespaces = excluded["values"].as_array().expect("namespaces");
    assert!(namespaces.contains(&"kube-system".into()) && namespaces.len() == 2);
    assert_eq!(
        webhook["rules"][0]["operations"],
        serde_json::json!(["CREATE"])
    );
}
