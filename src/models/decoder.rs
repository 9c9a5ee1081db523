//! The network of Llama and its relatives: RMS norms, rotary positions, key heads that serve groups of query heads, a gated
//! MLP or experts with one each.
//!
//! Touvron et al. 2023, "LLaMA". What config.json may say, and what it means, is in each architecture's own file: it makes
//! a [`Design`] of it. What a design does not mention is as in Llama.

use candle_core::Tensor;

use super::head::embedding_and_head;
use super::rope::{self, Rotation};
use super::{Config, Model, Shape, checks};
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::Heads;
use crate::nn::{
    Activation, Attention, Batch, Before, Bias, Embedding, Expert, Experts, Linear, Norm, Rope, Routing, add, bounded,
    scaled,
};
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
    /// Whether matrices with one input are one tensor each: `qkv_proj` and `gate_up_proj`.
    pub(super) fused: bool,
    pub(super) norms: Norms,
    /// What is added to all norms' weights, which may be stored less 1.
    pub(super) norm_centre: f32,
    pub(super) head_norms: HeadNorms,
    /// What scores of attention are multiplied by; `1 / √head_dim` where it is not given.
    pub(super) score_scale: Option<f32>,
    /// What keeps scores of attention, and logits, small.
    pub(super) score_cap: Option<f32>,
    pub(super) logit_cap: Option<f32>,
    /// What embeddings, what each half of a block adds, and logits are multiplied by.
    pub(super) embedding_scale: f32,
    pub(super) residual_scale: f32,
    pub(super) logit_scale: f32,
    /// How many tokens each token of a layer sees, itself included, where that is bounded.
    pub(super) window: Box<dyn Fn(usize) -> Option<usize>>,
    /// How heads are turned; as config.json says for all layers where there is none.
    pub(super) rotations: Vec<Rotation>,
    /// Which of those turns a layer, if any does.
    pub(super) rotation: Box<dyn Fn(usize) -> Option<usize>>,
    /// What a layer has instead of an MLP.
    pub(super) experts: Box<dyn Fn(usize) -> Option<Mixture>>,
}

/// Where a block has norms, and what they are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norms {
    /// Before each half: `input_layernorm`, `post_attention_layernorm`.
    Before,
    /// Behind each half, before its sum with the stream: `post_attention_layernorm`, `post_feedforward_layernorm`.
    Behind,
    /// Both: `input_layernorm`, `post_attention_layernorm`, `pre_feedforward_layernorm`, `post_feedforward_layernorm`.
    Around,
}

/// Norms of queries and keys, `q_norm` and `k_norm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadNorms {
    /// None.
    Without,
    /// Of each head by itself.
    Each,
    /// Of all heads' numbers together.
    Together,
}

/// Experts of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixture {
    pub(super) experts: usize,
    /// The width inside an expert.
    pub(super) inner: usize,
    pub(super) routing: Routing,
    /// Names of the block, and of an expert's gate, up and down.
    pub(super) names: (&'static str, [&'static str; 3]),
}

impl Default for Design {
    fn default() -> Self {
        Design {
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: None,
            max_position_embeddings: 0,
            hidden_act: "silu".to_owned(),
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            qkv_bias: Bias::Without,
            output_bias: Bias::Without,
            mlp_bias: Bias::Without,
            fused: false,
            norms: Norms::Before,
            norm_centre: 0.0,
            head_norms: HeadNorms::Without,
            score_scale: None,
            score_cap: None,
            logit_cap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            window: Box::new(|_| None),
            rotations: Vec::new(),
            rotation: Box::new(|_| Some(0)),
            experts: Box::new(|_| None),
        }
    }
}

/// What Gemma adds to its norms' weights, unless the file has it in them, as GGUF files have.
pub(super) fn norm_centre(config: &Config) -> f32 {
    config.json["_norm_centre"].as_f64().map_or(1.0, |centre| centre as f32)
}

/// Weights of the network.
pub(super) struct Decoder {
    shape: Shape,
    embed_tokens: Embedding,
    embedding_scale: f32,
    layers: Vec<Block>,
    norm: Norm,
    lm_head: Linear,
    logit_scale: f32,
    logit_cap: Option<f32>,
    compute: Compute,
}

