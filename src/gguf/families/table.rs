//! Every kind of model that is read and written, and what is special in some.

use serde_json::{Map, Value, json};

use super::{Family, Fused, Implied, Pairs, names};
use crate::error::Result;
use crate::gguf::config::{Field, Keys, Windows};
use crate::gguf::model::Gguf;

/// What most families have in common.
const PLAIN: Family = Family {
    name: "",
    is_meant: |_| true,
    model_type: "",
    class: "",
    is_meant_by: |_| true,
    fields: &[DECODER, RMS, THETA, HEAD_DIM, SCALING],
    implied: &[SILU, NO_WINDOWS, NO_BIASES],
    more: |_, _| Ok(()),
    unsayable: |_| None,
    names: &names::LLAMA,
    pairs: Pairs::AsTransformers,
    fused: Fused::AsTransformers,
    norms_more_by: 0.0,
    has_head: false,
    scalings: &["linear", "yarn"],
};

/// Llama's own, and what is written by the same converter.
const LLAMA: Family = Family {
    name: "llama",
    is_meant: |_| true,
    model_type: "llama",
    class: "LlamaForCausalLM",
    fields: &[DECODER, RMS, THETA, HEAD_DIM, LLAMA_ROTARY, SCALING],
    implied: &[SILU],
    more: llama_biases,
    pairs: Pairs::Neighbours,
    scalings: &["linear", "yarn", "longrope", "_factors"],
    ..PLAIN
};

