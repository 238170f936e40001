//! `lockstep explain`: why something is as it is.

use clap::Subcommand;
use lockstep_api::{Client, proto};
use serde::Serialize;

use crate::arguments;
use crate::connect::{ConnectArgs, block_on, words};
use crate::output::Output;
use crate::volume::VolumeView;

/// `lockstep explain …`.
#[derive(Subcommand)]
pub enum ExplainCommand {
    /// Who holds what of a volume, why it is suspended, who must return
    #[command(
        after_help = "Examples:\n  lockstep explain volume pg\n  lockstep explain volume pg -o json"
    )]
    Volume {
        /// Its name or id
        #[arg(value_parser = arguments::volume)]
        volume: String,
    },
}

#[derive(Serialize)]
struct Explained {
    volume: VolumeView,
    notes: Vec<String>,
    must_return: Vec<String>,
    remedies: Vec<String>,
}

/// Runs it.
pub fn run(command: ExplainCommand, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    let ExplainCommand::Volume { volume: named } = command;
    block_on(async { volume(&connect.connect().await?, output, named).await })
}

/// Explains a volume.
///
/// # Errors
/// There is none of that name.
pub async fn volume(client: &Client, output: &Output, volume: String) -> anyhow::Result<()> {
    let request = proto::ExplainVolumeRequest { volume };
    let reply = client
        .volumes()
        .explain(request)
        .await
        .map_err(words)?
        .into_inner();
    let explained = Explained::from(reply);
    output.one(&explained, &explained.text())
}

impl From<proto::Explanation> for Explained {
    fn from(reply: proto::Explanation) -> Self {
        Self {
            volume: reply.volume.unwrap_or_default().into(),
            notes: reply.notes,
            must_return: reply.must_return,
            remedies: reply.remedies,
        }
    }
}

impl Explained {
    fn text(&self) -> String {
        let mut text = self.volume.text();
        let parts = [
            ("What there is to know:", &self.notes),
            ("Must return:", &self.must_return),
            ("What helps:", &self.remedies),
        ];
        for (title, lines) in parts.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            text.push_str(&format!("\n\n{title}"));
            lines
                .iter()
                .for_each(|line| text.push_str(&format!("\n  {line}")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_to_say_is_said() {
        let mut reply = proto::Explanation {
            volume: Some(proto::Volume {
                headline: "volume 'pg' is suspended".into(),
                ..Default::default()
            }),
            must_return: vec!["node a1 (site a)".into()],
            remedies: vec!["start node a1".into()],
            ..Default::default()
        };
        let text = Explained::from(reply.clone()).text();
        assert!(text.starts_with("volume 'pg' is suspended\n"), "{text}");
        assert!(
            text.ends_with("\n\nMust return:\n  node a1 (site a)\n\nWhat helps:\n  start node a1"),
            "{text}"
        );
        assert!(!text.contains("to know"), "{text}");
        reply.notes.push("it is attached nowhere".into());
        assert!(
            Explained::from(reply)
                .text()
                .contains("What there is to know:\n  it is")
        );
    }
}
