//! `layer_types` of config.json: which layers see a window only.

use serde::{Deserialize, Serialize};

use super::Config;
use crate::error::{Result, quote};

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The kind of each layer's attention, where config.json lists it.
#[derive(Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct LayerTypes(Option<Vec<String>>);

impl LayerTypes {
    /// Refuses a list that does not fit. `window` is what a layer with a window sees, if the model has one.
    pub(super) fn check(&self, config: &Config, num_hidden_layers: usize, window: Option<usize>) -> Result<()> {
        if window == Some(0) {
            return Err(config.wrong("expected a `sliding_window` of at least 1, or null, found 0"));
        }
        let Some(types) = &self.0 else { return Ok(()) };
        if types.len() != num_hidden_layers {
            let found = types.len();
            return Err(config.wrong(format!("expected {num_hidden_layers} `layer_types`, one a layer, found {found}")));
        }
        if let Some(other) = types.iter().find(|kind| ![FULL, SLIDING].contains(&kind.as_str())) {
            return Err(config.unsupported(format!(
                "`layer_types` has {}, of which only `{FULL}` and `{SLIDING}` are supported",
                quote(other)
            )));
        }
        if window.is_none() && types.iter().any(|kind| kind == SLIDING) {
            return Err(config.wrong(format!("`layer_types` has `{SLIDING}`, expected a `sliding_window` with it")));
        }
        Ok(())
    }

    /// The list, made of `usual` where there is none.
    pub(super) fn listed(&self, num_hidden_layers: usize, usual: impl Fn(usize) -> bool) -> Vec<&'static str> {
        (0..num_hidden_layers).map(|layer| if self.slides(layer, usual(layer)) { SLIDING } else { FULL }).collect()
    }

    /// Whether a layer sees a window only; where there is no list, `usual` says it.
    pub(super) fn slides(&self, layer: usize, usual: bool) -> bool {
        match &self.0 {
            Some(types) => types.get(layer).is_some_and(|kind| kind == SLIDING),
            None => usual,
        }
    }
}
