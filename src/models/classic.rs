//! The network of the models that keep GPT-2's layer norms: GPT-Neo, GPT-J, GPT-NeoX, OPT, Bloom, Falcon, Phi, StableLM and
//! StarCoder2.
//!
//! They differ in how positions come in ([`Positions`]), in how the halves of a block follow each other ([`Flow`]), in where
//! there are biases, and in the names of their tensors ([`Names`]). What config.json may say of all that is in each
//! architecture's own file, which makes a [`Design`] of it.

use candle_core::Tensor;

use super::head::embedding_and_head_at;
use super::rope::Rotation;
use super::{Model, Shape};
use crate::error::Result;
use crate::kernels::{Heads, Order, Pairing, Steps};
use crate::nn::{Activation, Attention, Batch, Before, Bias, Embedding, Linear, Norm, Rope, add};
use crate::weights::Weights;

/// A network of this kind.
pub(super) struct Design {
    pub(super) names: Names,
    pub(super) vocab_size: usize,
    /// Width of the vocabulary's table, `hidden_size` but for one of OPT, which has matrices between the two.
    pub(super) embedding_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) n_layers: usize,
    /// Most tokens of a text.
    pub(super) context: usize,
    pub(super) heads: Heads,
    /// How a row of the fused matrix is laid out.
    pub(super) order: Order,
    pub(super) head_norms: HeadNorms,
    /// How many tokens each token of a layer sees, itself included, where that is bounded.
    pub(super) window: Box<dyn Fn(usize) -> Option<usize>>,
    pub(super) positions: Positions,
    pub(super) flow: Flow,
    pub(super) activation: Activation,
    pub(super) norms: Norms,
    pub(super) biases: Biases,
    pub(super) tie_word_embeddings: bool,
}

/// How the network knows the order of its tokens.
pub(super) enum Positions {
    /// A table, of whose rows the first `offset` are not positions.
    Learned { table: &'static str, offset: usize },
    /// Queries and keys are turned.
    Rotary(Rotation, Pairing),
    /// Scores fall with the distance, by slopes that follow from the number of heads (Press et al. 2021).
    Alibi { scale: f32, steps: Steps },
}

/// How attention, the MLP and their norms make a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// x + attention(norm(x)), then x + mlp(norm(x)).
    Serial,
    /// x + attention(norm(x)) + mlp(norm(x)), with one norm or two.
    Parallel,
    /// norm(x + attention(x)), then norm(x + mlp(x)).
    NormsLast,
    /// norm(x) takes the place of x: n + attention(n), then n + mlp(n).
    NormsInResidual,
}

/// Layer norms.
#[derive(Clone, Copy)]
pub(super) struct Norms {
    pub(super) epsilon: f32,
    /// Whether they have weights and biases.
    pub(super) learned: bool,
}

/// Whether heads have layer norms of queries and keys, `q_layernorm` and `k_layernorm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadNorms {
    None,
    /// One for all heads.
    Shared,
    /// One for each, without biases: `q_layernorm.norms.0`.
    Each,
}

/// Where there are biases.
#[derive(Clone, Copy)]
pub(super) struct Biases {
    pub(super) qkv: Bias,
    pub(super) attention_out: Bias,
    pub(super) mlp: Bias,
    pub(super) head: Bias,
}

/// The names of tensors, without `.weight` and `.bias`.
#[derive(Clone, Copy)]
pub(super) struct Names {
    /// What all names but the head's may begin with, the present spelling first.
    pub(super) prefixes: &'static [&'static str],
    pub(super) embedding: &'static str,
    pub(super) embedding_norm: Option<&'static str>,
    pub(super) layers: &'static str,
    pub(super) final_norm: Option<&'static str>,
    /// The head, the present spelling first.
    pub(super) heads: &'static [&'static str],

    /// In a layer: the norm in front of attention.
    pub(super) attention_norm: &'static str,
    /// Where attention is; [`HeadNorms`] and matrices of queries, keys and values are named below it.
    pub(super) attention: &'static str,
    /// One fused matrix, or three.
    pub(super) qkv: &'static [&'static str],
    pub(super) attention_out: &'static str,
    /// The norm in front of the MLP, where it is not the same.
    pub(super) mlp_norm: Option<&'static str>,
    /// One matrix, or a gate and what it opens.
    pub(super) mlp_in: &'static [&'static str],
    pub(super) mlp_out: &'static str,
    /// Masks and frequencies that older checkpoints store below `attention`; ours follow from config.json.
    pub(super) ignored: &'static [&'static str],
}

/// Weights of the network.
pub(super) struct Classic {
    shape: Shape,
    embedding: Embedding,
    project_in: Option<Linear>,
    embedding_norm: Option<Norm>,
    positions: Option<(Embedding, usize)>,
    layers: Vec<Block>,
    final_norm: Option<Norm>,
    project_out: Option<Linear>,
    head: Linear,
}

