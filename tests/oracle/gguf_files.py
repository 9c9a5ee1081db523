"""gguf.json: what llama.cpp's converter makes of the tiny models, for a person to run: `gguf_files.py LLAMA_CPP [FOLDER [LOGITS]]`.

LLAMA_CPP is llama.cpp's source (the package llama-cpp-python 0.3.36 has it in vendor/llama.cpp), whose convert_hf_to_gguf.py and
gguf-py are used as they are, but for a vocabulary of made-up tokens and for one mistake: `modify_tensors` of StableLM loses
the norms of queries and keys. Each case is one file in f32: its keys, and its tensors as [name, shape, sha256's first 16 digits].
`tests/it/gguf/converter.rs` compares with them what `fireside quantize` writes, and reads the converter's file, put together from both.
`vocabularies` are what it says of SentencePiece's own file (`sentencepiece/tokenizer.model`, which `make.py` has the library make)
with several settings beside it, in a model of `ROWS` tokens: `tests/it/gguf/vocabulary.rs`.

The converter reads a few fields that transformers no longer writes, and names with a prefix only, so models are spelled for it
as their first releases were: see `spelled`. The files stay in FOLDER, if it is given. With LOGITS, the program of `llama_logits.cpp`, nothing is written: it
prints for each file of FOLDER, named as here and written by whom you like, how far llama.cpp's logits are from transformers'.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf
import numpy as np
from common import FIXTURES, save_tensors
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
from safetensors.torch import load_file

MODELS = """
llama/base llama/old llama/one_key_head llama/llama3 llama/yarn llama/bf16 mistral/no_window mistral/window mistral/long mixtral/base
qwen2/base qwen3/base qwen3/yarn qwen3_moe/usual gemma/base gemma2/usual gemma3_text/usual phi3/base phi3/short phi3/long
olmo2/base granite/base granite/biases smollm3/usual gpt2/base gpt2/bare gpt2/odd gpt2/untied gpt_neox/base gpt_neox/new
bloom/base bloom/long falcon/base falcon/groups falcon/heads phi/base stablelm/base stablelm/parallel starcoder2/base starcoder2/long
""".split()

# The prefix of all tensors but the head.
PREFIXES = {"gpt2": "transformer.", "bloom": "transformer.", "falcon": "transformer.", "gpt_neox": "gpt_neox.", "phi": "model."}
HEADS = ("lm_head", "embed_out")
MASKS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "inv_freq")


def spelled(name: str, folder: Path) -> None:
    """Rewrites a model as the converter wants it."""
    model_type = name.split("/")[0]
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if model_type == "gpt2":
        config["n_ctx"] = config["n_positions"]
    if model_type == "falcon" and not config.get("new_decoder_architecture"):
        config["num_kv_heads"] = 1 if config.get("multi_query", True) else config["num_attention_heads"]
    path.write_text(json.dumps(config))
    rows = config["vocab_size"]  # Gemma 3's converter counts them
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(rows)}}, "added_tokens": []}))
    prefix = PREFIXES.get(model_type, "")
    tensors = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        if not key.endswith(MASKS):
            tensors[key if key.startswith((prefix, *HEADS)) else prefix + key] = tensor
    save_tensors(folder / "model.safetensors", tensors)


def vocabulary(self) -> None:
    rows = self.hparams["vocab_size"]
    self.gguf_writer.add_tokenizer_model("gpt2")
    self.gguf_writer.add_tokenizer_pre("gpt-2")
    self.gguf_writer.add_token_list([chr(ord("a") + i) if i < 10 else f"[PAD{i}]" for i in range(rows)])
    self.gguf_writer.add_token_types([1 if i < 10 else 5 for i in range(rows)])
    self.gguf_writer.add_token_merges(["a b"])


def stacked_norms(converter):
    """StableLM's `modify_tensors`, of whose own generator the norms' part is never run."""
    if not hasattr(converter, "_stack_qk_norm"):
        return {}

    def modify_tensors(self, tensor, name, layer):
        for kind, count in (("q", self.hparams["num_attention_heads"]), ("k", self.hparams["num_key_value_heads"])):
            if f"{kind}_layernorm.norms" in name:
                norms = self.__dict__.setdefault(f"norms_{kind}_{layer}", {})
                norms[name] = tensor
                if len(norms) == count:
                    yield from self._stack_qk_norm(layer, count, norms, f"{kind}_layernorm")
                return
        yield from super(converter, self).modify_tensors(tensor, name, layer)

    return {"modify_tensors": modify_tensors}


# The model whose tokens are compared has so many.
ROWS = 513


def settings() -> list[tuple[str, dict]]:
    """Architectures, and what stands in tokenizer_config.json."""
    written = {name: json.loads((FIXTURES / f"sentencepiece/{name}.json").read_text()) for name in ("llama", "no_space")}
    token = lambda content, special, **flags: {"content": content, "special": special, "lstrip": False} | flags
    later = {460: token("<|user|>", True, rstrip=True), 461: token("a▁b", False), 462: token("<|tool|>", False), 463: token("<unused7>", False)}
    with_later = {"added_tokens_decoder": written["llama"]["added_tokens_decoder"] | {str(id): token for id, token in later.items()}}
    bare = {key: value for key, value in written["llama"].items() if key != "added_tokens_decoder"}
    cases = [("LlamaForCausalLM", value) for value in (*written.values(), written["llama"] | with_later, bare)]
    return [*cases, ("GemmaForCausalLM", written["llama"] | with_later | {"tokenizer_class": "GemmaTokenizer"})]


def vocabularies() -> list[dict]:
    cases = []
    for architecture, values in settings():
        with tempfile.TemporaryDirectory() as there:
            folder = Path(there) / "tiny"
            shutil.copytree(FIXTURES / "llama/base", folder)
            config = json.loads((folder / "config.json").read_text()) | {"vocab_size": ROWS, "architectures": [architecture], "bos_token_id": 1, "eos_token_id": 2}
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "tokenizer_config.json").write_text(json.dumps(values))
            shutil.copy(FIXTURES / "sentencepiece/tokenizer.model", folder)
            converter = get_model_class(architecture)(folder, gguf.LlamaFileType.ALL_F32, folder / "m.gguf", eager=True)
            converter.set_vocab()
            said = {key: value.value for key, value in converter.gguf_writer.kv_data[0].items() if key.startswith("tokenizer.")}
            said["tokenizer.ggml.tokens"] = [token.decode() for token in said["tokenizer.ggml.tokens"]]
            cases.append({"architecture": architecture, "settings": values, "keys": {key: said[key] for key in sorted(said)}})
    return cases


def convert(name: str, out: Path) -> None:
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there) / "tiny"  # llama.cpp looks for tokens in a model whose name has Phi-3 in it
        shutil.copytree(FIXTURES / name, folder, ignore=shutil.ignore_patterns("expected.safetensors"))
        spelled(name, folder)
        write(name, folder, out, gguf.LlamaFileType.ALL_F32)


def write(name: str, folder: Path, out: Path, file_type) -> None:
    hparams = ModelBase.load_hparams(folder, False)
    if name.startswith("gpt_neox/"):
        hparams["rotary_pct"] = hparams["rope_parameters"]["partial_rotary_factor"]
    converter = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    own = {"set_vocab": vocabulary, "model_arch": converter.model_arch} | stacked_norms(converter)
    type(converter.__name__, (converter,), own)(folder, file_type, out, eager=True, hparams=hparams).write()


def described(name: str, file: Path) -> dict:
    reader = gguf.GGUFReader(file)
    keys = {}
    for key, field in reader.fields.items():
        if key == "general.architecture" or not key.startswith(("GGUF.", "general.", "tokenizer.")):
            keys[key] = [field.types[0].name, field.contents()]
    digest = lambda tensor: hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]
    assert all(tensor.tensor_type.name == "F32" for tensor in reader.tensors), name
    tensors = [[tensor.name, [int(size) for size in reversed(tensor.shape)], digest(tensor)] for tensor in reader.tensors]
    return {"model": name, "keys": keys, "tensors": sorted(tensors)}


def compare(folder: Path, program: str) -> None:
    for file in sorted(folder.glob("*.gguf")):
        expected = load_file(FIXTURES / file.stem.replace("-", "/", 1) / "expected.safetensors")
        ids, logits = expected["input_ids"].reshape(-1), expected["logits"].numpy()
        out = file.with_suffix(".logits")
        done = subprocess.run([program, file, out], input=" ".join(map(str, ids.tolist())), text=True, capture_output=True)
        if done.returncode:
            print(f"{file.stem}: {done.stderr.strip().splitlines()[:1]}")
            continue
        off = np.abs(np.fromfile(out, np.float32).reshape(logits.shape) - logits).max(axis=1)
        out.unlink()
        print(f"{file.stem}: off by {off.max():.1e}" + (f", from {np.argmax(off > 1e-2)} on" if off.max() > 1e-2 else ""))


def main() -> None:
    if len(sys.argv) > 3:
        return compare(Path(sys.argv[2]), sys.argv[3])
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as there:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else there)
        cases = []
        for name in MODELS:
            file = folder / (name.replace("/", "-") + ".gguf")
            convert(name, file)
            cases.append(described(name, file))
        lines = lambda cases: ",\n".join(json.dumps(case) for case in cases)
        text = '{"cases": [\n' + lines(cases) + '\n],\n"vocabularies": [\n' + lines(vocabularies()) + "\n]}\n"
        (FIXTURES / "gguf.json").write_text(text)


if __name__ == "__main__":
    main()