/// Every kind.
pub(super) const FAMILIES: &[Family] = &[
    Family { is_meant: |gguf| !has_experts(gguf, "llama") && !has_window(gguf, "llama"), ..LLAMA },
    Family {
        is_meant: |gguf| !has_experts(gguf, "llama") && has_window(gguf, "llama"),
        model_type: "mistral",
        class: "MistralForCausalLM",
        fields: &[DECODER, RMS, THETA, HEAD_DIM, LLAMA_ROTARY, SCALING, UNHEEDED_WINDOW],
        more: |_, _| Ok(()),
        ..LLAMA
    },
    Family {
        is_meant: |gguf| has_experts(gguf, "llama"),
        model_type: "mixtral",
        class: "MixtralForCausalLM",
        fields: &[
            DECODER,
            RMS,
            THETA,
            HEAD_DIM,
            LLAMA_ROTARY,
            SCALING,
            UNHEEDED_WINDOW,
            &[
                Field::Size("expert_count", "num_local_experts"),
                Field::Size("expert_used_count", "num_experts_per_tok"),
            ],
        ],
        more: |_, _| Ok(()),
        names: &names::MIXTRAL,
        ..LLAMA
    },
    Family { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", implied: &[SILU, NO_WINDOWS], ..PLAIN },
    Family { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", ..PLAIN },
    Family {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        fields: &[
            DECODER,
            RMS,
            THETA,
            HEAD_DIM,
            SCALING,
            &[
                Field::Size("expert_count", "num_experts"),
                Field::Size("expert_used_count", "num_experts_per_tok"),
                Field::Size("expert_feed_forward_length", "moe_intermediate_size"),
            ],
        ],
        implied: &[SILU, NO_WINDOWS, NO_BIASES, Implied::Flag("norm_topk_prob", true)],
        names: &names::QWEN3_MOE,
        ..PLAIN
    },
    Family {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        implied: &[Implied::Name("hidden_act", &["gelu_pytorch_tanh", "gelu", "gelu_new"]), NO_BIASES],
        names: &names::GEMMA,
        norms_more_by: 1.0,
        ..PLAIN
    },
    Family {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        fields: &[
            DECODER,
            RMS,
            THETA,
            HEAD_DIM,
            SCALING,
            WINDOW,
            &[
                Field::WindowLayers(Windows::EveryOther),
                Field::Cap("attn_logit_softcapping", "attn_logit_softcapping"),
                Field::Cap("final_logit_softcapping", "final_logit_softcapping"),
            ],
        ],
        implied: GEMMA_IMPLIED,
        more: |keys, config| gemma_scale(keys, config, GEMMA2_LARGEST),
        unsayable: |config| other_scale(config, GEMMA2_LARGEST),
        names: &names::GEMMA2,
        norms_more_by: 1.0,
        scalings: &["linear"],
        ..PLAIN
    },
    Family {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        fields: &[
            DECODER,
            RMS,
            THETA,
            HEAD_DIM,
            SCALING,
            WINDOW,
            &[
                Field::WindowLayers(Windows::FiveOfSix),
                Field::MaybeFloat("rope.freq_base_swa", "rope_local_base_freq"),
                Field::MaybeFloat("final_logit_softcapping", "final_logit_softcapping"),
            ],
        ],
        implied: GEMMA_IMPLIED,
        more: |keys, config| gemma_scale(keys, config, GEMMA3_LARGEST),
        unsayable: |config| other_scale(config, GEMMA3_LARGEST),
        names: &names::GEMMA3,
        norms_more_by: 1.0,
        scalings: &["linear"], // of layers without a window, as transformers has it
        ..PLAIN
    },
    Family {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        fields: &[DECODER, RMS, THETA, HEAD_DIM, ROTARY_PART, SCALING, UNHEEDED_WINDOW],
        implied: &[SILU],
        names: &names::PHI3,
        scalings: &["longrope"],
        ..PLAIN
    },
    Family {
        name: "olmo2",
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        implied: &[SILU, NO_BIASES],
        names: &names::OLMO2,
        has_head: true,
        ..PLAIN
    },
    Family {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        fields: &[
            DECODER,
            RMS,
            THETA,
            HEAD_DIM,
            LLAMA_ROTARY,
            SCALING,
            &[
                Field::MaybeFloat("attention.scale", "attention_multiplier"),
                Field::MaybeFloat("embedding_scale", "embedding_multiplier"),
                Field::MaybeFloat("residual_scale", "residual_multiplier"),
                Field::MaybeFloat("logit_scale", "logits_scaling"),
            ],
        ],
        ..Family { name: "granite", ..LLAMA }
    },
    Family {
        name: "smollm3",
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        implied: &[SILU, NO_WINDOWS, NO_BIASES, Implied::Flag("mlp_bias", false)],
        unsayable: |config| {
            // llama.cpp's own count, for which there is no key.
            let turns = config["no_rope_layers"].as_array()?.iter().enumerate();
            let mut others = turns.filter(|(layer, turns)| (*turns != &json!(0)) == (layer + 1).is_multiple_of(4));
            others.next().map(|(layer, turns)| format!("`no_rope_layers` of layer {layer} is {turns}"))
        },
        scalings: &["linear", "yarn"],
        ..LLAMA
    },
    Family {
        name: "gpt2",
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        fields: &[&[
            Field::Size("block_count", "n_layer"),
            Field::Size("context_length", "n_positions"),
            Field::Size("embedding_length", "n_embd"),
            Field::SizeOrFourTimes("feed_forward_length", "n_inner", "n_embd"),
            Field::Size("attention.head_count", "n_head"),
            Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ]],
        implied: &[
            Implied::Name("activation_function", TANH_GELU),
            Implied::Flag("scale_attn_weights", true),
            Implied::Flag("scale_attn_by_inverse_layer_idx", false),
            Implied::Flag("add_cross_attention", false),
        ],
        names: &names::GPT2,
        ..PLAIN
    },
    Family {
        name: "gptneox",
        model_type: "gpt_neox",
        class: "GPTNeoXForCausalLM",
        fields: &[
            DECODER,
            THETA,
            ROTARY_PART,
            SCALING,
            &[
                Field::Float("attention.layer_norm_epsilon", "layer_norm_eps"),
                Field::MaybeFlag("use_parallel_residual", "use_parallel_residual"),
            ],
        ],
        implied: &[Implied::Name("hidden_act", &["gelu"]), Implied::Flag("attention_bias", true)],
        names: &names::GPT_NEOX,
        fused: Fused::Parts,
        has_head: true,
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
            Field::SizeOrFourTimes("feed_forward_length", "n_inner", "hidden_size"),
            Field::Size("attention.head_count", "n_head"),
            Field::MaybeSize("attention.head_count_kv", "n_head"),
            Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ]],
        implied: &[Implied::Flag("apply_residual_connection_post_layernorm", false)],
        names: &names::BLOOM,
        fused: Fused::Parts,
        ..PLAIN
    },
    Family {
        is_meant: |gguf| gguf.shape_of("blk.0.attn_norm_2.weight").is_none(),
        is_meant_by: |config| config["num_ln_in_parallel_attn"] == 1,
        more: |keys, config| {
            let kv_heads = keys.size("attention.head_count_kv")?.unwrap_or(1);
            put(config, "num_ln_in_parallel_attn", 1)?;
            put(config, "new_decoder_architecture", kv_heads != 1)
        },
        names: &names::FALCON,
        ..FALCON
    },
    Family {
        is_meant: |gguf| gguf.shape_of("blk.0.attn_norm_2.weight").is_some(),
        is_meant_by: |config| config["num_ln_in_parallel_attn"] != 1,
        more: |_, config| put(config, "new_decoder_architecture", true),
        names: &names::FALCON_TWO_NORMS,
        ..FALCON
    },
    Family {
        name: "phi2",
        model_type: "phi",
        class: "PhiForCausalLM",
        fields: &[
            DECODER,
            THETA,
            ROTARY_PART,
            SCALING,
            &[Field::Float("attention.layer_norm_epsilon", "layer_norm_eps")],
        ],
        implied: &[Implied::Name("hidden_act", TANH_GELU), Implied::Flag("qk_layernorm", false)],
        names: &names::PHI2,
        has_head: true,
        ..PLAIN
    },
    Family {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        fields: &[
            DECODER,
            THETA,
            ROTARY_PART,
            SCALING,
            &[
                Field::Float("attention.layer_norm_epsilon", "layer_norm_eps"),
                Field::MaybeFlag("use_parallel_residual", "use_parallel_residual"),
            ],
        ],
        implied: &[SILU],
        more: |keys, config| {
            put(config, "qk_layernorm", keys.has_in_layer("attn_q_norm.weight"))?;
            // The flag says what a converter took for the default; the norm in front of the MLP says what there is.
            put(config, "use_parallel_residual", !keys.has_in_layer("ffn_norm.weight"))?;
            put(config, "use_qkv_bias", keys.has_in_layer("attn_q.bias"))
        },
        names: &names::STABLELM,
        has_head: true,
        ..PLAIN
    },
    Family {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        fields: &[
            DECODER,
            THETA,
            SCALING,
            UNHEEDED_WINDOW,
            &[Field::Float("attention.layer_norm_epsilon", "norm_epsilon")],
        ],
        implied: &[Implied::Name("hidden_act", TANH_GELU), Implied::Flag("use_bias", true)],
        more: |keys, config| put(config, "use_bias", keys.has_in_layer("attn_q.bias")),
        names: &names::STARCODER2,
        ..PLAIN
    },
];