struct Block {
    flow: Flow,
    attention_norm: Norm,
    qkv: Linear,
    attention: Attention,
    attention_out: Linear,
    mlp_norm: Option<Norm>,
    mlp_in: Linear,
    activation: Activation,
    is_gated: bool,
    mlp_out: Linear,
}

impl Classic {
    pub(super) fn load(d: &Design, weights: &Weights) -> Result<Box<dyn Model>> {
        let names = &d.names;
        let places: Vec<Weights> = names.prefixes.iter().map(|prefix| weights.at(prefix)).collect();
        let first_norm = format!("{}.0.{}.weight", names.layers, names.attention_norm);
        let is_there = |w: &&Weights| w.at(&first_norm).exists() || w.at(names.embedding).at("weight").exists();
        let w = places.iter().find(is_there).unwrap_or(&places[0]);

        let heads: Vec<Weights> = names.heads.iter().map(|name| weights.at(name)).collect();
        let head = heads.iter().find(|head| head.at("weight").exists()).unwrap_or(&heads[0]);
        let (table, dims) = (w.at(names.embedding), (d.vocab_size, d.embedding_size));
        let (embedding, mut lm_head) = embedding_and_head_at(head, &table, dims, d.tie_word_embeddings)?;
        if d.biases.head == Bias::With {
            lm_head = lm_head.with_bias(head)?;
        }
        let project = |name: &str, inputs: usize, outputs: usize| match d.embedding_size == d.hidden_size {
            true => Ok(None),
            false => Linear::plain(&w.at(name), inputs, outputs).map(Some),
        };
        let (mut positions, mut rope) = (None, None);
        match &d.positions {
            Positions::Learned { table, offset } => {
                positions = Some((Embedding::load(&w.at(table), d.context + offset, d.hidden_size)?, *offset));
            }
            Positions::Rotary(rotation, pairing) => rope = Some(rotation.rope(*pairing, d.context)),
            Positions::Alibi { .. } => {}
        }
        let norm = |name: Option<&str>| name.map(|name| d.norm(&w.at(name))).transpose();
        let layers = (0..d.n_layers)
            .map(|layer| Block::load(d, &w.at(names.layers).at(&layer.to_string()), rope.as_ref(), layer))
            .collect::<Result<_>>()?;
        Ok(Box::new(Classic {
            shape: d.shape(),
            embedding,
            project_in: project("project_in", d.embedding_size, d.hidden_size)?,
            embedding_norm: norm(names.embedding_norm)?,
            positions,
            layers,
            final_norm: norm(names.final_norm)?,
            project_out: project("project_out", d.hidden_size, d.embedding_size)?,
            head: lm_head,
        }))
    }
}

impl Design {
    fn shape(&self) -> Shape {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;
        let border = match &self.positions {
            Positions::Rotary(rotation, _) => rotation.long.as_ref().map(|(most, _)| *most),
            Positions::Learned { .. } | Positions::Alibi { .. } => None,
        };
        Shape {
            vocab_size: self.vocab_size,
            context: self.context,
            border,
            experts: None,
            n_layers: self.n_layers,
            kv_width: n_kv_heads * head_dim,
            q_width: n_heads * head_dim,
        }
    }

    fn norm(&self, w: &Weights) -> Result<Norm> {
        match self.norms.learned {
            true => Norm::layer(w, self.hidden_size, self.norms.epsilon),
            false => Ok(Norm::layer_alone(self.hidden_size, self.norms.epsilon, w.compute())),
        }
    }

    fn attention(&self, w: &Weights, rope: Option<&Rope>, layer: usize) -> Result<Attention> {
        let heads = self.heads;
        let attention = Attention::new(heads, w.compute()).with_order(self.order).with_window((self.window)(layer));
        let attention = match (rope, &self.positions) {
            (Some(rope), _) => attention.with_rope(rope),
            (_, Positions::Alibi { scale, steps }) => attention.with_alibi(slopes(heads.n_heads), *scale, *steps),
            _ => attention,
        };
        let (query, key, eps) = (w.at("q_layernorm"), w.at("k_layernorm"), self.norms.epsilon);
        let each = |of: &Weights, heads: usize| -> Vec<Weights> {
            (0..heads).map(|head| of.at("norms").at(&head.to_string())).collect()
        };
        match self.head_norms {
            HeadNorms::None => Ok(attention),
            HeadNorms::Shared => attention.with_layer_norms(&[query], &[key], Bias::With, eps),
            HeadNorms::Each => {
                let (query, key) = (each(&query, heads.n_heads), each(&key, heads.n_kv_heads));
                attention.with_layer_norms(&query, &key, Bias::Without, eps)
            }
        }
    }
}

/// Two numbers raised to powers: with n heads, a power of two, the slopes are 2^(-8/n), 2^(-16/n), …; other numbers of heads
/// take those of the power of two below, and then every other one of the power above.
fn slopes(n_heads: usize) -> Vec<f32> {
    let below = 1usize << n_heads.ilog2();
    let of = |heads: usize| {
        let first = (-8.0 / heads as f64).exp2() as f32;
        move |power: i32| f64::from(first).powi(power) as f32
    };
    (1..=below as i32).map(of(below)).chain((1..).step_by(2).map(of(2 * below))).take(n_heads).collect()
}

