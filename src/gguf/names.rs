//! What GGUF calls a tensor → what transformers calls it, and back.

/// The names of a family. GGUF's come first; `.weight` and `.bias` stay as they are.
#[derive(Debug)]
pub(super) struct Names {
    /// Outside of layers.
    pub(super) outside: &'static [(&'static str, &'static str)],
    /// What stands before a layer's number.
    pub(super) layers: &'static str,
    /// Within a layer.
    pub(super) inside: &'static [(&'static str, &'static str)],
    /// Tensors that lie in one on top of each other, such as all experts' matrices, and what stands before and behind the
    /// number of one of them.
    pub(super) stacked: &'static [(&'static str, &'static str, &'static str)],
}

/// Where a tensor belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It went into the config.
    Config,
    /// Under this name.
    Named(String),
    /// One for each number between these parts of a name.
    Stacked(String, &'static str),
    /// Queries, keys and values, one after the other.
    Fused([String; 3]),
}

/// Tensors that the config is made of.
const OF_THE_CONFIG: &[&str] = &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

impl Names {
    /// What the file calls a tensor of transformers, and which of those that are stacked in it it is; the way back from
    /// [`Names::place_of`].
    pub(super) fn in_file(&self, name: &str) -> Option<(String, Option<usize>)> {
        let (stem, ending) = name.rsplit_once('.')?;
        let find = |names: &'static [(&'static str, &'static str)], stem: &str| {
            names.iter().find(|(_, theirs)| *theirs == stem).map(|(own, _)| *own)
        };
        if let Some(own) = find(self.outside, stem) {
            return Some((format!("{own}.{ending}"), None));
        }
        let (layer, inside) = name.strip_prefix(self.layers)?.strip_prefix('.')?.split_once('.')?;
        let layer: u32 = layer.parse().ok()?;
        for (own, before, after) in self.stacked {
            let number = inside.strip_prefix(before).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(after));
            if let Some(number) = number.and_then(|number| number.strip_suffix('.')?.parse().ok()) {
                return Some((format!("blk.{layer}.{own}.weight"), Some(number)));
            }
        }
        find(self.inside, inside.strip_suffix(ending)?.strip_suffix('.')?)
            .map(|own| (format!("blk.{layer}.{own}.{ending}"), None))
    }

    /// The place of a tensor, which keeps its own name where it is not known.
    pub(super) fn place_of(&self, name: &str) -> Place {
        if OF_THE_CONFIG.contains(&name) {
            return Place::Config;
        }
        self.translated(name).unwrap_or_else(|| Place::Named(name.to_owned()))
    }

    fn translated(&self, name: &str) -> Option<Place> {
        let (stem, ending) = name.rsplit_once('.')?;
        let find = |names: &[(&str, &'static str)], stem: &str| {
            names.iter().find(|(own, _)| *own == stem).map(|(_, theirs)| *theirs)
        };
        let Some((layer, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return find(self.outside, stem).map(|theirs| Place::Named(format!("{theirs}.{ending}")));
        };
        layer.parse::<u32>().ok()?;
        let layers = self.layers;
        if OF_THE_CONFIG.contains(&format!("{stem}.{ending}").as_str()) {
            return Some(Place::Config);
        }
        if let Some((_, before, after)) = self.stacked.iter().find(|(own, ..)| *own == stem && ending == "weight") {
            return Some(Place::Stacked(format!("{layers}.{layer}.{before}"), after));
        }
        if let ("attn_qkv", [Some(q), Some(k), Some(v)]) =
            (stem, ["attn_q", "attn_k", "attn_v"].map(|own| find(self.inside, own)))
        {
            // In files of converters that were told to, and in Phi-2's first.
            return Some(Place::Fused([q, k, v].map(|theirs| format!("{layers}.{layer}.{theirs}.{ending}"))));
        }
        find(self.inside, stem).map(|theirs| Place::Named(format!("{layers}.{layer}.{theirs}.{ending}")))
    }
}
