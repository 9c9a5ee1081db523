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
#[cfg(any(test, feature = "cli"))]
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
    /// Whether some matrices are stored (inputs, outputs), which GPT-2's are.
    #[cfg(any(test, feature = "cli"))]
    is_gpt2: bool,
}

impl Mix {
    /// The mixture for a model of so many layers, `group` query heads for each head of values.
    pub fn new(quant: Quant, layers: usize, group: usize, tied: bool) -> Mix {
        Mix {
            quant,
            layers,
            group: group.max(1),
            tied,
            experts: 0,
            #[cfg(any(test, feature = "cli"))]
            is_gpt2: false,
        }
    }

    /// The mixture for a model with so many experts in a layer.
    pub fn with_experts(self, experts: usize) -> Mix {
        Mix { experts, ..self }
    }

    /// The mixture for a model with these tensors. The head may be stored twice, which names do not tell: `tied`.
    pub fn of<'a>(quant: Quant, tensors: impl Iterator<Item = (&'a str, &'a [usize])> + Clone, tied: bool) -> Mix {
        let layers = tensors.clone().filter_map(|(name, _)| number_of(name)).max().map_or(0, |last| last + 1);
        let has_head = tensors.clone().any(|(name, _)| is_head(name));
        let outputs = |projection: &str| {
            let mut found = tensors.clone().filter(|(name, _)| layer_of(name).next_back() == Some(projection));
            found.find_map(|(_, shape)| shape.first().copied())
        };
        let group = outputs("q_proj").zip(outputs("v_proj")).and_then(|(q, v)| q.checked_div(v)).unwrap_or(1);
        let experts = tensors.clone().filter_map(|(name, _)| expert_of(name)).max().map_or(0, |last| last + 1);
        Mix {
            #[cfg(any(test, feature = "cli"))]
            is_gpt2: tensors.clone().any(|(name, _)| layer_of(name).next_back() == Some("c_attn")),
            ..Mix::new(quant, layers, group, tied || !has_head).with_experts(experts)
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
    #[cfg(any(test, feature = "cli"))]
    pub fn of_tensor(&self, name: &str, shape: &[usize]) -> Option<Format> {
        let &[first, second] = shape else { return None };
        let is_transposed = self.is_gpt2 && layer_of(name).next_back().is_some_and(|last| TRANSPOSED.contains(&last));
        self.format(name, if is_transposed { first } else { second })
    }

    fn head(&self, inputs: usize) -> Format {
        let base = self.quant.base();
        match base {
            Format::Q8_0 | Format::Mxfp4 => Format::Q8_0,
            _ if !inputs.is_multiple_of(base.block_len()) => Format::Q8_0,
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
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused_with_the_list() {
        for (name, quant) in NAMES.iter().chain(ALIASES) {
            assert_eq!(name.parse(), Ok(*quant));
            assert_eq!(name.to_uppercase().parse(), Ok(*quant));
            assert_eq!(quant.to_string().parse(), Ok(*quant));
        }
        for wrong in ["", "q9", "f16", "q4", "q4_k_l", "q4_k_m "] {
            let refused = wrong.parse::<Quant>().expect_err(wrong);
            assert!(NAMES.iter().all(|(name, _)| refused.contains(&format!("`{name}`"))), "{wrong}: {refused}");
        }
    }

    /// The formats of the tensors of each kind, from the first layer on, and of the table and the head.
    fn check(quant: Quant, tensors: &[(String, Vec<usize>)], expected: &[(&str, &str)]) {
        let all = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
        let mix = Mix::of(quant, all, false);
        for (kind, formats) in expected {
            let of_kind = tensors.iter().filter(|(name, _)| name.ends_with(&format!("{kind}.weight")));
            let names = of_kind.map(|(name, shape)| mix.of_tensor(name, shape).map_or("-", Format::name));
            let found: Vec<&str> = names.collect();
            assert_eq!(found.join(" "), *formats, "{quant} {kind}");
        }
    }

    fn gpt2(width: usize) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            ("transformer.wte.weight".to_owned(), vec![50257, width]),
            ("transformer.wpe.weight".to_owned(), vec![1024, width]),
        ];
        for layer in 0..12 {
            for (name, inputs, outputs) in [
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, 4 * width),
                ("mlp.c_proj", 4 * width, width),
            ] {
                tensors.push((format!("transformer.h.{layer}.{name}.weight"), vec![inputs, outputs]));
            }
        }
        tensors
    }