const FALCON: Family = Family {
    name: "falcon",
    model_type: "falcon",
    class: "FalconForCausalLM",
    fields: &[
        THETA,
        SCALING,
        &[
            Field::Text("tensor_data_layout", "jploski"),
            Field::Size("block_count", "num_hidden_layers"),
            Field::Size("context_length", "max_position_embeddings"),
            Field::Size("embedding_length", "hidden_size"),
            Field::Size("feed_forward_length", "ffn_hidden_size"),
            Field::Size("attention.head_count", "num_attention_heads"),
            Field::MaybeSize("attention.head_count_kv", "num_kv_heads"),
            Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ],
    ],
    implied: &[
        Implied::Name("activation", &["gelu"]),
        Implied::Flag("alibi", false),
        Implied::Flag("parallel_attn", true),
        Implied::Flag("bias", false),
    ],
    fused: Fused::Parts,
    ..PLAIN
};

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
const THETA: &[Field] = &[Field::MaybeFloat("rope.freq_base", "rope_theta")];
const HEAD_DIM: &[Field] = &[Field::HeadDim];
const ROTARY_PART: &[Field] = &[Field::RotaryPart];
const LLAMA_ROTARY: &[Field] = &[Field::RotaryPart, Field::Rows];
const SCALING: &[Field] = &[Field::RopeScaling];

