//! The kinds of models that GGUF files hold, one entry of [`FAMILIES`] for each that is read.
//!
//! To add one: what transformers calls it, which keys are which fields of config.json, which tensors have which names, and
//! how its rotary pairs lie. What does not fit into tables goes into a function below. `families/names.rs` has the names.

mod names;

use serde_json::{Map, Value};

use super::config::{Field, Keys};
use super::model::Gguf;
use super::names::Names;
use crate::error::{Result, quote};

/// What is known of a kind of models.
pub(super) struct Family {
    /// `general.architecture`, with which its keys begin.
    pub(super) name: &'static str,
    /// Whether a model of this name is meant, where several kinds share it.
    pub(super) is_meant: fn(&Gguf) -> bool,
    /// config.json's `model_type` and entry of `architectures`.
    pub(super) model_type: &'static str,
    pub(super) class: &'static str,
    pub(super) fields: &'static [&'static [Field]],
    /// What of the config no table says.
    pub(super) more: fn(&Keys, &mut Map<String, Value>) -> Result<()>,
    pub(super) names: &'static Names,
    /// How the rows of queries and keys were put for rotary positions.
    pub(super) pairs: Pairs,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// As transformers has them, or none do.
    AsTransformers,
    /// The converter put them side by side.
    Neighbours,
}

/// What most families have in common.
const PLAIN: Family = Family {
    name: "",
    is_meant: |_| true,
    model_type: "",
    class: "",
    fields: &[DECODER, RMS, ROTARY],
    more: |_, _| Ok(()),
    names: &names::LLAMA,
    pairs: Pairs::AsTransformers,
};

