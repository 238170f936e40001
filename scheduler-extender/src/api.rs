//! Messages of the extender API, v1 (k8s.io/kube-scheduler/extender/v1). The Go types have no field tags, so
//! that names are in capitals here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What filter and prioritize are asked.
#[derive(Deserialize)]
pub struct ExtenderArgs<'a> {
    /// The pod.
    #[serde(rename = "Pod")]
    pub pod: Option<Pod>,
    /// The nodes, whole, if the scheduler was told that nodes are not remembered here.
    #[serde(rename = "Nodes", borrow)]
    pub nodes: Option<NodeList<'a>>,
    /// Their names, if it was told that they are.
    #[serde(rename = "NodeNames")]
    pub node_names: Option<Vec<String>>,
}

/// Whole nodes. They are given back as they came.
#[derive(Deserialize, Serialize)]
pub struct NodeList<'a> {
    /// The nodes; null in Go if there are none.
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

/// What filter answers. An `Error` would admit every node (`ignorable`), so that none is ever given; and
/// `FailedNodes` would have innocent pods preempted.
#[derive(Serialize)]
pub struct ExtenderFilterResult<'a> {
    /// The nodes that stay, if whole nodes were given.
    #[serde(rename = "Nodes")]
    pub nodes: Option<NodeList<'a>>,
    /// Names of the nodes that stay, if names were given. Null would drop every node.
    #[serde(rename = "NodeNames")]
    pub node_names: Option<Vec<&'a str>>,
    /// Always empty.
    #[serde(rename = "FailedNodes")]
    pub failed_nodes: BTreeMap<&'a str, &'static str>,
    /// Nodes that go, and why.
    #[serde(rename = "FailedAndUnresolvableNodes")]
    pub failed_and_unresolvable_nodes: BTreeMap<&'a str, &'static str>,
    /// Always empty.
    #[serde(rename = "Error")]
    pub error: &'static str,
}

/// What prioritize answers for a node; the answer is a list of these.
#[derive(Serialize)]
pub struct HostPriority<'a> {
    /// The node.
    #[serde(rename = "Host")]
    pub host: &'a str,
    /// 0 to 10. A fraction would make the whole answer undecodable.
    #[serde(rename = "Score")]
    pub score: i64,
}

#[derive(Deserialize)]
struct NamedNode {
    metadata: NodeName,
}

#[derive(Deserialize)]
struct NodeName {
    name: String,
}

impl<'a> ExtenderArgs<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// It is none.
    pub fn read(body: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(body)
    }

    /// Names of the nodes, given in either form; none if there are none, or a list was null. Of a request with
    /// names, whole nodes are passed over.
    ///
    /// # Errors
    /// A whole node without a name.
    pub fn take_names(&mut self) -> serde_json::Result<Vec<String>> {
        if let Some(names) = self.node_names.take() {
            self.nodes = None;
            return Ok(names);
        }
        let whole = self.nodes.iter().filter_map(|list| list.items.as_ref());
        let name = |node: &&RawValue| {
            let named: NamedNode = serde_json::from_str(node.get())?;
            Ok(named.metadata.name)
        };
        whole.flatten().map(name).collect()
    }
}

impl<'a> ExtenderFilterResult<'a> {
    /// The answer: for each of the request's nodes, why it goes, or none.
    pub fn new(
        whole: Option<&NodeList<'a>>,
        names: &'a [String],
        refused: &'a [Option<&'static str>],
    ) -> Self {
        // Who gave whole nodes takes whole nodes back; who gave nothing takes an empty list, never null.
        let nodes = whole
            .and_then(|list| list.items.as_ref())
            .map(|items| NodeList {
                items: Some(that_stay(items, refused).copied().collect()),
            });
        let names_back = || that_stay(names, refused).map(String::as_str).collect();
        let pairs = names.iter().zip(refused);
        let failed = pairs.filter_map(|(name, why)| Some((name.as_str(), (*why)?)));
        Self {
            node_names: nodes.is_none().then(names_back),
            nodes,
            failed_nodes: BTreeMap::new(),
            failed_and_unresolvable_nodes: failed.collect(),
            error: "",
        }
    }
}

fn that_stay<'l, T>(
    list: &'l [T],
    refused: &'l [Option<&'static str>],
) -> impl Iterator<Item = &'l T> {
    let pairs = list.iter().zip(refused);
    pairs.filter(|(_, why)| why.is_none()).map(|(it, _)| it)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(body: &str, refused: &[Option<&'static str>]) -> serde_json::Value {
        let mut args = ExtenderArgs::read(body.as_bytes()).expect("a request");
        let names = args.take_names().expect("names");
        let result = ExtenderFilterResult::new(args.nodes.as_ref(), &names, refused);
        serde_json::to_value(&result).expect("an answer")
    }

    #[test]
    fn names_are_answered_with_names() {
        let body =
            r#"{"Pod":{"metadata":{"name":"p"}},"Nodes":null,"NodeNames":["a","b","\u0063"]}"#;
        let answer = filtered(body, &[None, Some("why"), None]);
        let expected = serde_json::json!({
            "Nodes": null,
            "NodeNames": ["a", "c"],
            "FailedNodes": {},
            "FailedAndUnresolvableNodes": {"b": "why"},
            "Error": "",
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn whole_nodes_are_answered_with_whole_nodes() {
        let body = r#"{"Pod":null,"Nodes":{"metadata":{},"items":[
            {"metadata":{"name":"a","labels":{"x":"y"}},"spec":{"podCIDR":"10.0.0.0/24"}},
            {"metadata":{"name":"b"}}]},"NodeNames":null}"#;
        let answer = filtered(body, &[None, Some("why")]);
        assert_eq!(answer["NodeNames"], serde_json::Value::Null);
        let nodes = answer["Nodes"]["items"].as_array().expect("nodes");
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0]["spec"]["podCIDR"], "10.0.0.0/24", "as it came");
        assert_eq!(answer["FailedAndUnresolvableNodes"]["b"], "why");
    }

    #[test]
    fn lists_that_are_null_or_missing_are_answered_with_empty_ones() {
        for body in [
            r#"{"Pod":null,"Nodes":null,"NodeNames":null}"#,
            r#"{}"#,
            r#"{"NodeNames":[]}"#,
        ] {
            assert_eq!(
                filtered(body, &[])["NodeNames"],
                serde_json::json!([]),
                "{body}"
            );
        }
        let answer = filtered(r#"{"Nodes":{"metadata":{},"items":null}}"#, &[]);
        assert_eq!(answer["NodeNames"], serde_json::json!([]));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for body in [
            "",
            "null",
            "[]",
            r#"{"NodeNames":[1]}"#,
            r#"{"Nodes":{"items":[1]}}"#,
        ] {
            let read = ExtenderArgs::read(body.as_bytes());
            assert!(
                read.and_then(|mut args| args.take_names()).is_err(),
                "{body:?} is taken"
            );
        }
    }

    #[test]
    fn scores_are_whole_numbers() {
        let list = [HostPriority {
            host: "a",
            score: 10,
        }];
        let text = serde_json::to_string(&list).expect("an answer");
        assert_eq!(text, r#"[{"Host":"a","Score":10}]"#);
    }
}
