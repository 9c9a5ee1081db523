//! GPT-J: neighbouring elements of a part of each head are turned, attention and MLP side by side behind one norm, a bias on
//! the head.
//!
//! Wang and Komatsuzaki 2021, "GPT-J-6B". The network is [`classic`](super::classic)'s.

use serde::Deserialize;

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::kernels::{Order, Pairing};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gptj",
    class: "GPTJForCausalLM",
    models: "GPT-J 6B, Dolly v1, GPT4All-J, Pygmalion 6B",
    check: |config| design(config).map(drop),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Deserialize)]
#[serde(default)]
struct GptjConfig {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    /// Elements of a head that are turned, the first ones.
    rotary_dim: Option<usize>,
    /// `4 · n_embd` where it is null.
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f32,
    tie_word_embeddings: bool,
}

impl Default for GptjConfig {
    fn default() -> Self {
        GptjConfig {
            vocab_size: 50400,
            n_positions: 2048,
            n_embd: 4096,
            n_layer: 28,
            n_head: 16,
            rotary_dim: Some(64),
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: false,
        }
    }
}

/// Other architectures' names for the same fields, which transformers takes too.
const ALIASES: &[(&str, &str)] = &[
    ("max_position_embeddings", "n_positions"),
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
];

const NAMES: Names = Names {
    prefixes: &["transformer", ""],
    embedding: "wte",
    embedding_norm: None,
    layers: "h",
    final_norm: Some("ln_f"),
    heads: &["lm_head"],
    attention_norm: "ln_1",
    attention: "attn",
    qkv: &["q_proj", "k_proj", "v_proj"],
    attention_out: "attn.out_proj",
    mlp_norm: None,
    mlp_in: &["mlp.fc_in"],
    mlp_out: "mlp.fc_out",
    ignored: &["bias", "masked_bias"],
};

fn design(config: &Config) -> Result<Design> {
    let config = &config.renamed(ALIASES)?;
    let c: GptjConfig = config.fields()?;
    let n_inner = c.n_inner.unwrap_or(c.n_embd.saturating_mul(4));
    checks::sizes(
        config,
        &[("vocab_size", c.vocab_size), ("n_embd", c.n_embd), ("n_layer", c.n_layer), ("n_inner", n_inner)],
    )?;
    checks::positions(config, "n_positions", c.n_positions)?;
    checks::epsilon(config, "layer_norm_epsilon", c.layer_norm_epsilon)?;
    checks::quantization(config)?;
    let n_head = ("n_head", c.n_head);
    let heads = checks::heads(config, ("n_embd", c.n_embd), n_head, n_head)?;
    let Some(rotary_dim) = c.rotary_dim else {
        return Err(config.unsupported("`rotary_dim` of null is not supported"));
    };
    if rotary_dim == 0 || rotary_dim > heads.head_dim || !rotary_dim.is_multiple_of(2) {
        return Err(config.wrong(format!(
            "expected an even `rotary_dim` up to the {} numbers of a head, found {rotary_dim}",
            heads.head_dim
        )));
    }
    let rotation = rope::plain(rotary_dim);
    Ok(Design {
        names: NAMES,
        vocab_size: c.vocab_size,
        embedding_size: c.n_embd,
        hidden_size: c.n_embd,
        intermediate_size: n_inner,
        n_layers: c.n_layer,
        context: c.n_positions,
        heads,
        order: Order::Parts,
        head_norms: HeadNorms::None,
        window: Box::new(|_| None),
        positions: Positions::Rotary(rotation, Pairing::Neighbours),
        flow: Flow::Parallel,
        activation: checks::activation(config, "activation_function", &c.activation_function)?,
        norms: Norms { epsilon: c.layer_norm_epsilon, learned: true },
        biases: Biases { qkv: Bias::Without, attention_out: Bias::Without, mlp: Bias::With, head: Bias::With },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
