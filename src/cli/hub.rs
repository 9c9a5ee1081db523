//! `--offline` and `--progress`: how verbs reach the Hub, and its cache.

use std::sync::OnceLock;

use anyhow::Result;

use super::output::{figure, warning};
use super::progress::{self, ProgressStyle};
use crate::source::Source;
use crate::{Hub, NetworkBan, forbid_network};

/// How models are fetched.
#[derive(clap::Args)]
pub(super) struct HubArgs {
    /// Open no socket, and on Linux give up the right to: use what is in the cache
    #[arg(long, help_heading = "Model")]
    pub(super) offline: bool,
    /// How to show a download, on stderr
    #[arg(long, value_name = "STYLE", value_enum, default_value_t, help_heading = "Model")]
    pub(super) progress: ProgressStyle,
}

/// What became of the promise to open no socket, where one was given.
static BAN: OnceLock<NetworkBan> = OnceLock::new();

impl HubArgs {
    /// The Hub as the arguments and the environment say. Where either says `offline`, sockets are given up here.
    pub(super) fn open(&self) -> Result<Hub> {
        if self.offline {
            BAN.get_or_init(|| {
                if matches!(self.progress, ProgressStyle::Plain | ProgressStyle::Json) {
                    warning("`--progress` has no effect beside `--offline`: nothing is downloaded");
                }
                forbid_network()
            });
        }
        let mut hub = Hub::from_env()?;
        if self.offline {
            hub = hub.offline();
        } else if hub.is_offline() {
            BAN.get_or_init(forbid_network);
        }
        Ok(hub.on_progress(progress::shown(self.progress)))
    }

    /// The same for a model that may be on this machine: then nothing that is wrong with the Hub's settings matters.
    pub(super) fn open_for(&self, model: &str) -> Result<Option<Hub>> {
        match self.open() {
            Ok(hub) => Ok(Some(hub)),
            Err(_) if Source::local(model).is_ok_and(|found| found.is_some()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What `--verbose` says of the network.
pub(super) fn describe_network() {
    if let Some(ban) = BAN.get() {
        figure("network", ban);
    }
}