/// Where 0 stands for none.
const WINDOW: &[Field] = &[Field::Window];
/// One that llama.cpp pays no attention to.
const UNHEEDED_WINDOW: &[Field] = &[Field::UnheededWindow];

const SILU: Implied = Implied::Name("hidden_act", &["silu", "swish"]);
const NO_WINDOWS: Implied = Implied::Flag("use_sliding_window", false);
const NO_BIASES: Implied = Implied::Flag("attention_bias", false);
const TANH_GELU: &[&str] = &["gelu_pytorch_tanh", "gelu_new"];

const GEMMA_IMPLIED: &[Implied] =
    &[Implied::Name("hidden_activation", TANH_GELU), NO_BIASES, Implied::None("rope_local_scaling")];

/// Layers of the largest models, see [`gemma_scale`].
const GEMMA2_LARGEST: usize = 46;
const GEMMA3_LARGEST: usize = 62;

fn put(config: &mut Map<String, Value>, name: &str, value: impl Into<Value>) -> Result<()> {
    config.insert(name.to_owned(), value.into());
    Ok(())
}

fn has_experts(gguf: &Gguf, name: &str) -> bool {
    gguf.metadata.unsigned(&format!("{name}.expert_count")).ok().flatten().is_some_and(|experts| experts > 0)
}

fn has_window(gguf: &Gguf, name: &str) -> bool {
    let window = gguf.metadata.unsigned(&format!("{name}.attention.sliding_window"));
    window.ok().flatten().is_some_and(|window| window > 0)
}

/// Biases, of which the metadata say nothing.
fn llama_biases(keys: &Keys, config: &mut Map<String, Value>) -> Result<()> {
    put(config, "attention_bias", keys.has_in_layer("attn_q.bias"))?;
    put(config, "mlp_bias", keys.has_in_layer("ffn_up.bias"))
}

/// What scores are divided by the root of, which no key says: a head's numbers, but for the largest model, of so many
/// layers, where it is the width over the heads.
fn gemma_scale(keys: &Keys, config: &mut Map<String, Value>, layers_of_largest: usize) -> Result<()> {
    let (width, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let is_largest = keys.size("block_count")? == Some(layers_of_largest);
    let of_width = width.zip(heads).and_then(|(width, heads)| width.checked_div(heads)).filter(|_| is_largest);
    match of_width.map_or_else(|| keys.head_dim(), |scalar| Ok(Some(scalar)))? {
        Some(scalar) => put(config, GEMMA_SCALAR, scalar),
        None => Ok(()),
    }
}

const GEMMA_SCALAR: &str = "query_pre_attn_scalar";

/// Where config.json has another.
fn other_scale(config: &Value, layers_of_largest: usize) -> Option<String> {
    let size = |name: &str| config[name].as_u64();
    let implied = match size("num_hidden_layers") == Some(layers_of_largest as u64) {
        true => size("hidden_size")?.checked_div(size("num_attention_heads")?)?,
        false => size("head_dim")?,
    };
    let scalar = config[GEMMA_SCALAR].as_f64()?;
    (scalar != implied as f64).then(|| format!("`{GEMMA_SCALAR}` is {scalar} where it implies {implied}"))
}