impl Block {
    fn load(d: &Design, w: &Weights, rope: Option<&Rope>, layer: usize) -> Result<Block> {
        let (names, hidden, inner) = (&d.names, d.hidden_size, d.intermediate_size);
        let Heads { n_heads, n_kv_heads, head_dim, .. } = d.heads;
        let attn = w.at(names.attention);
        for name in names.ignored {
            attn.at(name).ignore();
        }
        let widths = [n_heads, n_kv_heads, n_kv_heads].map(|heads| heads * head_dim);
        let widths = if names.qkv.len() == 1 { vec![widths.iter().sum()] } else { widths.to_vec() };
        let qkv: Vec<(Weights, usize)> = names.qkv.iter().map(|name| attn.at(name)).zip(widths).collect();
        let mlp_in: Vec<(Weights, usize)> = names.mlp_in.iter().map(|name| (w.at(name), inner)).collect();
        let out = |name: &str, inputs: usize, bias: Bias| Linear::side_by_side(&[(w.at(name), hidden)], inputs, bias);
        Ok(Block {
            flow: d.flow,
            attention_norm: d.norm(&w.at(names.attention_norm))?,
            qkv: Linear::side_by_side(&qkv, hidden, d.biases.qkv)?,
            attention: d.attention(&attn, rope, layer)?,
            attention_out: out(names.attention_out, n_heads * head_dim, d.biases.attention_out)?,
            mlp_norm: names.mlp_norm.map(|name| d.norm(&w.at(name))).transpose()?,
            mlp_in: Linear::side_by_side(&mlp_in, hidden, d.biases.mlp)?,
            activation: d.activation,
            is_gated: names.mlp_in.len() == 2,
            mlp_out: out(names.mlp_out, inner, d.biases.mlp)?,
        })
    }

    /// (tokens, hidden_size) → (tokens, hidden_size), of the last layer (wanted, hidden_size)
    fn forward(&self, x: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let first = &self.attention_norm;
        let second = self.mlp_norm.as_ref().unwrap_or(first);
        match self.flow {
            Flow::Serial => {
                let x = self.attend(x, Before::Norm(first), x, batch, layer)?;
                self.feed(&x, Before::Norm(second), &x)
            }
            Flow::Parallel => {
                let sum = self.attend(x, Before::Norm(first), x, batch, layer)?;
                self.feed(&batch.onward(x, layer)?, Before::Norm(second), &sum)
            }
            Flow::NormsLast => {
                let x = first.forward(&self.attend(x, Before::Nothing, x, batch, layer)?)?;
                second.forward(&self.feed(&x, Before::Nothing, &x)?)
            }
            Flow::NormsInResidual => {
                let x = first.forward(x)?;
                let x = second.forward(&self.attend(&x, Before::Nothing, &x, batch, layer)?)?;
                self.feed(&x, Before::Nothing, &x)
            }
        }
    }

    /// residual + attention(before(x))
    fn attend(&self, x: &Tensor, before: Before, residual: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let qkv = self.qkv.forward(x, before, None)?;
        let attended = self.attention.forward(&qkv, batch, layer)?; // (tokens, n_heads · head_dim)
        self.attention_out.forward(&attended, Before::Nothing, Some(&batch.onward(residual, layer)?))
    }

    /// residual + mlp(before(x))
    fn feed(&self, x: &Tensor, before: Before, residual: &Tensor) -> Result<Tensor> {
        let inner = self.mlp_in.forward(x, before, None)?; // (tokens, intermediate_size), twice as wide with a gate
        let before = if self.is_gated { Before::Gated(self.activation) } else { Before::Activation(self.activation) };
        self.mlp_out.forward(&inner, before, Some(residual))
    }
}

impl Model for Classic {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn forward(&self, batch: &mut Batch) -> Result<Tensor> {
        let mut x = self.embedding.forward(batch.tokens())?;
        if let Some(project_in) = &self.project_in {
            x = project_in.forward(&x, Before::Nothing, None)?;
        }
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(&x)?;
        }
        if let Some((table, offset)) = &self.positions {
            let rows: Vec<u32> = batch.positions().iter().map(|position| position + *offset as u32).collect();
            x = add(&x, &table.forward(&rows)?)?;
        }
        for (layer, block) in self.layers.iter().enumerate() {
            x = block.forward(&x, batch, layer)?;
        }
        let before = self.final_norm.as_ref().map_or(Before::Nothing, Before::Norm);
        match &self.project_out {
            Some(project_out) => self.head.forward(&project_out.forward(&x, before, None)?, Before::Nothing, None),
            None => self.head.forward(&x, before, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::slopes;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(slopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map(|i| 0.5f32.powi(i)));
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8));
        assert_eq!(twelve[8..], [0, 2, 4, 6].map(|i| slopes(16)[i]));
        assert_eq!(slopes(1), [2f32.powi(-8)]);
    }
}
