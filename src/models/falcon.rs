//! Falcon: attention and MLP side by side, few heads of keys and values, one fused matrix in which each of them follows its
//! queries. The first ones (RW) are serial, and their scores fall with the distance.
//!
//! Almazrouei et al. 2023, "The Falcon Series of Open Language Models". The network is [`classic`](super::classic)'s.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::kernels::{Pairing, Steps};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "falcon",
    class: "FalconForCausalLM",
    models: "Falcon (7B, 40B, 180B), Falcon 2 11B, Falcon RW",
    check: |config| design(config).map(drop),
    complete,
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`].
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct FalconConfig {
    vocab_size: usize,
    hidden_size: usize,
    /// The older name of `hidden_size`, which counts before it.
    n_embed: Option<usize>,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// Norms of a layer of the new architecture, 2 where it is null.
    num_ln_in_parallel_attn: Option<usize>,
    layer_norm_epsilon: f32,
    /// Of the new architecture; as many as `num_attention_heads` where it is null.
    num_kv_heads: Option<usize>,
    /// Whether scores fall with the distance, instead of queries and keys being turned.
    alibi: bool,
    new_decoder_architecture: bool,
    /// Whether there is one head of keys and values; of the older architecture.
    multi_query: bool,
    /// Whether attention and MLP are side by side; in the new architecture they always are.
    parallel_attn: bool,
    /// Of all matrices of the layers.
    bias: bool,
    max_position_embeddings: usize,
    /// `4 · hidden_size` where it is null.
    ffn_hidden_size: Option<usize>,
    activation: String,
    tie_word_embeddings: bool,
}

impl Default for FalconConfig {
    fn default() -> Self {
        FalconConfig {
            vocab_size: 65024,
            hidden_size: 4544,
            n_embed: None,
            num_hidden_layers: 32,
            num_attention_heads: 71,
            num_ln_in_parallel_attn: None,
            layer_norm_epsilon: 1e-5,
            num_kv_heads: None,
            alibi: false,
            new_decoder_architecture: false,
            multi_query: true,
            parallel_attn: true,
            bias: false,
            max_position_embeddings: 2048,
            ffn_hidden_size: None,
            activation: "gelu".to_owned(),
            tie_word_embeddings: true,
        }
    }
}

const NAMES: Names = Names {
    prefixes: &["transformer", ""],
    embedding: "word_embeddings",
    embedding_norm: None,
    layers: "h",
    final_norm: Some("ln_f"),
    heads: &["lm_head"],
    attention_norm: "input_layernorm",
    attention: "self_attention",
    qkv: &["query_key_value"],
    attention_out: "self_attention.dense",
    mlp_norm: None,
    mlp_in: &["mlp.dense_h_to_4h"],
    mlp_out: "mlp.dense_4h_to_h",
    ignored: &["rotary_emb.inv_freq", "maybe_rotary.inv_freq"],
};

fn design(config: &Config) -> Result<Design> {
    let c: FalconConfig = config.fields()?;
    let hidden_size = c.n_embed.unwrap_or(c.hidden_size);
    let ffn_hidden_size = c.ffn_hidden_size.unwrap_or(hidden_size.saturating_mul(4));
    checks::sizes(
        config,
        &[
            ("vocab_size", c.vocab_size),
            ("hidden_size", hidden_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("num_attention_heads", c.num_attention_heads),
            ("ffn_hidden_size", ffn_hidden_size),
        ],
    )?;
    checks::positions(config, "max_position_embeddings", c.max_position_embeddings)?;
    checks::epsilon(config, "layer_norm_epsilon", c.layer_norm_epsilon)?;
    checks::quantization(config)?;
    let n_kv_heads = c.n_kv_heads(config)?;
    let n_heads = ("num_attention_heads", c.num_attention_heads);
    let heads = checks::heads(config, ("hidden_size", hidden_size), n_heads, ("num_kv_heads", n_kv_heads))?;
    let (flow, attention_norm, mlp_norm) = c.flow(config)?;
    let positions = match c.alibi {
        true => Positions::Alibi { scale: heads.scale, steps: Steps::Bf16 },
        false => {
            let rotation = rope::whole(config, heads.head_dim, c.max_position_embeddings)?;
            Positions::Rotary(rotation, Pairing::Halves)
        }
    };
    let bias = if c.bias { Bias::With } else { Bias::Without };
    Ok(Design {
        names: Names { attention_norm, mlp_norm, ..NAMES },
        vocab_size: c.vocab_size,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: ffn_hidden_size,
        n_layers: c.num_hidden_layers,
        context: c.max_position_embeddings,
        heads,
        order: checks::qkv_order(config),
        head_norms: HeadNorms::None,
        window: Box::new(|_| None),
        positions,
        flow,
        activation: checks::activation(config, "activation", &c.activation)?,
        norms: Norms { epsilon: c.layer_norm_epsilon, learned: true },
        biases: Biases { qkv: bias, attention_out: bias, mlp: bias, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}

/// With the numbers of heads and norms that follow from the flags.
fn complete(config: &Config) -> Result<Value> {
    let config = config.with_older("n_embed", "hidden_size").completed(FalconConfig::default());
    let c: FalconConfig = config.fields()?;
    let mut json = rope::explicit(&config, 1.0)?;
    let norms = c.num_ln_in_parallel_attn.unwrap_or(if c.new_decoder_architecture { 2 } else { 1 });
    json["num_kv_heads"] = json!(c.n_kv_heads(&config)?);
    json["num_ln_in_parallel_attn"] = json!(norms);
    json["ffn_hidden_size"] = json!(c.ffn_hidden_size.unwrap_or(c.hidden_size.saturating_mul(4)));
    Ok(json)
}

impl FalconConfig {
    fn n_kv_heads(&self, config: &Config) -> Result<usize> {
        let n_heads = self.num_attention_heads;
        match (self.new_decoder_architecture, self.multi_query, self.num_kv_heads) {
            (true, _, given) => Ok(given.unwrap_or(n_heads)),
            (false, true, _) => Ok(1),
            (false, false, Some(given)) if given != n_heads => Err(config.wrong(format!(
                "expected `num_kv_heads` of {n_heads} without `new_decoder_architecture` and `multi_query`, found {given}"
            ))),
            (false, false, _) => Ok(n_heads),
        }
    }

    /// The flow, and the names of the norms in front of attention and of the MLP.
    fn flow(&self, config: &Config) -> Result<(Flow, &'static str, Option<&'static str>)> {
        match (self.new_decoder_architecture, self.parallel_attn, self.num_ln_in_parallel_attn) {
            (true, true, None | Some(2)) => Ok((Flow::Parallel, "ln_attn", Some("ln_mlp"))),
            (_, true, None | Some(1)) => Ok((Flow::Parallel, "input_layernorm", None)),
            (false, false, _) => Ok((Flow::Serial, "input_layernorm", Some("post_attention_layernorm"))),
            (true, false, _) => {
                Err(config.unsupported("`parallel_attn` of false is not supported with `new_decoder_architecture`"))
            }
            (is_new, true, Some(norms)) => Err(config.unsupported(format!(
                "`num_ln_in_parallel_attn` of {norms} is not supported, only 1{} is",
                if is_new { " or 2" } else { " without `new_decoder_architecture`" }
            ))),
        }
    }
}
