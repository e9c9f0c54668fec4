//! Command line arguments that all daemons share.

use std::path::PathBuf;

/// Arguments of a program that the orchestrator starts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ParentArgs {
    /// Process id of the parent; die with it.
    #[arg(long)]
    pub parent: Option<u32>,
}

/// Arguments of a daemon that listens on the bottle's socket.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DaemonArgs {
    /// Unix socket to listen on (its directory stays writable).
    #[arg(long)]
    pub socket: PathBuf,
    /// Name of the bottle, for log lines.
    #[arg(long)]
    pub slug: Option<String>,
    /// The parent process.
    #[command(flatten)]
    pub parent: ParentArgs,
}

impl DaemonArgs {
    /// The bottle's name for log lines; `-` when none was given.
    #[must_use]
    pub fn slug(&self) -> &str {
        self.slug.as_deref().unwrap_or("-")
    }
}
