//! What `--quant` means: the format that each tensor of a model gets.
//!
//! Formats are mixed as llama.cpp's quantiser mixes them, by what a tensor is for: the head, the values of attention and
//! the way out of a feed-forward block in some layers lose more than they save. A tensor's part is told by its name, as
//! transformers has it, so that headers alone say what a model would need.

use std::fmt;
use std::str::FromStr;

use crate::kernels::Format;

/// A mixture of formats, named after the one that most weights get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// 8.5 bits a weight: as good as the original.
    Q8_0,
    /// 6.6 bits a weight.
    Q6K,
    /// 5.5 bits a weight, more for half of the important layers.
    Q5KM,
    /// 5.5 bits a weight.
    Q5KS,
    /// 6 bits a weight.
    Q5_1,
    /// 5.5 bits a weight.
    Q5_0,
    /// 4.5 bits a weight, more for half of the important layers: the usual choice.
    Q4KM,
    /// 4.5 bits a weight, more for the first layers.
    Q4KS,
    /// 4.5 bits a weight, in steps that are closer where weights are many.
    Iq4Nl,
    /// 5 bits a weight.
    Q4_1,
    /// 4.5 bits a weight.
    Q4_0,
    /// 4.25 bits a weight, in floats of 4 bits.
    Mxfp4,
    /// 3.4 bits a weight, more for the important layers.
    Q3KM,
    /// 2.6 bits a weight, more for the important layers.
    Q2K,
}

/// Every mixture and its name, from the most bits to the fewest.
const NAMES: &[(&str, Quant)] = &[
    ("q8_0", Quant::Q8_0),
    ("q6_k", Quant::Q6K),
    ("q5_k_m", Quant::Q5KM),
    ("q5_k_s", Quant::Q5KS),
    ("q5_1", Quant::Q5_1),
    ("q5_0", Quant::Q5_0),
    ("q4_k_m", Quant::Q4KM),
    ("q4_k_s", Quant::Q4KS),
    ("iq4_nl", Quant::Iq4Nl),
    ("q4_1", Quant::Q4_1),
    ("q4_0", Quant::Q4_0),
    ("mxfp4", Quant::Mxfp4),
    ("q3_k_m", Quant::Q3KM),
    ("q2_k", Quant::Q2K),
];

/// Short for the mixture that is usual.
const ALIASES: &[(&str, Quant)] = &[("q5_k", Quant::Q5KM), ("q4_k", Quant::Q4KM), ("q3_k", Quant::Q3KM)];

