//! The log: one subscriber a process, to standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Installs the subscriber. `LOCKSTEP_LOG` overrides the configured filter.
///
/// # Errors
/// The filter makes no sense, or a subscriber is installed already.
pub fn install(config: &LogConfig) -> anyhow::Result<()> {
    let filter = std::env::var("LOCKSTEP_LOG").unwrap_or_else(|_| config.filter.clone());
    let filter = EnvFilter::try_new(&filter)
        .map_err(|e| anyhow::anyhow!("log.filter = \"{filter}\" is refused: {e}; write \"info\" or \"info,lockstep_node=debug\""))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    installed.map_err(|e| anyhow::anyhow!("the log cannot be set up: {e}"))
}
