//! OPT: learned positions, of whose table the first two rows are none; the size of 350M has its norms last and a narrower
//! vocabulary table.
//!
//! Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models". The network is [`classic`](super::classic)'s.

use serde::{Deserialize, Serialize};

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks};
use crate::error::Result;
use crate::kernels::Order;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "opt",
    class: "OPTForCausalLM",
    models: "OPT (125M to 66B), Galactica",
    check: |config| design(config).map(drop),
    complete: |config| Ok(config.completed(OptConfig::default()).json),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct OptConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    ffn_dim: usize,
    max_position_embeddings: usize,
    do_layer_norm_before: bool,
    _remove_final_layer_norm: bool,
    /// `hidden_size` where it is null.
    word_embed_proj_dim: Option<usize>,
    num_attention_heads: usize,
    activation_function: String,
    /// Of all matrices of the layers.
    enable_bias: bool,
    /// Whether norms have weights and biases.
    layer_norm_elementwise_affine: bool,
    tie_word_embeddings: bool,
}

impl Default for OptConfig {
    fn default() -> Self {
        OptConfig {
            vocab_size: 50272,
            hidden_size: 768,
            num_hidden_layers: 12,
            ffn_dim: 3072,
            max_position_embeddings: 2048,
            do_layer_norm_before: true,
            _remove_final_layer_norm: false,
            word_embed_proj_dim: None,
            num_attention_heads: 12,
            activation_function: "relu".to_owned(),
            enable_bias: true,
            layer_norm_elementwise_affine: true,
            tie_word_embeddings: true,
        }
    }
}

const NAMES: Names = Names {
    prefixes: &["model.decoder", "decoder", ""],
    embedding: "embed_tokens",
    embedding_norm: None,
    layers: "layers",
    final_norm: Some("final_layer_norm"),
    heads: &["lm_head"],
    attention_norm: "self_attn_layer_norm",
    attention: "self_attn",
    qkv: &["q_proj", "k_proj", "v_proj"],
    attention_out: "self_attn.out_proj",
    mlp_norm: Some("final_layer_norm"),
    mlp_in: &["fc1"],
    mlp_out: "fc2",
    ignored: &[],
};

fn design(config: &Config) -> Result<Design> {
    let c: OptConfig = config.fields()?;
    let embedding_size = c.word_embed_proj_dim.unwrap_or(c.hidden_size);
    checks::sizes(
        config,
        &[
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("ffn_dim", c.ffn_dim),
            ("word_embed_proj_dim", embedding_size),
        ],
    )?;
    checks::positions(config, "max_position_embeddings", c.max_position_embeddings)?;
    checks::quantization(config)?;
    let n_heads = ("num_attention_heads", c.num_attention_heads);
    let heads = checks::heads(config, ("hidden_size", c.hidden_size), n_heads, n_heads)?;
    let has_final_norm = c.do_layer_norm_before && !c._remove_final_layer_norm;
    let bias = if c.enable_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        names: Names { final_norm: NAMES.final_norm.filter(|_| has_final_norm), ..NAMES },
        vocab_size: c.vocab_size,
        embedding_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.ffn_dim,
        n_layers: c.num_hidden_layers,
        context: c.max_position_embeddings,
        heads,
        order: Order::Parts,
        head_norms: HeadNorms::None,
        window: Box::new(|_| None),
        positions: Positions::Learned { table: "embed_positions", offset: 2 },
        flow: if c.do_layer_norm_before { Flow::Serial } else { Flow::NormsLast },
        activation: checks::activation(config, "activation_function", &c.activation_function)?,
        norms: Norms { epsilon: 1e-5, learned: c.layer_norm_elementwise_affine }, // torch's default
        biases: Biases { qkv: bias, attention_out: bias, mlp: bias, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
