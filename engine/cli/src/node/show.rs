//! One node and its pools.

use anyhow::Context;
use lockstep_api::proto;
use lockstep_node::units::Size;
use serde::Serialize;

use super::NodeRow;
use crate::connect::{ConnectArgs, words};
use crate::output::{Output, Row, table, yes};

/// A node as programs see it.
#[derive(Serialize)]
struct NodeView {
    #[serde(flatten)]
    node: NodeRow,
    data_addresses: Vec<String>,
    pools: Vec<PoolView>,
}

/// One of its pools.
#[derive(Serialize)]
struct PoolView {
    id: String,
    name: String,
    bytes: u64,
    bytes_free: u64,
    copies: u32,
    failed: String,
}

/// Shows it.
///
/// # Errors
/// There is none of that name or id.
pub async fn show(connect: &ConnectArgs, output: &Output, named: String) -> anyhow::Result<()> {
    let client = connect.connect().await?;
    let nodes = client
        .nodes()
        .list(proto::ListNodesRequest {})
        .await
        .map_err(words)?
        .into_inner()
        .nodes;
    let node = nodes
        .into_iter()
        .find(|node| node.id == named || node.name == named)
        .with_context(|| {
            format!("there is no node '{named}'; 'lockstep node list' shows what there is")
        })?;
    let request = proto::ListPoolsRequest {
        node: node.id.clone(),
    };
    let pools = client
        .pools()
        .list(request)
        .await
        .map_err(words)?
        .into_inner()
        .pools;
    let view = NodeView::new(node, pools);
    output.one(&view, &view.text())
}

impl NodeView {
    fn new(node: proto::Node, pools: Vec<proto::Pool>) -> Self {
        let pool = |pool: proto::Pool| PoolView {
            id: pool.id,
            name: pool.name,
            bytes: pool.bytes,
            bytes_free: pool.bytes_free,
            copies: pool.replicas,
            failed: pool.failed,
        };
        let mut pools: Vec<_> = pools.into_iter().map(pool).collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            data_addresses: node.data_addresses.clone(),
            node: node.into(),
            pools,
        }
    }

    fn text(&self) -> String {
        let node = &self.node;
        let place: Vec<String> = [
            ("site", &node.site),
            ("zone", &node.zone),
            ("rack", &node.rack),
        ]
        .into_iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(level, name)| format!("{level} {name}"))
        .collect();
        let mut lines = vec![
            format!("node      {} ({})", node.name, node.role),
            format!("id        {}", node.id),
            format!("place     {}", place.join(", ")),
            format!("answers   {}", yes(node.answering)),
            format!("votes     {}", yes(node.voter)),
            format!("cordoned  {}", yes(node.cordoned)),
            format!(
                "holds     {} copies, {} attachments",
                node.copies, node.attachments
            ),
            format!("control   {}", node.control_address),
        ];
        if !self.data_addresses.is_empty() {
            lines.push(format!("data      {}", self.data_addresses.join(", ")));
        }
        if !self.pools.is_empty() {
            lines.push(table(&self.pools));
        }
        lines.join("\n")
    }
}

impl Row for PoolView {
    const COLUMNS: &'static [&'static str] = &["POOL", "CAPACITY", "FREE", "COPIES", "STATE"];

    fn cells(&self) -> Vec<String> {
        let state = match self.failed.as_str() {
            "" => "serves".into(),
            why => format!("failed: {why}"),
        };
        vec![
            self.name.clone(),
            Size(self.bytes).to_string(),
            Size(self.bytes_free).to_string(),
            self.copies.to_string(),
            state,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_with_its_pools() {
        let node = proto::Node {
            id: "1".into(),
            name: "a1".into(),
            site: "a".into(),
            role: proto::Role::Data.into(),
            answering: true,
            data_addresses: vec!["10.0.0.1:7401".into()],
            ..Default::default()
        };
        let pool = proto::Pool {
            name: "p0".into(),
            bytes: 2 << 30,
            failed: "its journal cannot be written".into(),
            ..Default::default()
        };
        let view = NodeView::new(node, vec![pool]);
        let text = view.text();
        assert!(text.starts_with("node      a1 (data)\n"), "{text}");
        assert!(
            text.contains("place     site a\nanswers   yes\nvotes     no"),
            "{text}"
        );
        assert!(
            text.ends_with("failed: its journal cannot be written"),
            "{text}"
        );
        let json = serde_json::to_value(&view).expect("serialises");
        assert_eq!(
            (&json["name"], &json["pools"][0]["name"]),
            (&"a1".into(), &"p0".into())
        );
    }
}
