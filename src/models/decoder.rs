//! The network that Llama, Mistral and Qwen share: RMS norms in front of each half of a block, rotary positions, key heads
//! that serve groups of query heads, a gated MLP, no biases but where an architecture says so.
//!
//! Touvron et al. 2023, "LLaMA". What config.json may say, and what it means, is in each architecture's own file: it makes
//! a [`Design`] of it.

use candle_core::Tensor;

use super::head::embedding_and_head;
use super::{Config, Model, Shape, rope};
use crate::error::{Result, quote};
use crate::kernels::Heads;
use crate::nn::{Activation, Attention, Batch, Before, Bias, Embedding, Linear, Norm, Rope};
use crate::weights::Weights;

/// A network of this kind, by config.json's names.
pub(super) struct Design {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: usize,
    /// `hidden_size / num_attention_heads` where it is not given.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) hidden_act: String,
    pub(super) rms_norm_eps: f32,
    pub(super) tie_word_embeddings: bool,
    /// Of `q_proj`, `k_proj` and `v_proj`.
    pub(super) qkv_bias: Bias,
    /// Of `o_proj`.
    pub(super) output_bias: Bias,
    /// Of `gate_proj`, `up_proj` and `down_proj`.
    pub(super) mlp_bias: Bias,
    /// Whether queries and keys have norms, `q_norm` and `k_norm`.
    pub(super) head_norms: bool,
    /// How many tokens each token of a layer sees, itself included, where that is bounded.
    pub(super) window: Box<dyn Fn(usize) -> Option<usize>>,
}

/// Weights of the network.
pub(super) struct Decoder {
    shape: Shape,
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: Norm,
    lm_head: Linear,
}

struct Block {
    input_layernorm: Norm,
    qkv_proj: Linear,
    attention: Attention,
    o_proj: Linear,
    post_attention_layernorm: Norm,
    gate_up_proj: Linear,
    activation: Activation,
    down_proj: Linear,
}

impl Decoder {
    /// Reads the weights of a design that came from `config`.
    pub(super) fn load(d: &Design, config: &Config, weights: &Weights) -> Result<Box<dyn Model>> {
        let (heads, activation, frequencies) = d.check(config)?;
        let rope = Rope::new(frequencies, rope::pairing(config), 1.0, d.max_position_embeddings);
        let prefixed = weights.at("model");
        let w = if prefixed.at("norm.weight").exists() { &prefixed } else { weights };
        let (table, dims) = (w.at("embed_tokens"), (d.vocab_size, d.hidden_size));
        let (embed_tokens, lm_head) = embedding_and_head(weights, &table, dims, d.tie_word_embeddings)?;
        let layers = (0..d.num_hidden_layers)
            .map(|layer| Block::load(d, &w.at(&format!("layers.{layer}")), heads, &rope, activation, layer))
            .collect::<Result<_>>()?;
        let norm = Norm::rms(&w.at("norm"), d.hidden_size, d.rms_norm_eps)?;
        let shape = Shape {
            vocab_size: d.vocab_size,
            context: d.max_position_embeddings,
            n_layers: d.num_hidden_layers,
            kv_width: heads.n_kv_heads * heads.head_dim,
            q_width: heads.n_heads * heads.head_dim,
        };
        Ok(Box::new(Decoder { shape, embed_tokens, layers, norm, lm_head }))
    }
}

impl Design {
    /// What follows from the config, unless something in it cannot be.
    pub(super) fn check(&self, config: &Config) -> Result<(Heads, Activation, Vec<f32>)> {
        // f32 counts positions one by one up to here.
        const MOST_POSITIONS: usize = 1 << 24;
        const MOST: usize = u32::MAX as usize;
        for (name, value, most) in [
            ("vocab_size", self.vocab_size, MOST),
            ("hidden_size", self.hidden_size, MOST),
            ("intermediate_size", self.intermediate_size, MOST),
            ("num_hidden_layers", self.num_hidden_layers, MOST),
            ("num_attention_heads", self.num_attention_heads, MOST),
            ("num_key_value_heads", self.num_key_value_heads, MOST),
            ("head_dim", self.head_dim.unwrap_or(1), MOST),
            ("max_position_embeddings", self.max_position_embeddings, MOST_POSITIONS),
        ] {
            if value == 0 || value > most {
                return Err(config.wrong(format!("expected `{name}` from 1 to {most}, found {value}")));
            }
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return Err(config.wrong(format!("expected `rms_norm_eps` of at least 0, found {}", self.rms_norm_eps)));
        }
        if !config.json["quantization_config"].is_null() {
            let method = config.json["quantization_config"]["quant_method"].as_str().unwrap_or("not stated");
            return Err(
                config.unsupported(format!("`quantization_config` is not supported (method {})", quote(method)))
            );
        }
        let (heads, activation) = (self.heads(config)?, self.activation(config)?);
        Ok((heads, activation, rope::frequencies(config, heads.head_dim, self.max_position_embeddings)?))
    }

