//! GPT-Neo: learned positions, scores without a scale, and in every other layer a window.
//!
//! Black et al. 2021, "GPT-Neo". The network is [`classic`](super::classic)'s.

use serde::Deserialize;

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks};
use crate::error::{Result, quote};
use crate::kernels::{Heads, Order};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gpt_neo",
    class: "GPTNeoForCausalLM",
    models: "GPT-Neo (125M, 1.3B, 2.7B), TinyStories",
    check: |config| design(config).map(drop),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Deserialize)]
#[serde(default)]
struct GptNeoConfig {
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    num_layers: usize,
    num_heads: usize,
    /// `4 · hidden_size` where it is null.
    intermediate_size: Option<usize>,
    /// Kinds of layers, and how often they repeat: `global` and `local` in turn where it is null.
    attention_types: Option<Vec<(Vec<String>, usize)>>,
    /// The same, layer by layer, which counts before it.
    attention_layers: Option<Vec<String>>,
    /// Tokens that a token of a `local` layer sees, itself included.
    window_size: usize,
    activation_function: String,
    layer_norm_epsilon: f32,
    tie_word_embeddings: bool,
}

impl Default for GptNeoConfig {
    fn default() -> Self {
        GptNeoConfig {
            vocab_size: 50257,
            max_position_embeddings: 2048,
            hidden_size: 2048,
            num_layers: 24,
            num_heads: 16,
            intermediate_size: None,
            attention_types: None,
            attention_layers: None,
            window_size: 256,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: true,
        }
    }
}

/// Other architectures' names for the same fields, which transformers takes too.
const ALIASES: &[(&str, &str)] = &[("num_hidden_layers", "num_layers"), ("num_attention_heads", "num_heads")];

const NAMES: Names = Names {
    prefixes: &["transformer", ""],
    embedding: "wte",
    embedding_norm: None,
    layers: "h",
    final_norm: Some("ln_f"),
    heads: &["lm_head"],
    attention_norm: "ln_1",
    attention: "attn.attention",
    qkv: &["q_proj", "k_proj", "v_proj"],
    attention_out: "attn.attention.out_proj",
    mlp_norm: Some("ln_2"),
    mlp_in: &["mlp.c_fc"],
    mlp_out: "mlp.c_proj",
    ignored: &["bias", "masked_bias"],
};

fn design(config: &Config) -> Result<Design> {
    let config = &config.renamed(ALIASES)?;
    let c: GptNeoConfig = config.fields()?;
    let intermediate_size = c.intermediate_size.unwrap_or(c.hidden_size.saturating_mul(4));
    checks::sizes(
        config,
        &[
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("num_layers", c.num_layers),
            ("intermediate_size", intermediate_size),
            ("window_size", c.window_size),
        ],
    )?;
    checks::positions(config, "max_position_embeddings", c.max_position_embeddings)?;
    checks::epsilon(config, "layer_norm_epsilon", c.layer_norm_epsilon)?;
    checks::quantization(config)?;
    let n_heads = ("num_heads", c.num_heads);
    let heads = checks::heads(config, ("hidden_size", c.hidden_size), n_heads, n_heads)?;
    let (kinds, window) = (c.kinds(config)?, c.window_size);
    Ok(Design {
        names: NAMES,
        vocab_size: c.vocab_size,
        embedding_size: c.hidden_size,
        hidden_size: c.hidden_size,
        intermediate_size,
        n_layers: c.num_layers,
        context: c.max_position_embeddings,
        heads: Heads { scale: 1.0, ..heads },
        order: Order::Parts,
        head_norms: HeadNorms::None,
        window: Box::new(move |layer| Some(window).filter(|_| is_local(&kinds, layer))),
        positions: Positions::Learned { table: "wpe", offset: 0 },
        flow: Flow::Serial,
        activation: checks::activation(config, "activation_function", &c.activation_function)?,
        norms: Norms { epsilon: c.layer_norm_epsilon, learned: true },
        biases: Biases { qkv: Bias::Without, attention_out: Bias::With, mlp: Bias::With, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}

/// Kinds of layers, whether they have a window, and how often they repeat.
type Kinds = Vec<(Vec<bool>, usize)>;

impl GptNeoConfig {
    fn kinds(&self, config: &Config) -> Result<Kinds> {
        const GLOBAL: &str = "global";
        const LOCAL: &str = "local";
        let listed = self.attention_layers.clone().map(|layers| ("attention_layers", vec![(layers, 1)]));
        let typed = || self.attention_types.clone().map(|types| ("attention_types", types));
        let Some((field, types)) = listed.or_else(typed) else {
            return Ok(vec![(vec![false, true], self.num_layers.div_ceil(2))]);
        };
        if let Some(other) = types.iter().flat_map(|(kinds, _)| kinds).find(|kind| ![GLOBAL, LOCAL].contains(&&***kind))
        {
            let problem = format!("`{field}` has {}, of which only `global` and `local` are known", quote(other));
            return Err(config.unsupported(problem));
        }
        let layers =
            types.iter().fold(0usize, |sum, (kinds, times)| sum.saturating_add(kinds.len().saturating_mul(*times)));
        if layers != self.num_layers {
            let expected = self.num_layers;
            return Err(config.wrong(format!(
                "expected `{field}` for the {expected} layers of `num_layers`, found them for {layers}"
            )));
        }
        Ok(types.iter().map(|(kinds, times)| (kinds.iter().map(|kind| kind == LOCAL).collect(), *times)).collect())
    }
}

/// Whether a layer has a window.
fn is_local(kinds: &Kinds, layer: usize) -> bool {
    let mut first = 0;
    for (kinds, times) in kinds {
        if layer - first < kinds.len() * times {
            return kinds[(layer - first) % kinds.len()];
        }
        first += kinds.len() * times;
    }
    false
}