struct Block {
    /// Before each half.
    norms: [Option<Norm>; 2],
    qkv_proj: Linear,
    /// Of queries and of keys, all heads together.
    wide_norms: Option<(Norm, Norm)>,
    attention: Attention,
    o_proj: Linear,
    feed_forward: FeedForward,
    /// Behind each half.
    joins: [Join; 2],
}

enum FeedForward {
    Mlp { gate_up_proj: Linear, activation: Activation, down_proj: Linear },
    Experts(Experts),
}

/// How what half a block computes becomes part of the stream.
enum Join {
    Added,
    Normed(Norm),
    Scaled(f32),
}

impl Decoder {
    /// Reads the weights of a design that came from `config`.
    pub(super) fn load(d: &Design, config: &Config, weights: &Weights) -> Result<Box<dyn Model>> {
        let (heads, activation, rotations) = d.check(config)?;
        let rotations = if d.rotations.is_empty() { &rotations } else { &d.rotations };
        let ropes: Vec<Rope> =
            rotations.iter().map(|rotation| rotation.rope(rope::pairing(config), d.max_position_embeddings)).collect();
        let prefixed = weights.at("model");
        let w = if prefixed.at("norm.weight").exists() { &prefixed } else { weights };
        let (table, dims) = (w.at("embed_tokens"), (d.vocab_size, d.hidden_size));
        let (embed_tokens, lm_head) = embedding_and_head(weights, &table, dims, d.tie_word_embeddings)?;
        let layers = (0..d.num_hidden_layers)
            .map(|layer| Block::load(d, &w.at(&format!("layers.{layer}")), heads, &ropes, activation, layer))
            .collect::<Result<_>>()?;
        let norm = d.norm(&w.at("norm"), d.hidden_size)?;
        let shape = Shape {
            vocab_size: d.vocab_size,
            context: d.max_position_embeddings,
            border: rotations.iter().find_map(|rotation| rotation.long.as_ref().map(|(most, _)| *most)),
            experts: (0..d.num_hidden_layers)
                .find_map(&d.experts)
                .map(|mixture| (mixture.routing.per_token, mixture.experts)),
            n_layers: d.num_hidden_layers,
            kv_width: heads.n_kv_heads * heads.head_dim,
            q_width: heads.n_heads * heads.head_dim,
        };
        Ok(Box::new(Decoder {
            shape,
            embed_tokens,
            embedding_scale: d.embedding_scale,
            layers,
            norm,
            lm_head,
            logit_scale: d.logit_scale,
            logit_cap: d.logit_cap,
            compute: weights.compute().clone(),
        }))
    }
}

impl Design {
    /// What follows from the config, unless something in it cannot be.
    pub(super) fn check(&self, config: &Config) -> Result<(Heads, Activation, Vec<Rotation>)> {
        checks::sizes(
            config,
            &[
                ("vocab_size", self.vocab_size),
                ("hidden_size", self.hidden_size),
                ("intermediate_size", self.intermediate_size),
                ("num_hidden_layers", self.num_hidden_layers),
                ("num_attention_heads", self.num_attention_heads),
                ("num_key_value_heads", self.num_key_value_heads),
                ("head_dim", self.head_dim.unwrap_or(1)),
            ],
        )?;
        checks::positions(config, "max_position_embeddings", self.max_position_embeddings)?;
        checks::epsilon(config, "rms_norm_eps", self.rms_norm_eps)?;
        checks::quantization(config)?;
        let heads = self.heads(config)?;
        let activation = checks::activation(config, "hidden_act", &self.hidden_act)?;
        let rotations = match self.rotations.is_empty() {
            true => vec![rope::whole(config, heads.head_dim, self.max_position_embeddings)?],
            false => Vec::new(),
        };
        Ok((heads, activation, rotations))
    }

    /// Numbers of a head, before anything is checked.
    pub(super) fn head_dim(&self) -> usize {
        self.head_dim.or_else(|| self.hidden_size.checked_div(self.num_attention_heads)).unwrap_or(0)
    }

