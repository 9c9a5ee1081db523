//! GPT-2 and DistilGPT-2: learned positions, pre-norm blocks, one fused projection for q, k and v.
//!
//! Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Tensors are named as on the Hub, with or
//! without the prefix `transformer.`; linear weights are `Conv1D`, stored (inputs, outputs).

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::head::embedding_and_head;
use super::{Architecture, Config, Model, Shape, checks};
use crate::error::Result;
use crate::kernels::Heads;
use crate::nn::{Activation, Attention, Batch, Before, Embedding, Linear, Norm, add};
use crate::weights::Weights;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    models: "GPT-2 (124M, 355M, 774M, 1.5B), DistilGPT-2, ember",
    check: |config| {
        let c: Gpt2Config = config.renamed(ALIASES)?.fields()?;
        check(&c, config).map(drop)
    },
    complete: |config| Ok(config.renamed(ALIASES)?.completed(Gpt2Config::default()).json),
    load: |config, weights| Ok(Box::new(Gpt2::load(config, weights)?)),
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Gpt2Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f32,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    tie_word_embeddings: bool,
    add_cross_attention: bool,
}

/// Other architectures' names for the same fields, which transformers takes too.
const ALIASES: &[(&str, &str)] = &[
    ("max_position_embeddings", "n_positions"),
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
];

impl Default for Gpt2Config {
    fn default() -> Self {
        Gpt2Config {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            add_cross_attention: false,
        }
    }
}

struct Gpt2 {
    shape: Shape,
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: Norm,
    lm_head: Linear,
}

struct Block {
    ln_1: Norm,
    c_attn: Linear,
    attention: Attention,
    attn_c_proj: Linear,
    ln_2: Norm,
    c_fc: Linear,
    activation: Activation,
    mlp_c_proj: Linear,
}

impl Gpt2 {
    fn load(config: &Config, weights: &Weights) -> Result<Gpt2> {
        let c: Gpt2Config = config.renamed(ALIASES)?.fields()?;
        let activation = check(&c, config)?;
        let prefixed = weights.at("transformer");
        let w = if prefixed.at("wpe.weight").exists() { &prefixed } else { weights };

        let (table, dims) = (w.at("wte"), (c.vocab_size, c.n_embd));
        let (wte, lm_head) = embedding_and_head(weights, &table, dims, c.tie_word_embeddings)?;
        let wpe = Embedding::load(&w.at("wpe"), c.n_positions, c.n_embd)?;
        let h = (0..c.n_layer)
            .map(|layer| Block::load(&c, activation, &w.at(&format!("h.{layer}")), layer))
            .collect::<Result<_>>()?;
        let ln_f = Norm::layer(&w.at("ln_f"), c.n_embd, c.layer_norm_epsilon)?;
        let shape = Shape {
            vocab_size: c.vocab_size,
            context: c.n_positions,
            border: None,
            experts: None,
            n_layers: c.n_layer,
            kv_width: c.n_embd,
            q_width: c.n_embd,
        };
        Ok(Gpt2 { shape, wte, wpe, h, ln_f, lm_head })
    }
}

/// Refuses what cannot be or is not supported; the non-linearity of what is.
fn check(c: &Gpt2Config, config: &Config) -> Result<Activation> {
    if c.add_cross_attention {
        return Err(config.unsupported("`add_cross_attention` is not supported"));
    }
    checks::sizes(
        config,
        &[
            ("vocab_size", c.vocab_size),
            ("n_embd", c.n_embd),
            ("n_layer", c.n_layer),
            ("n_head", c.n_head),
            ("n_inner", c.n_inner.unwrap_or(1)),
        ],
    )?;
    checks::positions(config, "n_positions", c.n_positions)?;
    checks::epsilon(config, "layer_norm_epsilon", c.layer_norm_epsilon)?;
    checks::quantization(config)?;
    let n_head = ("n_head", c.n_head);
    checks::heads(config, ("n_embd", c.n_embd), n_head, n_head)?;
    checks::activation(config, "activation_function", &c.activation_function)
}

impl Block {
    fn load(c: &Gpt2Config, activation: Activation, w: &Weights, layer: usize) -> Result<Block> {
        let (n_embd, eps) = (c.n_embd, c.layer_norm_epsilon);
        let n_inner = c.n_inner.unwrap_or(4 * n_embd);
        let head_dim = n_embd / c.n_head;
        let mut scale = if c.scale_attn_weights { (head_dim as f32).sqrt().recip() } else { 1.0 };
        if c.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        // Causal masks that older checkpoints store; ours is the loop bound.
        w.at("attn.bias").ignore();
        w.at("attn.masked_bias").ignore();
        Ok(Block {
            ln_1: Norm::layer(&w.at("ln_1"), n_embd, eps)?,
            c_attn: Linear::conv1d(&w.at("attn.c_attn"), n_embd, 3 * n_embd)?,
            attention: Attention::new(Heads { n_heads: c.n_head, n_kv_heads: c.n_head, head_dim, scale }, w.compute()),
            attn_c_proj: Linear::conv1d(&w.at("attn.c_proj"), n_embd, n_embd)?,
            ln_2: Norm::layer(&w.at("ln_2"), n_embd, eps)?,
            c_fc: Linear::conv1d(&w.at("mlp.c_fc"), n_embd, n_inner)?,
            activation,
            mlp_c_proj: Linear::conv1d(&w.at("mlp.c_proj"), n_inner, n_embd)?,
        })
    }

    /// (tokens, n_embd) → (tokens, n_embd), of the last layer (wanted, n_embd)
    fn forward(&self, x: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let qkv = self.c_attn.forward(x, Before::Norm(&self.ln_1), None)?; // (tokens, 3 · n_embd)
        let attended = self.attention.forward(&qkv, batch, layer)?;
        let x = self.attn_c_proj.forward(&attended, Before::Nothing, Some(&batch.onward(x, layer)?))?;
        let inner = self.c_fc.forward(&x, Before::Norm(&self.ln_2), None)?; // (tokens, n_inner)
        self.mlp_c_proj.forward(&inner, Before::Activation(self.activation), Some(&x))
    }
}

impl Model for Gpt2 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn forward(&self, batch: &mut Batch) -> Result<Tensor> {
        let mut x = add(&self.wte.forward(batch.tokens())?, &self.wpe.forward(batch.positions())?)?;
        for (layer, block) in self.h.iter().enumerate() {
            x = block.forward(&x, batch, layer)?;
        }
        self.lm_head.forward(&x, Before::Norm(&self.ln_f), None)
    }
}
