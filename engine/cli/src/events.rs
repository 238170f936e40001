//! `lockstep events`.

use std::io::{ErrorKind, Write};

use clap::Args;
use lockstep_api::proto;
use serde::Serialize;

use crate::arguments;
use crate::connect::{ConnectArgs, block_on, words};
use crate::output::Output;
use crate::volume::word;
use crate::when::utc;

/// `lockstep events`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockstep events
  lockstep events -f --volume pg            until Ctrl-C
  lockstep events --after 812 -o json       one object a line
  lockstep events --audit                   only what overrode a rule")]
pub struct EventsArgs {
    /// Go on with what happens
    #[arg(long, short)]
    follow: bool,
    /// Only of this volume
    #[arg(long, value_parser = arguments::volume)]
    volume: Option<String>,
    /// Only forced recoveries
    #[arg(long)]
    audit: bool,
    /// Only what came after the event with this index
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    after: u64,
}

#[derive(Serialize)]
struct EventView {
    index: u64,
    at_unix_ms: u64,
    severity: String,
    volume: String,
    node: String,
    text: String,
}

/// Runs it. With `-o json`, one object a line.
pub fn run(args: EventsArgs, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    block_on(async {
        let mut last = args.after;
        let request = proto::EventsRequest {
            after_index: args.after,
            follow: args.follow,
            audit: args.audit,
            volume: args.volume.unwrap_or_default(),
        };
        let client = connect.connect().await?;
        let mut events = client
            .cluster()
            .events(request)
            .await
            .map_err(words)?
            .into_inner();
        loop {
            let event = match events.message().await {
                Ok(Some(event)) => EventView::from(event),
                Ok(None) if args.follow => anyhow::bail!("{}", broken(last)),
                Ok(None) => return Ok(()),
                Err(status) => return Err(words(status).context(broken(last))),
            };
            last = event.index;
            let line = if output.is_json() {
                serde_json::to_string(&event)?
            } else {
                event.line()
            };
            // A reader that has gone (`| head`) ends it: otherwise it would follow for nobody.
            match writeln!(std::io::stdout().lock(), "{line}") {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
    })
}

/// What to do when a stream of events ends in the middle.
fn broken(last: u64) -> String {
    format!(
        "the daemon stopped telling what happens; 'lockstep events --after {last}' goes on from here"
    )
}

impl From<proto::Event> for EventView {
    fn from(event: proto::Event) -> Self {
        Self {
            index: event.index,
            at_unix_ms: event.at_unix_ms,
            severity: word(event.severity().as_str_name(), "SEVERITY_"),
            volume: event.volume,
            node: event.node,
            text: event.text,
        }
    }
}

impl EventView {
    fn line(&self) -> String {
        format!(
            "{:>6}  {}  {:<7}  {}",
            self.index,
            utc(self.at_unix_ms),
            self.severity,
            self.text
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = EventView::from(proto::Event {
            index: 12,
            at_unix_ms: 951_782_400_007,
            severity: proto::Severity::Warning.into(),
            volume: "pg".into(),
            node: String::new(),
            text: "volume 'pg' lost its copy on b1".into(),
        });
        assert_eq!(
            event.line(),
            "    12  2000-02-29 00:00:00.007Z  warning  volume 'pg' lost its copy on b1"
        );
        let json = serde_json::to_value(&event).expect("serialises");
        assert_eq!(
            (&json["index"], &json["severity"]),
            (&12.into(), &"warning".into())
        );
        assert!(broken(12).contains("--after 12"));
    }
}