impl Quant {
    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, quant)| *quant == self).map_or("", |(name, _)| name)
    }

    /// What a tensor of no importance gets.
    fn base(self) -> Format {
        match self {
            Quant::Q8_0 => Format::Q8_0,
            Quant::Q6K => Format::Q6K,
            Quant::Q5KM | Quant::Q5KS => Format::Q5K,
            Quant::Q5_1 => Format::Q5_1,
            Quant::Q5_0 => Format::Q5_0,
            Quant::Q4KM | Quant::Q4KS => Format::Q4K,
            Quant::Iq4Nl => Format::Iq4Nl,
            Quant::Q4_1 => Format::Q4_1,
            Quant::Q4_0 => Format::Q4_0,
            Quant::Mxfp4 => Format::Mxfp4,
            Quant::Q3KM => Format::Q3K,
            Quant::Q2K => Format::Q2K,
        }
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let found = NAMES.iter().chain(ALIASES).find(|(name, _)| *name == text);
        found.map(|(_, quant)| *quant).ok_or_else(|| {
            let names: Vec<String> = NAMES.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// What a matrix is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The vocabulary's table.
    Embedding,
    /// Learnt positions, which are few and stay as stored.
    Positions,
    /// Logits.
    Head,
    /// The values of attention, alone or with queries and keys in one matrix.
    Values,
    /// The keys of attention.
    Keys,
    /// The way out of attention.
    AttentionOutput,
    /// The way out of a feed-forward block, or of one of its experts.
    Down,
    /// What chooses experts: small, and a choice is right or wrong, so it stays as stored.
    Router,
    /// Any other.
    Other,
}

/// Names of layers, without `.weight`, and what they are. A name with a dot is matched with the name above it.
const ROLES: &[(Role, &[&str])] = &[
    (Role::Embedding, &["wte", "embed_tokens", "embed_in", "tok_embeddings", "word_embeddings"]),
    (Role::Positions, &["wpe", "embed_positions", "position_embeddings"]),
    (Role::Head, &["lm_head", "embed_out"]),
    (Role::Values, &["v_proj", "c_attn", "qkv_proj", "query_key_value", "wv"]),
    (Role::Keys, &["k_proj", "wk"]),
    (Role::Router, &["mlp.gate", "block_sparse_moe.gate"]),
    (
        Role::AttentionOutput,
        &["o_proj", "out_proj", "attn.c_proj", "attention.dense", "self_attention.dense", "self_attn.dense", "wo"],
    ),
    (Role::Down, &["down_proj", "mlp.c_proj", "dense_4h_to_h", "fc_out", "w2", "fc2"]),
];

/// Layers whose weights GPT-2 stores (inputs, outputs), as `Conv1D`; others that have such names do not.
const TRANSPOSED: &[&str] = &["c_attn", "c_proj", "c_fc"];

/// The part of a name that `.weight` ends, and its parts.
fn layer_of(name: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    name.strip_suffix(".weight").unwrap_or(name).split('.')
}

fn role_of(name: &str) -> Role {
    let mut parts = layer_of(name).rev();
    let (last, above) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is = |known: &&str| match known.split_once('.') {
        Some((first, second)) => first == above && second == last,
        None => *known == last,
    };
    ROLES.iter().find(|(_, names)| names.iter().any(&is)).map_or(Role::Other, |(role, _)| *role)
}

/// The number of a tensor's layer: the first part of its name that is one.
fn number_of(name: &str) -> Option<usize> {
    layer_of(name).find_map(|part| part.parse().ok())
}

/// The number of the expert that a tensor belongs to, if it does to one.
fn expert_of(name: &str) -> Option<usize> {
    layer_of(name).skip_while(|part| *part != "experts").nth(1)?.parse().ok()
}

/// Whether a name is the head's.
pub(super) fn is_head(name: &str) -> bool {
    role_of(name) == Role::Head
}

/// Whether a name is the vocabulary table's.
pub(super) fn is_embedding(name: &str) -> bool {
    role_of(name) == Role::Embedding
}

/// Whether a matrix stays as stored: learnt positions and routers.
pub(super) fn is_kept(name: &str) -> bool {
    matches!(role_of(name), Role::Positions | Role::Router)
}

/// Whether GPT-2 stores a layer's weights (inputs, outputs), by their name.
pub(super) fn is_turned(name: &str) -> bool {
    layer_of(name).next_back().is_some_and(|last| TRANSPOSED.contains(&last))
}

/// A mixture for one model.
#[derive(Clone, Debug)]
pub struct Mix {
    quant: Quant,
    /// Layers of the model.
    layers: usize,
    /// Query heads that share one head of values; 1 where this is not known.
    group: usize,
    /// Whether head and embedding are one matrix, which then counts as the head.
    tied: bool,
    /// Experts of a layer; 0 where it has none.
    experts: usize,
    /// Whether it is Falcon, of which llama.cpp's quantiser thinks otherwise.
    is_falcon: bool,
    /// Whether some matrices are stored (inputs, outputs), which GPT-2's are.
    is_gpt2: bool,
}

impl Mix {
    /// The mixture for a model of so many layers, `group` query heads for each head of values.
    pub fn new(quant: Quant, layers: usize, group: usize, tied: bool) -> Mix {
        Mix { quant, layers, group: group.max(1), tied, experts: 0, is_falcon: false, is_gpt2: false }
    }

    /// The mixture for a model with so many experts in a layer.
    pub fn with_experts(self, experts: usize) -> Mix {
        Mix { experts, ..self }
    }

    /// The mixture for a model with these tensors. The head may be stored twice, which names do not tell: `tied`.
    pub fn of<'a>(quant: Quant, tensors: impl Iterator<Item = (&'a str, &'a [usize])> + Clone, tied: bool) -> Mix {
        let layers = tensors.clone().filter_map(|(name, _)| number_of(name)).max().map_or(0, |last| last + 1);
        let has_head = tensors.clone().any(|(name, _)| is_head(name));
        let shape_of = |projections: &[&str]| {
            let mut found = tensors.clone().filter(|(name, _)| {
                layer_of(name).next_back().is_some_and(|last| name.ends_with(".weight") && projections.contains(&last))
            });
            found.find_map(|(_, shape)| Some((*shape.first()?, *shape.last()?)))
        };
        let fused = shape_of(&["query_key_value", "qkv_proj"]).zip(shape_of(&["o_proj", "dense"]));
        let group = match (shape_of(&["q_proj"]), shape_of(&["v_proj"]), fused) {
            (Some((q, _)), Some((v, _)), _) => q.checked_div(v),
            // The way out of attention has as many inputs as there are queries.
            (_, _, Some(((all, _), (_, q)))) => all.checked_sub(q).and_then(|others| q.checked_div(others / 2)),
            _ => None,
        };
        let has = |part: &str| tensors.clone().any(|(name, _)| name.contains(part));
        let experts = tensors.clone().filter_map(|(name, _)| expert_of(name)).max().map_or(0, |last| last + 1);
        Mix {
            is_gpt2: tensors.clone().any(|(name, _)| layer_of(name).next_back() == Some("c_attn")),
            is_falcon: has("self_attention.query_key_value") && !has("word_embeddings_layernorm"),
            ..Mix::new(quant, layers, group.unwrap_or(1), tied || !has_head).with_experts(experts)
        }
    }

    /// Its name.
    pub fn quant(&self) -> Quant {
        self.quant
    }

    /// Whether head and embedding are one matrix.
    pub fn is_tied(&self) -> bool {
        self.tied
    }

    /// The format of a matrix with rows of `inputs` numbers; `None` where it stays as stored.
    pub fn format(&self, name: &str, inputs: usize) -> Option<Format> {
        let role = role_of(name);
        let wanted = match role {
            Role::Positions | Role::Router => return None,
            Role::Head => self.head(inputs),
            Role::Embedding if self.tied => self.head(inputs),
            Role::Embedding if self.quant == Quant::Mxfp4 => Format::Q8_0,
            _ => self.of_layer(role, number_of(name).unwrap_or(0)),
        };
        if inputs.is_multiple_of(wanted.block_len()) {
            return Some(wanted);
        }
        // The next larger format with blocks of 32.
        let smaller = match wanted {
            Format::Q2K | Format::Q3K => Format::Q4_0,
            Format::Q4K => Format::Q5_0,
            Format::Q5K => Format::Q5_1,
            Format::Q6K => Format::Q8_0,
            others => others,
        };
        inputs.is_multiple_of(smaller.block_len()).then_some(smaller)
    }

    /// The format of a tensor by its shape in the file, and the numbers in its rows.
    pub fn of_tensor(&self, name: &str, shape: &[usize]) -> Option<Format> {
        let &[first, second] = shape else { return None };
        let is_transposed = self.is_gpt2 && is_turned(name);
        self.format(name, if is_transposed { first } else { second })
    }

    fn head(&self, inputs: usize) -> Format {
        let base = self.quant.base();
        match base {
            Format::Q8_0 | Format::Mxfp4 => Format::Q8_0,
            _ if self.is_falcon || !inputs.is_multiple_of(base.block_len()) => Format::Q8_0,
            _ => Format::Q6K,
        }
    }

    fn of_layer(&self, role: Role, layer: usize) -> Format {
        let layers = self.layers;
        // Beside eight experts attention is small.
        match (role, self.quant) {
            _ if self.experts != 8 => {}
            (Role::Values | Role::Keys, _) => return Format::Q8_0,
            (Role::AttentionOutput, Quant::Q4KM | Quant::Q4KS | Quant::Iq4Nl | Quant::Q3KM | Quant::Q2K) => {
                return Format::Q5K;
            }
            _ => {}
        }
        // The first and the last eighth, and every third layer between them.
        let gets_more = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
        match (self.quant, role) {
            (Quant::Q4KM, Role::Down) if self.is_falcon && layer < layers / 16 => Format::Q6K,
            (Quant::Q4KM, Role::Down) if self.is_falcon => {
                if gets_more {
                    Format::Q5K
                } else {
                    Format::Q4K
                }
            }
            (Quant::Q4KS, Role::Down) if self.is_falcon => Format::Q4K,
            (Quant::Q3KM, Role::Down) if self.is_falcon && layer >= layers / 16 && !gets_more => Format::Q3K,
            (quant, Role::AttentionOutput) if self.is_falcon => quant.base(),
            (Quant::Q5KM | Quant::Q4KM, Role::Values | Role::Down) if gets_more => Format::Q6K,
            (Quant::Q4KS, Role::Values) if layer < 4 => Format::Q5K,
            (Quant::Q4KS | Quant::Iq4Nl, Role::Down) if layer < layers / 8 => Format::Q5K,
            (Quant::Iq4Nl, Role::Values) if self.group >= 4 => Format::Q5K,
            (Quant::Q3KM, Role::Values) => {
                if layer < 2 {
                    Format::Q5K
                } else {
                    Format::Q4K
                }
            }
            (Quant::Q3KM, Role::Down) => {
                if layer < layers / 16 {
                    Format::Q5K
                } else {
                    Format::Q4K
                }
            }
            (Quant::Q3KM, Role::AttentionOutput) => Format::Q4K,
            (Quant::Q2K, Role::Values) if self.group >= 4 => Format::Q4K,
            (Quant::Q2K, Role::Values | Role::AttentionOutput | Role::Down) => Format::Q3K,
            (quant, _) => quant.base(),
        }
    }
}

#[cfg(test)]
mod tests;