    fn heads(&self, config: &Config) -> Result<Heads> {
        let (n_heads, n_kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let multiple = |name: &str, value: usize, of: &str, unit: usize| match value.is_multiple_of(unit) {
            true => Ok(value / unit),
            false => {
                Err(config.wrong(format!("expected `{name}` to be a multiple of `{of}`, found {value} and {unit}")))
            }
        };
        multiple("num_attention_heads", n_heads, "num_key_value_heads", n_kv_heads)?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None => multiple("hidden_size", self.hidden_size, "num_attention_heads", n_heads)?,
        };
        // The largest of a published model is 512; a damaged file may not ask for gigabytes of frequencies.
        const MOST_HEAD_DIM: usize = 1 << 16;
        if head_dim > MOST_HEAD_DIM {
            return Err(config.wrong(format!("expected heads of at most {MOST_HEAD_DIM} numbers, found {head_dim}")));
        }
        Ok(Heads { n_heads, n_kv_heads, head_dim, scale: (head_dim as f32).sqrt().recip() })
    }

    fn activation(&self, config: &Config) -> Result<Activation> {
        Activation::named(&self.hidden_act).ok_or_else(|| {
            let known: Vec<&str> = Activation::names().collect();
            let found = quote(&self.hidden_act);
            config.unsupported(format!("expected a `hidden_act` among {}, found {found}", known.join(", ")))
        })
    }
}

impl Block {
    fn load(d: &Design, w: &Weights, heads: Heads, rope: &Rope, activation: Activation, layer: usize) -> Result<Block> {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = heads;
        let (hidden, inner, eps) = (d.hidden_size, d.intermediate_size, d.rms_norm_eps);
        let (attn, mlp) = (w.at("self_attn"), w.at("mlp"));
        // Frequencies that older checkpoints store; ours follow from config.json, as transformers' do.
        attn.at("rotary_emb.inv_freq").ignore();
        let part = |place: &Weights, name: &str, outputs: usize| (place.at(name), outputs);
        let qkv = [
            part(&attn, "q_proj", n_heads * head_dim),
            part(&attn, "k_proj", n_kv_heads * head_dim),
            part(&attn, "v_proj", n_kv_heads * head_dim),
        ];
        let mut attention = Attention::new(heads, w.compute()).with_window((d.window)(layer)).with_rope(rope);
        if d.head_norms {
            attention = attention.with_norms(&attn.at("q_norm"), &attn.at("k_norm"), eps)?;
        }
        Ok(Block {
            input_layernorm: Norm::rms(&w.at("input_layernorm"), hidden, eps)?,
            qkv_proj: Linear::side_by_side(&qkv, hidden, d.qkv_bias)?,
            attention,
            o_proj: Linear::side_by_side(&[part(&attn, "o_proj", hidden)], n_heads * head_dim, d.output_bias)?,
            post_attention_layernorm: Norm::rms(&w.at("post_attention_layernorm"), hidden, eps)?,
            gate_up_proj: Linear::side_by_side(
                &[part(&mlp, "gate_proj", inner), part(&mlp, "up_proj", inner)],
                hidden,
                d.mlp_bias,
            )?,
            activation,
            down_proj: Linear::side_by_side(&[part(&mlp, "down_proj", hidden)], inner, d.mlp_bias)?,
        })
    }

    /// (tokens, hidden_size) → (tokens, hidden_size)
    fn forward(&self, x: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward(x, Before::Norm(&self.input_layernorm), None)?;
        let attended = self.attention.forward(&qkv, batch, layer)?; // (tokens, n_heads · head_dim)
        let x = self.o_proj.forward(&attended, Before::Nothing, Some(x))?;
        let inner = self.gate_up_proj.forward(&x, Before::Norm(&self.post_attention_layernorm), None)?;
        self.down_proj.forward(&inner, Before::Gated(self.activation), Some(&x)) // inner: (tokens, 2 · intermediate_size)
    }
}

impl Model for Decoder {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn forward(&self, batch: &mut Batch) -> Result<Tensor> {
        let mut x = self.embed_tokens.forward(batch.tokens())?;
        for (layer, block) in self.layers.iter().enumerate() {
            x = block.forward(&x, batch, layer)?;
        }
        let x = batch.select(&x)?; // (wanted, hidden_size)
        self.lm_head.forward(&x, Before::Norm(&self.norm), None)
    }
}
