//! What GGUF calls a tensor → what transformers calls it.

/// The names of a family. GGUF's come first; `.weight` and `.bias` stay as they are.
#[derive(Debug)]
pub(super) struct Names {
    /// Outside of layers.
    pub(super) outside: &'static [(&'static str, &'static str)],
    /// What stands before a layer's number.
    pub(super) layers: &'static str,
    /// Within a layer.
    pub(super) inside: &'static [(&'static str, &'static str)],
    /// Matrices of all experts in one tensor, and the name of one of them behind the expert's number.
    pub(super) experts: &'static [(&'static str, &'static str, &'static str)],
    /// Three matrices of the same size in one.
    pub(super) thirds: &'static [(&'static str, [&'static str; 3])],
}

/// Where a tensor belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It went into the config.
    Config,
    /// Under this name.
    Named(String),
    /// One of each expert, between these parts of a name.
    Experts(String, &'static str),
    /// A third each.
    Thirds([String; 3]),
}

/// Tensors that the config is made of.
const OF_THE_CONFIG: &[&str] = &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

impl Names {
    /// What the file calls a tensor of transformers; the way back from [`Names::place_of`] for what is not an expert's.
    pub(super) fn in_file(&self, name: &str) -> Option<String> {
        let (stem, ending) = name.rsplit_once('.')?;
        let find = |names: &'static [(&'static str, &'static str)], stem: &str| {
            names.iter().find(|(_, theirs)| *theirs == stem).map(|(own, _)| *own)
        };
        if let Some(own) = find(self.outside, stem) {
            return Some(format!("{own}.{ending}"));
        }
        let (layer, stem) = stem.strip_prefix(self.layers)?.strip_prefix('.')?.split_once('.')?;
        let layer: u32 = layer.parse().ok()?;
        find(self.inside, stem).map(|own| format!("blk.{layer}.{own}.{ending}"))
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
        if let Some((_, before, after)) = self.experts.iter().find(|(own, ..)| *own == stem && ending == "weight") {
            return Some(Place::Experts(format!("{layers}.{layer}.{before}"), after));
        }
        if let Some((_, thirds)) = self.thirds.iter().find(|(own, _)| *own == stem) {
            return Some(Place::Thirds(thirds.map(|third| format!("{layers}.{layer}.{third}.{ending}"))));
        }
        find(self.inside, stem).map(|theirs| Place::Named(format!("{layers}.{layer}.{theirs}.{ending}")))
    }
}
