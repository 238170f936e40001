//! Alerts and dashboard speak of metrics that there are, every alert says what to do, and the queries are good.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tidy::workspace::root;
use tidy::{none_of, sources};

fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn dashboard() -> Value {
    serde_json::from_str(&file("deploy/monitoring/dashboard.json")).expect("JSON")
}

/// Of all panels, with their titles.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            found.push((title.to_owned(), query.to_owned()));
        }
    }
    assert!(!found.is_empty(), "a dashboard without a query");
    found
}

/// The metrics that a text speaks of, without what a histogram adds to its name.
fn spoken_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find("lockstep_") {
        rest = &rest[at..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let name = &rest[..end];
        let base = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        found.insert(base.unwrap_or(name).to_owned());
        rest = &rest[end..];
    }
    found
}

#[test]
fn alerts_and_dashboard_speak_of_metrics_that_there_are() {
    let product: String = sources().iter().map(|s| s.text.as_str()).collect();
    let mut findings = Vec::new();
    for path in [
        "deploy/monitoring/alerts.yaml",
        "deploy/monitoring/alerts.test.yaml",
        "deploy/monitoring/dashboard.json",
        "docs/runbooks.md",
    ] {
        for name in spoken_of(&file(path)) {
            if !product.contains(&format!("\"{name}\"")) {
                findings.push(format!("{path}: {name}"));
            }
        }
    }
    none_of(findings, "No program of ours tells such a metric.");
}

#[test]
fn every_alert_says_what_to_do_and_is_tried() {
    let (rules, tests, book) = (
        file("deploy/monitoring/alerts.yaml"),
        file("deploy/monitoring/alerts.test.yaml"),
        file("docs/runbooks.md"),
    );
    let alerts: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let sections: BTreeSet<&str> = book
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(alerts, sections, "alerts, and sections of docs/runbooks.md");
    let mut findings = Vec::new();
    for alert in alerts {
        let page = format!("runbook_url: docs/runbooks.md#{}\n", alert.to_lowercase());
        if !rules.contains(&page) {
            findings.push(format!("{alert}: its rule does not name its section"));
        }
        if !tests.contains(&page) {
            findings.push(format!("{alert}: no test sets it off"));
        }
    }
    none_of(findings, "An alert that nobody can act on is noise.");
}

#[test]
fn panels_do_not_lie_upon_each_other() {
    let dashboard = dashboard();
    let place = |panel: &Value| {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        (at("x"), at("y"), at("w"), at("h"))
    };
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut findings) = (BTreeSet::new(), Vec::new());
    for (at, panel) in panels.iter().enumerate() {
        let (x, y, w, h) = place(panel);
        let title = &panel["title"];
        if x + w > 24 || w == 0 || h == 0 {
            findings.push(format!("{title} does not fit"));
        }
        if !ids.insert(panel["id"].as_u64().expect("an id")) {
            findings.push(format!("{title} has another's id"));
        }
        for other in &panels[..at] {
            let (x2, y2, w2, h2) = place(other);
            if x < x2 + w2 && x2 < x + w && y < y2 + h2 && y2 < y + h {
                findings.push(format!("{title} lies upon {}", other["title"]));
            }
        }
    }
    none_of(findings, "Grafana would move them about.");
}

/// With Prometheus' own tool: `tests/run` sets where it is.
#[test]
fn promtool_is_content() {
    let Some(promtool) = std::env::var_os("LOCKSTEP_PROMTOOL") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "LOCKSTEP_PROMTOOL does not say where promtool is"
        );
        println!("SKIPPED: LOCKSTEP_PROMTOOL does not say where promtool is");
        return;
    };
    let run = |arguments: &[&str], place: &Path| {
        let done = Command::new(&promtool)
            .args(arguments)
            .current_dir(place)
            .output()
            .expect("promtool runs");
        let said = [done.stdout, done.stderr].concat();
        assert!(
            done.status.success(),
            "promtool {arguments:?}:\n{}",
            String::from_utf8_lossy(&said)
        );
    };
    let place = root().join("deploy/monitoring");
    run(&["check", "rules", "alerts.yaml"], &place);
    run(&["test", "rules", "alerts.test.yaml"], &place);
    // The dashboard's queries, as rules: what Grafana fills in is filled in.
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, (title, query)) in queries(&dashboard()).iter().enumerate() {
        let query = query
            .replace("$__rate_interval", "5m")
            .replace("$volume", ".*");
        let query = serde_json::to_string(&query).expect("a string");
        rules.push_str(&format!(
            "      # {title}\n      - {{record: \"panel:{number}\", expr: {query}}}\n"
        ));
    }
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(scratch.join("dashboard.rules.yaml"), rules).expect("written");
    run(&["check", "rules", "dashboard.rules.yaml"], &scratch);
}