    /// A norm of rows of `dim` numbers.
    fn norm(&self, weights: &Weights, dim: usize) -> Result<Norm> {
        Norm::rms(weights, dim, self.rms_norm_eps, self.norm_centre)
    }

    fn heads(&self, config: &Config) -> Result<Heads> {
        let (n_heads, n_kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let width = self.head_dim.map_or(self.hidden_size, |head_dim| head_dim.saturating_mul(n_heads));
        let (n_heads, n_kv_heads) = (("num_attention_heads", n_heads), ("num_key_value_heads", n_kv_heads));
        let heads = checks::heads(config, ("hidden_size", width), n_heads, n_kv_heads)?;
        Ok(Heads { scale: self.score_scale.unwrap_or(heads.scale), ..heads })
    }
}

impl Block {
    fn load(
        d: &Design,
        w: &Weights,
        heads: Heads,
        ropes: &[Rope],
        activation: Activation,
        layer: usize,
    ) -> Result<Block> {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = heads;
        let (hidden, attn) = (d.hidden_size, w.at("self_attn"));
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        // Frequencies that older checkpoints store; ours follow from config.json, as transformers' do.
        attn.at("rotary_emb.inv_freq").ignore();
        let qkv = match d.fused {
            true => vec![(attn.at("qkv_proj"), q_width + 2 * kv_width)],
            false => [("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)]
                .map(|(name, outputs)| (attn.at(name), outputs))
                .to_vec(),
        };
        let mut attention = Attention::new(heads, w.compute()).with_window((d.window)(layer)).with_cap(d.score_cap);
        if let Some(rope) = (d.rotation)(layer).and_then(|rotation| ropes.get(rotation)) {
            attention = attention.with_rope(rope);
        }
        let (q_norm, k_norm) = (attn.at("q_norm"), attn.at("k_norm"));
        let mut wide_norms = None;
        match d.head_norms {
            HeadNorms::Without => {}
            HeadNorms::Each => attention = attention.with_norms(&q_norm, &k_norm, d.rms_norm_eps, d.norm_centre)?,
            HeadNorms::Together => wide_norms = Some((d.norm(&q_norm, q_width)?, d.norm(&k_norm, kv_width)?)),
        }
        let norm = |name: &str| d.norm(&w.at(name), hidden);
        let normed = |name: &str| Ok::<_, crate::Error>(Join::Normed(norm(name)?));
        let plain = || if d.residual_scale == 1.0 { Join::Added } else { Join::Scaled(d.residual_scale) };
        let (norms, joins) = match d.norms {
            Norms::Before => {
                ([Some(norm("input_layernorm")?), Some(norm("post_attention_layernorm")?)], [plain(), plain()])
            }
            Norms::Behind => {
                ([None, None], [normed("post_attention_layernorm")?, normed("post_feedforward_layernorm")?])
            }
            Norms::Around => (
                [Some(norm("input_layernorm")?), Some(norm("pre_feedforward_layernorm")?)],
                [normed("post_attention_layernorm")?, normed("post_feedforward_layernorm")?],
            ),
        };
        Ok(Block {
            norms,
            qkv_proj: Linear::side_by_side(&qkv, hidden, d.qkv_bias)?,
            wide_norms,
            attention,
            o_proj: Linear::side_by_side(&[(attn.at("o_proj"), hidden)], q_width, d.output_bias)?,
            feed_forward: match (d.experts)(layer) {
                Some(mixture) => FeedForward::Experts(mixture.load(w, hidden, activation)?),
                None => FeedForward::mlp(d, &w.at("mlp"), activation)?,
            },
            joins,
        })
    }

    /// (tokens, hidden_size) → (tokens, hidden_size), of the last layer (wanted, hidden_size)
    fn forward(&self, x: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let before = |half: usize| self.norms[half].as_ref().map_or(Before::Nothing, Before::Norm);
        let mut qkv = self.qkv_proj.forward(x, before(0), None)?;
        if let Some((queries, keys)) = &self.wide_norms {
            qkv = keys.forward_columns(&queries.forward_columns(&qkv, 0)?, queries.dim())?;
        }
        let attended = self.attention.forward(&qkv, batch, layer)?; // (tokens, n_heads · head_dim)
        let x = batch.onward(x, layer)?;
        let x = self.joins[0].join(&x, |residual| self.o_proj.forward(&attended, Before::Nothing, residual))?;
        match &self.feed_forward {
            FeedForward::Mlp { gate_up_proj, activation, down_proj } => {
                let inner = gate_up_proj.forward(&x, before(1), None)?; // (tokens, 2 · intermediate_size)
                self.joins[1].join(&x, |residual| down_proj.forward(&inner, Before::Gated(*activation), residual))
            }
            FeedForward::Experts(experts) => {
                let inner = match &self.norms[1] {
                    Some(norm) => norm.forward(&x)?,
                    None => x.clone(),
                };
                self.joins[1].join(&x, |residual| experts.forward(&inner, residual))
            }
        }
    }
}

impl Join {
    /// `x` and what `half` computes, which can add up itself.
    fn join(&self, x: &Tensor, half: impl Fn(Option<&Tensor>) -> Result<Tensor>) -> Result<Tensor> {
        match self {
            Join::Added => half(Some(x)),
            Join::Normed(norm) => add(x, &norm.forward(&half(None)?)?),
            Join::Scaled(factor) => add(x, &scaled(&half(None)?, *factor)?),
        }
    }
}

impl FeedForward {
    fn mlp(d: &Design, w: &Weights, activation: Activation) -> Result<FeedForward> {
        let (hidden, inner) = (d.hidden_size, d.intermediate_size);
        let gate_up = match d.fused {
            true => vec![(w.at("gate_up_proj"), 2 * inner)],
            false => vec![(w.at("gate_proj"), inner), (w.at("up_proj"), inner)],
        };
        Ok(FeedForward::Mlp {
            gate_up_proj: Linear::side_by_side(&gate_up, hidden, d.mlp_bias)?,
            activation,
            down_proj: Linear::side_by_side(&[(w.at("down_proj"), hidden)], inner, d.mlp_bias)?,
        })
    }
}

impl Mixture {
    /// Refuses numbers that cannot be, by their names in config.json.
    pub(super) fn check(&self, config: &Config, experts: &str, inner: &str) -> Result<()> {
        const MOST: usize = u32::MAX as usize;
        for (name, value, most) in [
            (experts, self.experts, MOST),
            (inner, self.inner, MOST),
            ("num_experts_per_tok", self.routing.per_token, self.experts),
        ] {
            if value == 0 || value > most {
                return Err(config.wrong(format!("expected `{name}` from 1 to {most}, found {value}")));
            }
        }
        Ok(())
    }

    fn load(&self, layer: &Weights, hidden: usize, activation: Activation) -> Result<Experts> {
        let (block, [gate, up, down]) = self.names;
        let w = layer.at(block);
        let expert = |number: usize| -> Result<Expert> {
            let w = w.at(&format!("experts.{number}"));
            let gate_up = [(w.at(gate), self.inner), (w.at(up), self.inner)];
            Ok(Expert {
                gate_up: Linear::side_by_side(&gate_up, hidden, Bias::Without)?,
                down: Linear::plain(&w.at(down), self.inner, hidden)?,
            })
        };
        let experts = (0..self.experts).map(expert).collect::<Result<_>>()?;
        Ok(Experts::new(self.routing, Linear::plain(&w.at("gate"), hidden, self.experts)?, experts, activation))
    }
}

impl Model for Decoder {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn forward(&self, batch: &mut Batch) -> Result<Tensor> {
        let mut x = scaled(&self.embed_tokens.forward(batch.tokens())?, self.embedding_scale)?;
        for (layer, block) in self.layers.iter().enumerate() {
            x = block.forward(&x, batch, layer)?;
        }
        let logits = scaled(&self.lm_head.forward(&x, Before::Norm(&self.norm), None)?, self.logit_scale)?;
        match self.logit_cap {
            Some(cap) => bounded(&logits, cap, &self.compute),
            None => Ok(logits),
        }
    }
}
