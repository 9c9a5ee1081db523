"""gemma/, gemma2/, gemma3_text/, gemma3/, phi3/, olmo2/, granite/, smollm3/, mixtral/, qwen3_moe/ <name>/, and yarn, dynamic and
longrope in folders of llama/, mistral/ and qwen3/: tiny random models of the relatives of Llama, with what transformers
computes.

The files are those of `part_llama.py`. config.json is spelled as in the Hub's files; tensors are named as `save_pretrained`
names them, which is as the Hub has them. Each case lists changes of its settings that must show in the logits.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from common import FIXTURES, fill, save_tensors
from part_llama import greedy
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}

STDS = {"embed_tokens.weight": 0.5, "norm.weight": 0.3, "layernorm.weight": 0.3, "bias": 0.3, "mlp.gate.weight": 0.5}
QUIET = {"embed_tokens.weight": 0.15}
# Gemma multiplies embeddings by the root of their width.
FAINT = {"embed_tokens.weight": 0.08}
MOST_BYTES = 60 * 1024

SMALL = dict(
    hidden_size=16,
    intermediate_size=28,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=53,
    max_position_embeddings=128,
)
UNTIED = dict(tie_word_embeddings=False)
TIED = dict(tie_word_embeddings=True)
YARN = {"factor": 4.0, "original_max_position_embeddings": 32, "rope_type": "yarn"}
GEMMA2 = dict(SMALL, num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=5, hidden_activation="gelu_pytorch_tanh")
GEMMA3_NEWER = dict(
    GEMMA2,
    sliding_window=20,
    layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    rope_parameters={
        "full_attention": {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 32},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    },
)
SLIM = dict(intermediate_size=20)
VISION = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2)
MIXTRAL = dict(SMALL, intermediate_size=14, num_local_experts=5, num_experts_per_tok=2)
QWEN3_MOE = dict(SMALL, head_dim=6, moe_intermediate_size=10, num_experts=5, num_experts_per_tok=2)


def rope(settings: dict, **changes) -> dict:
    key = "rope_scaling" if "rope_scaling" in settings else "rope_parameters"
    return {key: settings[key] | changes}


LONG = dict(SMALL, head_dim=16, rope_theta=100.0, rope_scaling=YARN)
PHI3_LONG = dict(
    SMALL,
    hidden_size=32,
    intermediate_size=12,
    num_key_value_heads=1,
    vocab_size=43,
    partial_rotary_factor=0.75,
    original_max_position_embeddings=48,
    rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [1.2, 2.5, 3.0]},
)

# name: (what config.json says, standard deviations, length of input_ids, changes that must show)
MODELS = {
    "llama/yarn": (LONG, {}, 64, [rope(LONG, factor=5.0), rope(LONG, original_max_position_embeddings=40)]),
    "mistral/yarn": (
        mistral := dict(
            SMALL,
            head_dim=16,
            sliding_window=None,
            rope_theta=500.0,
            rope_scaling=YARN | dict(beta_fast=6.0, beta_slow=0.7, mscale=1.3, mscale_all_dim=0.4, truncate=False),
        ),
        {},
        64,
        [rope(mistral, **{key: value}) for key, value in dict(beta_fast=3.0, beta_slow=2.0, mscale=0.9, mscale_all_dim=0.8, truncate=True).items()],
    ),
    "qwen3/yarn": (
        qwen3 := dict(SMALL, head_dim=12, rope_parameters=YARN | dict(attention_factor=1.4, rope_theta=90.0)),
        {},
        64,
        [rope(qwen3, attention_factor=1.3), rope(qwen3, rope_theta=100.0)],
    ),
    # Nothing shows: frequencies change behind max_position_embeddings only.
    "llama/dynamic": (dict(SMALL, rope_scaling={"type": "dynamic", "factor": 4.0}), {}, 64, []),
    # transformers' generate forgets the cache at the border for Phi-3 only, so here every text is behind it.
    "llama/longrope": (
        longrope := dict(
            SMALL,
            num_attention_heads=2,
            rope_scaling={
                "rope_type": "longrope",
                "factor": 3.0,
                "original_max_position_embeddings": 28,
                "short_factor": [1.0, 1.0, 1.1, 1.4],
                "long_factor": [1.1, 1.9, 3.0, 3.5],
            },
        ),
        {},
        64,
        [rope(longrope, factor=5.0), rope(longrope, attention_factor=1.5), rope(longrope, long_factor=[1.1, 1.9, 2.0, 3.5])],
    ),
    # As the first files are: the approximation of GELU under another name.
    "gemma/base": (
        dict(SMALL, head_dim=10, hidden_act="gelu", rope_theta=10000.0),
        FAINT,
        64,
        [dict(rope_theta=8000.0), dict(hidden_act="silu"), dict(num_key_value_heads=1)],
    ),
    "gemma/biases": (
        dict(SMALL, **UNTIED, num_hidden_layers=3, num_key_value_heads=1, head_dim=6, hidden_act="relu", attention_bias=True, rms_norm_eps=0.2),
        {},
        64,
        [dict(rms_norm_eps=0.3)],
    ),
    "gemma2/base": (
        dict(GEMMA2, sliding_window=20, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
        FAINT,
        64,
        [dict(sliding_window=19), dict(sliding_window=21), dict(attn_logit_softcapping=2.4), dict(final_logit_softcapping=3.3), dict(query_pre_attn_scalar=6)],
    ),
    "gemma2/types": (
        dict(
            GEMMA2,
            **UNTIED,
            hidden_activation="silu",
            attention_bias=True,
            rms_norm_eps=0.05,
            sliding_window=20,
            layer_types=["full_attention", "full_attention", "sliding_attention"],
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
        ),
        {},
        48,
        [dict(sliding_window=19), dict(layer_types=["full_attention"] * 3), dict(attn_logit_softcapping=3.0), dict(final_logit_softcapping=3.0)],
    ),
    # Past the window, past a section of the cache, with the default caps.
    "gemma2/long": (
        dict(GEMMA2, num_hidden_layers=2, vocab_size=23, max_position_embeddings=512, sliding_window=97),
        FAINT,
        270,
        [dict(sliding_window=96), dict(sliding_window=98)],
    ),
    # As the files on the Hub are: two thetas, a factor for layers without a window.
    "gemma3_text/base": (
        gemma3 := dict(
            GEMMA2,
            sliding_window=20,
            sliding_window_pattern=3,
            rope_theta=300.0,
            rope_local_base_freq=20.0,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
        FAINT,
        64,
        [],
    ),
    "gemma3_text/newer": (
        dict(GEMMA3_NEWER, **UNTIED, attention_bias=True, final_logit_softcapping=3.0, rms_norm_eps=0.05),
        {},
        44,
        [dict(sliding_window=21), dict(final_logit_softcapping=3.3), dict(query_pre_attn_scalar=7)],
    ),
    "gemma3/base": (dict(text_config=gemma3 | SLIM, vision_config=VISION, mm_tokens_per_image=4), FAINT, 36, []),
    "gemma3/newer": (dict(text_config=GEMMA3_NEWER | SLIM, vision_config=VISION, mm_tokens_per_image=4), FAINT, 36, []),
    "phi3/base": (
        dict(SMALL, sliding_window=20, rope_theta=300.0, rms_norm_eps=0.02),
        {},
        64,
        [dict(sliding_window=19), dict(sliding_window=21), dict(rms_norm_eps=0.025)],
    ),
    # Longer than the original context: all positions have the long factors. The greedy text comes to the border on its way.
    "phi3/long": (
        PHI3_LONG,
        {},
        64,
        [rope(PHI3_LONG, long_factor=[1.2, 2.0, 3.0]), dict(max_position_embeddings=256), dict(original_max_position_embeddings=64)],
    ),
    # Shorter, and tied as Phi-4-mini is.
    "phi3/short": (
        phi3_short := dict(PHI3_LONG, **TIED, rope_scaling=PHI3_LONG["rope_scaling"] | {"factor": 3.0}),
        QUIET,
        48,
        [rope(phi3_short, short_factor=[1.0, 1.4, 1.5]), dict(original_max_position_embeddings=40)],
    ),
    "olmo2/base": (dict(SMALL, num_hidden_layers=3, rope_theta=500.0), {}, 64, [dict(rope_theta=400.0)]),
    "olmo2/biases": (
        dict(SMALL, num_key_value_heads=4, attention_bias=True, rms_norm_eps=0.05, hidden_act="gelu"),
        {},
        64,
        [dict(rms_norm_eps=0.06), dict(hidden_act="silu")],
    ),
    "granite/base": (
        dict(SMALL, num_hidden_layers=3, embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.7, logits_scaling=0.6),
        {},
        64,
        [dict(embedding_multiplier=3.3), dict(attention_multiplier=0.25), dict(residual_multiplier=0.75), dict(logits_scaling=0.65)],
    ),
    "granite/biases": (
        dict(SMALL, num_key_value_heads=1, attention_bias=True, mlp_bias=True, residual_multiplier=0.4, attention_multiplier=0.7, rope_theta=300.0, rms_norm_eps=0.05),
        {},
        64,
        [dict(rms_norm_eps=0.06), dict(residual_multiplier=0.45), dict(attention_multiplier=0.6)],
    ),
    "smollm3/base": (
        dict(SMALL, num_hidden_layers=3, no_rope_layer_interval=2, rope_theta=300.0, use_sliding_window=False, sliding_window=None),
        QUIET,
        64,
        [dict(no_rope_layer_interval=3, no_rope_layers=[1, 1, 0])],
    ),
    # A theta of two million where there is none; layers without positions have the window.
    "smollm3/window": (
        dict(
            SMALL,
            **UNTIED,
            num_hidden_layers=3,
            no_rope_layers=[0, 1, 0],
            use_sliding_window=True,
            sliding_window=20,
            attention_bias=True,
            mlp_bias=True,
            rms_norm_eps=0.02,
        ),
        {},
        64,
        [dict(sliding_window=19), dict(no_rope_layers=[1, 1, 0]), dict(rms_norm_eps=0.025)],
    ),
    "smollm3/types": (
        dict(
            SMALL,
            num_key_value_heads=4,
            no_rope_layers=[1, 0],
            use_sliding_window=True,
            sliding_window=20,
            layer_types=["sliding_attention", "full_attention"],
        ),
        QUIET,
        64,
        [dict(sliding_window=21), dict(layer_types=["full_attention", "full_attention"])],
    ),
    "mixtral/base": (MIXTRAL, {}, 64, [dict(num_experts_per_tok=3)]),
    "mixtral/window": (
        dict(MIXTRAL, head_dim=6, num_experts_per_tok=1, sliding_window=20, rope_theta=300.0, rms_norm_eps=0.02, hidden_act="gelu"),
        {},
        40,
        [dict(sliding_window=21), dict(num_experts_per_tok=2), dict(hidden_act="silu"), dict(rms_norm_eps=0.03)],
    ),
    "qwen3_moe/base": (
        dict(QWEN3_MOE, num_experts_per_tok=3, norm_topk_prob=True, mlp_only_layers=[0], sliding_window=20, use_sliding_window=False),
        {},
        64,
        [dict(norm_topk_prob=False), dict(num_experts_per_tok=2)],
    ),
    "qwen3_moe/window": (
        dict(
            QWEN3_MOE,
            decoder_sparse_step=2,
            norm_topk_prob=False,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=20,
            rope_theta=300.0,
            rms_norm_eps=0.02,
        ),
        {},
        64,
        [dict(norm_topk_prob=True), dict(sliding_window=19), dict(rms_norm_eps=0.03)],
    ),
    # What GGUF files mean by not saying it: a scale of scores that follows from the head, every other layer with a window, five
    # of six, three of four layers with positions, experts in all layers.
    "gemma2/usual": (
        dict(GEMMA2, query_pre_attn_scalar=8, sliding_window=20, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
        FAINT,
        40,
        [dict(sliding_window=19), dict(query_pre_attn_scalar=6)],
    ),
    "gemma3_text/usual": (
        dict(
            GEMMA2 | dict(num_hidden_layers=6, num_attention_heads=2, num_key_value_heads=1, intermediate_size=10, query_pre_attn_scalar=8),
            vocab_size=43,
            sliding_window=20,
            sliding_window_pattern=6,
            rope_theta=300.0,
            rope_local_base_freq=20.0,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
        FAINT,
        40,
        [],
    ),
    "smollm3/usual": (
        dict(SMALL, num_hidden_layers=5, intermediate_size=12, vocab_size=43, rope_theta=300.0),
        QUIET,
        40,
        [dict(no_rope_layer_interval=3, no_rope_layers=[1, 1, 0, 1, 1])],
    ),
    "qwen3_moe/usual": (
        dict(QWEN3_MOE, vocab_size=43, norm_topk_prob=True, use_sliding_window=False, rope_theta=300.0),
        {},
        40,
        [dict(norm_topk_prob=False), dict(num_experts_per_tok=1)],
    ),
}


def read(folder: Path, **changes):
    described = json.loads((folder / "config.json").read_text())
    loader = AutoModelForImageTextToText if described["model_type"] == "gemma3" else AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as other:  # changes are made where a user would make them
        shutil.copy(folder / "model.safetensors", other)
        (Path(other) / "config.json").write_text(json.dumps(described | changes))
        return loader.from_pretrained(other, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()


def make_one(name: str, seed: int) -> None:
    settings, stds, length, shows = MODELS[name]
    model_type = name.split("/")[0]
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    sizes = settings.get("text_config", settings)
    end = sizes["vocab_size"] - 1
    described = {"architectures": [CLASSES[model_type]], "model_type": model_type, "bos_token_id": end, "eos_token_id": end}
    if "text_config" not in settings:
        described["pad_token_id"] = end
    (folder / "config.json").write_text(json.dumps(described | settings, indent=2, sort_keys=True) + "\n")
    config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
    auto = AutoModelForImageTextToText if model_type == "gemma3" else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32).eval()
    fill(model, seed, stds | STDS if not stds else STDS | stds)
    if model_type.startswith("gemma"):  # whose norms are stored less 1
        for key, parameter in model.named_parameters():
            if "norm" in key and "vision" not in key:
                parameter.sub_(1.0)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
    if name == "gemma3/newer":  # as releases of transformers between 4.52 and 5 save it
        tensors = {
            "model." + key.replace("language_model.model.", "language_model."): value for key, value in tensors.items()
        }
    save_tensors(folder / "model.safetensors", tensors)

    loaded = read(folder)
    ids = torch.randint(0, sizes["vocab_size"] - 1, (length,), generator=torch.Generator().manual_seed(seed))
    logits = loaded(input_ids=ids[None]).logits[0]
    for key, value in settings.items():
        if not key.startswith("rope") and key not in {"text_config", "vision_config", "hidden_act"}:
            assert getattr(loaded.config, key, value) == value or key in {"sliding_window"}, (name, key)
    for change in shows:
        try:
            otherwise = read(folder, **change)
        except RuntimeError:
            continue  # the weights do not fit, which shows too
        gap = (otherwise(input_ids=ids[None]).logits[0] - logits).abs().max()
        assert gap > 1e-2, f"{name}: nothing shows {change}: {gap}"
    prompt, new, gap = greedy(loaded, sizes["vocab_size"] - 1, seed)
    assert torch.equal(logits, read(folder)(input_ids=ids[None]).logits[0]), name
    exact = loaded.double()(input_ids=ids[None]).logits[0]
    assert (logits - exact).abs().max() < 5e-5, (name, (logits - exact).abs().max())
    expected = {"input_ids": ids, "logits": logits.contiguous(), "greedy_prompt": prompt, "greedy_ids": new}
    save_tensors(folder / "expected.safetensors", expected)
    bytes_of = sum(file.stat().st_size for file in folder.iterdir())
    assert bytes_of <= MOST_BYTES, (name, bytes_of)
    print(f"  {name}: {bytes_of // 1024} KB, logits std {logits.std():.2f}, greedy after {len(prompt)}, gap {gap:.4f}, {len(set(new.tolist()))} distinct")


def make() -> None:
    for number, name in enumerate(MODELS):
        make_one(name, 3000 + number)
