"""switches.json: every attribute of transformers' config classes, changed one at a time in the config.json of tiny models
of `long`, and what becomes of the logits behind 70 ids.

Beside the `ids` and those of them that are `sampled`, per model: `default`, the sampled logits behind the last id with
nothing changed; `same`, the changes that leave all logits as they are; `refused`, those with which transformers cannot load
the model, or leaves weights as chance made them; `other`, those that change the logits, with what these become. A change is
a key of config.json and its value. Keys of other architectures, and of older files, are tried with all (MORE).
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import torch
from common import FIXTURES, shorts, write_json
from part_long import BORDER, MODELS, TYPES, attention_of, model_type_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

LENGTH, SAMPLED = 70, [0, 11, 22, 33, 44, 55, 66, 77]
# What a file says of itself, of classes of texts, and of what a pass returns beside logits.
NAMES = {"model_type", "architectures", "transformers_version", "_name_or_path", "dtype"}
NAMES |= {"id2label", "label2id", "problem_type", "summary_type", "summary_use_proj", "summary_activation"}
NAMES |= {"summary_proj_to_labels", "summary_first_dropout", "return_dict", "output_attentions", "output_hidden_states"}
# One of each architecture, and those that read other keys.
NAMED = [name for name in MODELS if name == model_type_of(name)] + ["falcon_groups", "falcon_alibi", "llama_longrope", "phi3_longrope"]
SCALING = {"rope_type": "linear", "factor": 2.0}
# Values for attributes whose own value does not tell of which kind they are; and keys of older files or other architectures.
MORE = {
    "sliding_window": [10],
    "window_size": [10],
    "n_inner": [30],
    "intermediate_size": [30],
    "head_dim": [8],
    "num_kv_heads": [2],
    "num_key_value_heads": [1],
    "num_ln_in_parallel_attn": [1, 2],
    "layer_types": [TYPES[:2], TYPES, ["full_attention"] * 3, ["full_attention"] * 2],
    "rope_theta": [123.0],
    "rope_scaling": [SCALING, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 40}, {"type": "dynamic", "factor": 2.0}],
    "rope_parameters": [{"rope_type": "default", "rope_theta": 77.0}],
    "rope_local_base_freq": [77.0],
    "sliding_window_pattern": [2],
    "rotary_emb_base": [123],
    "rotary_pct": [0.5],
    "rotary_dim": [2],
    "partial_rotary_factor": [0.5, 1.0],
    "original_max_position_embeddings": [BORDER - 8],
    "attention_bias": [True],
    "mlp_bias": [True],
    "qkv_bias": [True],
    "use_bias": [True],
    "clip_qkv": [0.5],
    "attn_logit_softcapping": [2.0],
    "final_logit_softcapping": [2.0],
    "logit_scale": [2.0],
    "qk_layernorm": [True],
    "use_qk_norm": [True],
    "use_bidirectional_attention": [True],
    "use_sliding_window": [True],
    "max_window_layers": [0],
    "attention_layers": [["local", "local", "local"]],
    "attention_types": [[[["local"], 3]]],
    "no_rope_layers": [[1, 1, 1]],
    "mlp_only_layers": [[0]],
    "add_cross_attention": [True],
    "n_embed": [32],
    "hidden_act": ["relu"],
    "quantization_config": [],
}
ACTIVATIONS = ["hidden_act", "hidden_activation", "activation_function", "activation"]


def changes(defaults: dict, described: dict):
    """Keys of config.json, and other values for them."""
    for key in sorted((defaults.keys() | MORE.keys()) - NAMES):
        value = described.get(key, defaults.get(key))
        values = list(MORE.get(key, []))
        if key in ACTIVATIONS and key in defaults:
            values = ["relu", "silu"]
        elif isinstance(value, bool):
            values.append(not value)
        elif isinstance(value, int):
            behind = [] if key.endswith("_token_id") else [value + 1]  # torch refuses a row that is not there
            values += behind + ([value - 1] if value > 0 else [])
        elif isinstance(value, float):
            values += [value * 1.5 if value > 0.01 else 0.05]
        elif key in defaults and key not in MORE:
            values += ["other"] if isinstance(value, str) else [True, 1]
        for other in values:
            if other != value:
                yield key, other


def load(folder: Path, model_type: str):
    loader = AutoModelForImageTextToText if model_type == "gemma3" else AutoModelForCausalLM
    experts = {"experts_implementation": "eager"} if model_type in {"mixtral", "qwen3_moe"} else {}
    model, info = loader.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **attention_of(model_type), **experts
    )
    if info["missing_keys"] or info["mismatched_keys"] or info["error_msgs"]:
        raise ValueError("weights are missing")
    return model.eval()


def logits(folder: Path, described: dict, model_type: str, ids: torch.Tensor) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as other:
        shutil.copy(folder / "model.safetensors", other)
        (Path(other) / "config.json").write_text(json.dumps(described))
        return load(Path(other), model_type)(input_ids=ids[None], return_dict=True).logits[0]


def one(name: str, ids: torch.Tensor) -> dict:
    folder, model_type = FIXTURES / "long" / name, model_type_of(name)
    described = json.loads((folder / "config.json").read_text())
    default = logits(folder, described, model_type, ids)
    defaults = AutoConfig.for_model(model_type).to_dict()
    inner = "text_config" if model_type == "gemma3" else None
    found = {"model": name, "default": shorts(default[-1, SAMPLED]), "same": [], "refused": [], "other": []}
    for key, value in changes(defaults[inner] if inner else defaults, described[inner] if inner else described):
        changed = copy.deepcopy(described)
        (changed[inner] if inner else changed)[key] = value
        try:
            result = logits(folder, changed, model_type, ids)
        except (TypeError, AttributeError, ZeroDivisionError):
            continue  # an accident of transformers
        except Exception:
            found["refused"].append([key, value])
            continue
        if result.shape == default.shape and (result - default).abs().max() < 1e-5:
            found["same"].append([key, value])
        else:
            shown = shorts(result[-1, SAMPLED])
            found["other"].append([key, value, shown])
    print(f"  {name}: {len(found['same'])} change nothing, {len(found['refused'])} cannot be loaded, {len(found['other'])} show", flush=True)
    return found


def make() -> None:
    ids = torch.randint(0, 96, (LENGTH,), generator=torch.Generator().manual_seed(7))
    write_json("switches.json", {"ids": ids.tolist(), "sampled": SAMPLED}, [one(name, ids) for name in NAMED])