/// Every kind that is read.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "llama",
        is_meant: |gguf| gguf.shape_of("blk.0.ffn_gate_inp.weight").is_none() && !has_experts(gguf, "llama"),
        model_type: "llama",
        class: "LlamaForCausalLM",
        more: llama_biases,
        pairs: Pairs::Neighbours,
        ..PLAIN
    },
    Family {
        name: "llama",
        is_meant: |gguf| has_experts(gguf, "llama"),
        model_type: "mixtral",
        class: "MixtralForCausalLM",
        fields: &[
            DECODER,
            RMS,
            ROTARY,
            &[
                Field::Size("expert_count", "num_local_experts"),
                Field::Size("expert_used_count", "num_experts_per_tok"),
            ],
        ],
        names: &names::MIXTRAL,
        pairs: Pairs::Neighbours,
        ..PLAIN
    },
    Family { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", ..PLAIN },
    Family { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", ..PLAIN },
    Family {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        fields: &[
            DECODER,
            RMS,
            ROTARY,
            &[
                Field::Size("expert_count", "num_experts"),
                Field::Size("expert_used_count", "num_experts_per_tok"),
                Field::Size("expert_feed_forward_length", "moe_intermediate_size"),
            ],
        ],
        more: |_, config| put(config, "norm_topk_prob", true),
        names: &names::QWEN3_MOE,
        ..PLAIN
    },
    Family {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        more: |_, config| put(config, NORM_CENTRE, 0.0),
        ..PLAIN
    },
    Family {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        fields: &[
            DECODER,
            RMS,
            ROTARY,
            WINDOW,
            &[
                Field::MaybeFloat("attn_logit_softcapping", "attn_logit_softcapping"),
                Field::MaybeFloat("final_logit_softcapping", "final_logit_softcapping"),
            ],
        ],
        more: |keys, config| gemma_scale(keys, config, 46),
        names: &names::GEMMA2,
        ..PLAIN
    },
    Family {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        fields: &[
            DECODER,
            RMS,
            ROTARY,
            WINDOW,
            &[
                Field::MaybeFloat("rope.freq_base_swa", "rope_local_base_freq"),
                Field::MaybeFloat("final_logit_softcapping", "final_logit_softcapping"),
            ],
        ],
        more: |keys, config| gemma_scale(keys, config, 62),
        names: &names::GEMMA2,
        ..PLAIN
    },
    Family {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        fields: &[DECODER, RMS, ROTARY, WINDOW],
        names: &names::PHI3,
        ..PLAIN
    },
    Family { name: "olmo2", model_type: "olmo2", class: "Olmo2ForCausalLM", names: &names::OLMO2, ..PLAIN },
    Family {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        fields: &[
            DECODER,
            RMS,
            ROTARY,
            &[
                Field::MaybeFloat("attention.scale", "attention_multiplier"),
                Field::MaybeFloat("embedding_scale", "embedding_multiplier"),
                Field::MaybeFloat("residual_scale", "residual_multiplier"),
                Field::MaybeFloat("logit_scale", "logits_scaling"),
            ],
        ],
        more: llama_biases,
        pairs: Pairs::Neighbours,
        ..PLAIN
    },
    Family {
        name: "smollm3",
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        more: llama_biases,
        pairs: Pairs::Neighbours,
        ..PLAIN
    },
    Family {
        name: "gpt2",
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        fields: &[&[
            Field::Size("block_count", "n_layer"),
            Field::Size("context_length", "n_positions"),
            Field::Size("embedding_length", "n_embd"),
            Field::MaybeSize("feed_forward_length", "n_inner"),
            Field::Size("attention.head_count", "n_head"),
            Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ]],
        names: &names::GPT2,
        ..PLAIN
    },
    Family {
        name: "gptneox",
        model_type: "gpt_neox",
        class: "GPTNeoXForCausalLM",
        fields: &[
            DECODER,
            ROTARY,
            &[
                Field::Float("attention.layer_norm_epsilon", "layer_norm_eps"),
                Field::MaybeFlag("use_parallel_residual", "use_parallel_residual"),
            ],
        ],
        more: |_, config| put(config, QKV_ORDER, "parts"),
        names: &names::GPT_NEOX,
        ..PLAIN
    },
    Family {
        name: "bloom",
        model_type: "bloom",
        class: "BloomForCausalLM",
        fields: &[&[
            Field::Size("block_count", "n_layer"),
            Field::Size("context_length", "seq_length"),
            Field::Size("embedding_length", "hidden_size"),
            Field::Size("attention.head_count", "n_head"),
            Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ]],
        more: |_, config| put(config, QKV_ORDER, "parts"),
        names: &names::BLOOM,
        ..PLAIN
    },
    Family {
        name: "falcon",
        is_meant: |gguf| gguf.shape_of("blk.0.attn_norm_2.weight").is_none(),
        model_type: "falcon",
        class: "FalconForCausalLM",
        fields: FALCON_FIELDS,
        more: |keys, config| {
            let kv_heads = keys.size("attention.head_count_kv")?.unwrap_or(1);
            put(config, "num_ln_in_parallel_attn", 1)?;
            put(config, "new_decoder_architecture", kv_heads != 1)?;
            put(config, QKV_ORDER, "parts")
        },
        names: &names::FALCON,
        ..PLAIN
    },
    Family {
        name: "falcon",
        is_meant: |gguf| gguf.shape_of("blk.0.attn_norm_2.weight").is_some(),
        model_type: "falcon",
        class: "FalconForCausalLM",
        fields: FALCON_FIELDS,
        more: |_, config| {
            put(config, "new_decoder_architecture", true)?;
            put(config, QKV_ORDER, "parts")
        },
        names: &names::FALCON_TWO_NORMS,
        ..PLAIN
    },
    Family {
        name: "phi2",
        model_type: "phi",
        class: "PhiForCausalLM",
        fields: &[DECODER, ROTARY, &[Field::Float("attention.layer_norm_epsilon", "layer_norm_eps")]],
        names: &names::PHI2,
        ..PLAIN
    },
    Family {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        fields: &[
            DECODER,
            ROTARY,
            &[
                Field::Float("attention.layer_norm_epsilon", "layer_norm_eps"),
                Field::MaybeFlag("use_parallel_residual", "use_parallel_residual"),
            ],
        ],
        more: stablelm,
        ..PLAIN
    },
    Family {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        fields: &[DECODER, ROTARY, &[Field::Float("attention.layer_norm_epsilon", "norm_epsilon")]],
        more: |keys, config| put(config, "use_bias", keys.has_in_layer("attn_q.bias")),
        names: &names::STARCODER2,
        ..PLAIN
    },
];

/// Sizes of a decoder as most have them.
const DECODER: &[Field] = &[
    Field::Size("block_count", "num_hidden_layers"),
    Field::Size("context_length", "max_position_embeddings"),
    Field::Size("embedding_length", "hidden_size"),
    Field::Size("feed_forward_length", "intermediate_size"),
    Field::Size("attention.head_count", "num_attention_heads"),
    Field::MaybeSize("attention.head_count_kv", "num_key_value_heads"),
];

const RMS: &[Field] = &[Field::Float("attention.layer_norm_rms_epsilon", "rms_norm_eps")];

const ROTARY: &[Field] =
    &[Field::MaybeFloat("rope.freq_base", "rope_theta"), Field::HeadDim, Field::RotaryPart, Field::RopeScaling];

/// Where 0 stands for none.
const WINDOW: &[Field] = &[Field::Window];

const FALCON_FIELDS: &[&[Field]] = &[
    ROTARY,
    &[
        Field::Size("block_count", "num_hidden_layers"),
        Field::Size("context_length", "max_position_embeddings"),
        Field::Size("embedding_length", "hidden_size"),
        Field::Size("feed_forward_length", "ffn_hidden_size"),
        Field::Size("attention.head_count", "num_attention_heads"),
        Field::MaybeSize("attention.head_count_kv", "num_kv_heads"),
        Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ],
];

/// How the rows of a fused matrix of queries, keys and values are put; the architectures that have one read it.
const QKV_ORDER: &str = "_qkv_order";

/// What is added to the weights of norms, which Gemma stores less 1 and converters do not.
const NORM_CENTRE: &str = "_norm_centre";

fn put(config: &mut Map<String, Value>, name: &str, value: impl Into<Value>) -> Result<()> {
    config.insert(name.to_owned(), value.into());
    Ok(())
}

fn has_experts(gguf: &Gguf, name: &str) -> bool {
    gguf.metadata.unsigned(&format!("{name}.expert_count")).ok().flatten().is_some_and(|experts| experts > 0)
}

/// Biases, of which the metadata say nothing.
fn llama_biases(keys: &Keys, config: &mut Map<String, Value>) -> Result<()> {
    put(config, "attention_bias", keys.has_in_layer("attn_q.bias"))?;
    put(config, "mlp_bias", keys.has_in_layer("ffn_up.bias"))
}

/// What scores are divided by the root of, which no key says: a head's numbers, but for the largest model, of so many
/// layers, where it is the width over the heads.
fn gemma_scale(keys: &Keys, config: &mut Map<String, Value>, layers_of_largest: usize) -> Result<()> {
    let is_largest = keys.size("block_count")? == Some(layers_of_largest);
    let (width, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let of_width = width.zip(heads).and_then(|(width, heads)| width.checked_div(heads)).filter(|_| is_largest);
    if let Some(scalar) = of_width.map_or_else(|| keys.head_dim(), |scalar| Ok(Some(scalar)))? {
        put(config, "query_pre_attn_scalar", scalar)?;
    }
    put(config, NORM_CENTRE, 0.0)
}

fn stablelm(keys: &Keys, config: &mut Map<String, Value>) -> Result<()> {
    if keys.has_in_layer("attn_q_norm.weight") {
        return Err(keys.metadata.unsupported(
            "norms of queries and keys (`attn_q_norm`) of `stablelm` are not supported in GGUF files",
            "take a copy of the model in safetensors",
        ));
    }
    put(config, "use_qkv_bias", keys.has_in_layer("attn_q.bias"))
}

/// The kind of a model.
pub(super) fn of(gguf: &Gguf) -> Result<&'static Family> {
    const KEY: &str = "general.architecture";
    let metadata = &gguf.metadata;
    let name = metadata.string(KEY)?.ok_or_else(|| metadata.missing(KEY))?;
    FAMILIES.iter().find(|family| family.name == name && (family.is_meant)(gguf)).ok_or_else(|| {
        let mut known: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        known.dedup();
        metadata.unsupported(
            format!("architecture {} is not supported in GGUF files", quote(name)),
            format!("GGUF files of {} are read", known.join(", ")),
        )
    })
}
