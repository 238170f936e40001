//! What a scrape is told beyond the counters of events: made from the committed state and from what the data plane
//! has counted at that moment, so that nothing is told of what is gone. Prometheus' text format, version 0.0.4.
//!
//! | what | module |
//! |---|---|
//! | cluster, nodes, copies: from the control plane's leader only | [`cluster`] |
//! | requests of the volumes attached here | [`volumes`] |
//! | pools of this node, links to its peers | [`pools`], [`links`] |
//! | the text itself | [`text`] |

mod cluster;
mod links;
mod pools;
mod text;
mod volumes;

use crate::bridge::Bridge;
use crate::control::Control;
use text::Text;

/// Where it all comes from. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    control: Control,
    /// None on a witness.
    bridge: Option<Bridge>,
}

impl Source {
    /// Of a running node.
    pub fn new(control: Control, bridge: Option<Bridge>) -> Self {
        Self { control, bridge }
    }

    /// All of it. What the data plane does not tell in time is left out.
    pub async fn render(&self) -> String {
        let mut text = Text::default();
        cluster::describe(&self.control, &mut text);
        if let Some(bridge) = &self.bridge {
            if let Some(pools) = bridge.pools().await {
                pools::describe(&pools, &mut text);
            }
            if let Some(measures) = bridge.measures().await {
                volumes::describe(&measures.volumes, &mut text);
                links::describe(&self.control.state(), &measures.links, &mut text);
            }
        }
        text.into_string()
    }
}
