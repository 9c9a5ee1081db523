//! Fetching models that this version can run: what the Hub's module cannot judge is judged here.

use std::path::Path;

use crate::error::Result;
use crate::gguf::Gguf;
use crate::hub::Requirements;
#[cfg(feature = "hub")]
use crate::hub::{Hub, Plan, Pulled};
use crate::models::Config;
use crate::text::Tokenizer;
use crate::weights::{check_header, check_tensors};

/// Judges a model by its config.json and the headers of its weights, before those move.
pub(crate) const SUPPORTED: Requirements =
    Requirements { config: check_config, weights: check_header, gguf: check_gguf };

fn check_config(path: &Path, text: &str) -> Result<()> {
    let config = Config::parse(path, text)?;
    (config.architecture()?.check)(&config)
}

fn check_gguf(gguf: &Gguf) -> Result<()> {
    let config = Config { path: gguf.path(), json: gguf.config()? };
    (config.architecture()?.check)(&config)?;
    check_tensors(gguf)?;
    Tokenizer::check_gguf(&gguf.metadata)
}

#[cfg(feature = "hub")]
impl Hub {
    /// Fetches a model into the cache, or what of it has changed on the Hub since. What this version cannot run is refused
    /// before the weights move.
    pub fn pull(&self, name: &str) -> Result<Pulled> {
        self.pull_files(name, &[])
    }

    /// The same; with patterns such as `*.json`, those files and no others, whatever they are.
    pub fn pull_files(&self, name: &str, patterns: &[String]) -> Result<Pulled> {
        self.pull_checked(name, patterns, &SUPPORTED, None)
    }

    /// The same, into a folder outside the cache.
    pub fn pull_into(&self, name: &str, patterns: &[String], folder: &Path) -> Result<Pulled> {
        self.pull_checked(name, patterns, &SUPPORTED, Some(folder))
    }

    /// Says what would be fetched, and fetches nothing but the small files that say it.
    pub fn plan(&self, name: &str, patterns: &[String]) -> Result<Plan> {
        self.plan_checked(name, patterns, &SUPPORTED)
    }
}