    fn llama(layers: usize, width: usize, heads: (usize, usize), is_tied: IsTied) -> Vec<(String, Vec<usize>)> {
        let kv = width / heads.0 * heads.1;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![32000, width])];
        for layer in 0..layers {
            for (name, inputs, outputs) in [
                ("self_attn.q_proj", width, width),
                ("self_attn.k_proj", width, kv),
                ("self_attn.v_proj", width, kv),
                ("self_attn.o_proj", width, width),
                ("mlp.gate_proj", width, width / 3 * 8),
                ("mlp.down_proj", width / 3 * 8, width),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![outputs, inputs]));
            }
        }
        if is_tied == IsTied::No {
            tensors.push(("lm_head.weight".to_owned(), vec![32000, width]));
        }
        tensors
    }

    #[derive(PartialEq)]
    enum IsTied {
        Yes,
        No,
    }

    /// What `llama-quantize` gives models of these shapes, read from the files that it wrote.
    #[test]
    fn formats_are_mixed_as_by_the_reference() {
        let all = |format: &str| [format; 12].join(" ");
        let more = "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k q6_k";
        check(
            Quant::Q4KM,
            &gpt2(768),
            &[("wte", "q6_k"), ("wpe", "-"), ("c_attn", more), ("attn.c_proj", &all("q4_k")), ("mlp.c_proj", more)],
        );
        check(
            Quant::Q5KM,
            &gpt2(768),
            &[("wte", "q6_k"), ("c_attn", &more.replace("q4", "q5")), ("c_fc", &all("q5_k"))],
        );
        let first = "q5_k q5_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k";
        check(
            Quant::Q3KM,
            &gpt2(768),
            &[("c_attn", first), ("attn.c_proj", &all("q4_k")), ("mlp.c_proj", &all("q4_k")), ("c_fc", &all("q3_k"))],
        );
        check(
            Quant::Q2K,
            &gpt2(768),
            &[("wte", "q6_k"), ("c_attn", &all("q3_k")), ("attn.c_proj", &all("q3_k")), ("c_fc", &all("q2_k"))],
        );
        let first = all("iq4_nl").replacen("iq4_nl", "q5_k", 1);
        check(Quant::Iq4Nl, &gpt2(768), &[("wte", "q6_k"), ("c_attn", &all("iq4_nl")), ("mlp.c_proj", &first)]);
        check(Quant::Q4_0, &gpt2(768), &[("wte", "q6_k"), ("wpe", "-"), ("c_attn", &all("q4_0"))]);
        check(Quant::Q8_0, &gpt2(768), &[("wte", "q8_0"), ("wpe", "-"), ("mlp.c_proj", &all("q8_0"))]);
        check(Quant::Mxfp4, &gpt2(768), &[("wte", "q8_0"), ("mlp.c_proj", &all("mxfp4"))]);
        // Mistral's shape with four layers, whose head is its own.
        check(
            Quant::Q4KM,
            &llama(4, 4608, (32, 8), IsTied::No),
            &[
                ("embed_tokens", "q4_k"),
                ("lm_head", "q6_k"),
                ("q_proj", "q4_k q4_k q4_k q4_k"),
                ("v_proj", "q4_k q4_k q6_k q6_k"),
                ("down_proj", "q4_k q4_k q6_k q6_k"),
                ("gate_proj", "q4_k q4_k q4_k q4_k"),
            ],
        );
        check(Quant::Q2K, &llama(2, 4608, (32, 8), IsTied::No), &[("v_proj", "q4_k q4_k"), ("embed_tokens", "q2_k")]);
        check(Quant::Iq4Nl, &llama(2, 4608, (32, 8), IsTied::No), &[("v_proj", "q5_k q5_k")]);
    }

    /// Names of other architectures: what each matrix gets in the first layer, which is among those that get more.
    #[test]
    fn names_of_every_architecture_have_their_roles() {
        let check = |head: &str, table: &str, matrices: &[(&str, [usize; 2], &str)]| {
            let mut tensors =
                vec![(format!("{table}.weight"), vec![1000, 512]), (format!("{head}.weight"), vec![1000, 512])];
            for layer in 0..8 {
                let named =
                    matrices.iter().map(|(name, shape, _)| (format!("h.{layer}.{name}.weight"), shape.to_vec()));
                tensors.extend(named);
            }
            let mix = Mix::of(Quant::Q2K, tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..])), false);
            let format = |name: &str, shape: &[usize]| mix.of_tensor(name, shape).map_or("-", Format::name);
            assert_eq!(format(&tensors[0].0, &tensors[0].1), "q2_k", "{table}");
            assert_eq!(format(&tensors[1].0, &tensors[1].1), "q6_k", "{head}");
            for (name, shape, expected) in matrices {
                assert_eq!(format(&format!("h.0.{name}.weight"), shape), *expected, "{name}");
            }
        };
        let fused = |attention: &str| {
            check(
                "embed_out",
                "gpt_neox.embed_in",
                &[
                    (&format!("{attention}.query_key_value"), [1536, 512], "q3_k"),
                    (&format!("{attention}.dense"), [512, 512], "q3_k"),
                    ("mlp.dense_h_to_4h", [2048, 512], "q2_k"),
                    ("mlp.dense_4h_to_h", [512, 2048], "q3_k"),
                ],
            );
        };
        fused("attention");
        fused("self_attention");
        let apart = |output: &str, up: &str, down: &str| {
            let matrices = [
                ("attn.q_proj", [512, 512], "q2_k"),
                ("attn.v_proj", [512, 512], "q3_k"),
                (output, [512, 512], "q3_k"),
                (up, [768, 512], "q2_k"),
                (down, [512, 768], "q3_k"),
            ];
            check("lm_head", "transformer.wte", &matrices);
        };
        apart("attn.out_proj", "mlp.fc_in", "mlp.fc_out"); // GPT-J
        apart("attn.attention.out_proj", "mlp.c_fc", "mlp.c_proj"); // GPT-Neo
        apart("self_attn.out_proj", "fc1", "fc2"); // OPT
        apart("self_attn.dense", "mlp.fc1", "mlp.fc2"); // Phi
        apart("self_attn.o_proj", "mlp.c_fc", "mlp.c_proj"); // StarCoder2
        // Rows of GPT-Neo's `c_proj` are its inputs, though GPT-2's are its outputs.
        let tensors = [("h.0.attn.attention.v_proj.weight", vec![512, 512]), ("h.0.mlp.c_proj.weight", vec![512, 800])];
        let mix = Mix::of(Quant::Q2K, tensors.iter().map(|(name, shape)| (*name, &shape[..])), false);
        assert_eq!(mix.of_tensor(tensors[1].0, &tensors[1].1), Some(Format::Q4_0));
    }

    /// As the reference's source has it: attention of eight experts gets more, routers stay, a token's experts are one layer's.
    #[test]
    fn experts_are_quantised_and_routers_are_not() {
        let tensors = |experts: usize| {
            let mut tensors = llama(8, 4608, (32, 8), IsTied::No);
            tensors.retain(|(name, _)| !name.contains(".mlp."));
            for layer in 0..8 {
                let block = format!("model.layers.{layer}.block_sparse_moe");
                tensors.push((format!("{block}.gate.weight"), vec![experts, 4608]));
                for expert in 0..experts {
                    let names = [("w1", [9216, 4608]), ("w2", [4608, 9216]), ("w3", [9216, 4608])];
                    tensors.extend(
                        names.map(|(name, shape)| (format!("{block}.experts.{expert}.{name}.weight"), shape.to_vec())),
                    );
                }
            }
            tensors
        };
        check(
            Quant::Q4KM,
            &tensors(8),
            &[
                ("block_sparse_moe.gate", "- - - - - - - -"),
                ("v_proj", &["q8_0"; 8].join(" ")),
                ("k_proj", &["q8_0"; 8].join(" ")),
                ("q_proj", &["q4_k"; 8].join(" ")),
                ("o_proj", &["q5_k"; 8].join(" ")),
                ("experts.7.w1", &["q4_k"; 8].join(" ")),
                ("experts.7.w2", "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k"),
                ("experts.0.w2", "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k"),
            ],
        );
        check(
            Quant::Q4KM,
            &tensors(16),
            &[
                ("k_proj", &["q4_k"; 8].join(" ")),
                ("o_proj", &["q4_k"; 8].join(" ")),
                ("block_sparse_moe.gate", "- - - - - - - -"),
            ],
        );
        check(Quant::Q6K, &tensors(8), &[("k_proj", &["q8_0"; 8].join(" ")), ("o_proj", &["q6_k"; 8].join(" "))]);
    }

    /// SmolLM2's widths, 576 and 1536: not whole blocks of 256, and whole ones.
    #[test]
    fn rows_that_are_not_whole_blocks_get_the_next_format() {
        check(
            Quant::Q4KM,
            &llama(8, 576, (9, 3), IsTied::Yes),
            &[
                ("embed_tokens", "q8_0"),
                ("q_proj", "q5_0 q5_0 q5_0 q5_0 q5_0 q5_0 q5_0 q5_0"),
                ("v_proj", "q8_0 q5_0 q5_0 q8_0 q5_0 q5_0 q8_0 q8_0"),
                ("down_proj", "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k"),
            ],
        );
        check(Quant::Q5KS, &llama(1, 576, (9, 3), IsTied::Yes), &[("q_proj", "q5_1"), ("embed_tokens", "q8_0")]);
        check(Quant::Q2K, &llama(1, 576, (9, 3), IsTied::Yes), &[("gate_proj", "q4_0"), ("down_proj", "q3_k")]);
        // Rows of 304 are no blocks of any format.
        check(Quant::Q8_0, &gpt2(304), &[("wte", "-"), ("c_fc", &["-"; 12].join(" "))]);
        check(Quant::Q8_0, &gpt2(304), &[("mlp.c_proj", &["q8_0"; 12].join(" "))]);
    }

    #[test]
    fn a_head_that_repeats_the_embedding_is_one_with_it() {
        let tensors = llama(2, 768, (12, 12), IsTied::No);
        let all = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
        let format = |tied| Mix::of(Quant::Q4KM, all.clone(), tied).format("model.embed_tokens.weight", 768);
        assert_eq!((format(false), format(true)), (Some(Format::Q4K), Some(Format::Q6K)));
    }
}
