//! raft speaks through slog, everything else through tracing.

use std::fmt::{Arguments, Write};

use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// A logger that passes raft's words on, one level quieter: its "info" is for debugging.
pub(crate) fn tracing_logger() -> Logger {
    Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", "{}", text(record, values))
            }
            Level::Warning => tracing::warn!(target: "raft", "{}", text(record, values)),
            Level::Info => tracing::debug!(target: "raft", "{}", text(record, values)),
            Level::Debug | Level::Trace => {
                tracing::trace!(target: "raft", "{}", text(record, values))
            }
        }
        Ok(())
    }
}

fn text(record: &Record<'_>, values: &OwnedKVList) -> String {
    let mut text = Text(record.msg().to_string());
    // Writing to a string does not fail.
    let _ = record.kv().serialize(record, &mut text);
    let _ = values.serialize(record, &mut text);
    text.0
}

struct Text(String);

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        let _ = write!(self.0, ", {key}: {value}");
        Ok(())
    }
}
