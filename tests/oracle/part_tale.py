"""tale/: a whole tiny model (tokenizer, configs, weights) that the generation fixtures run on.

The tokenizer is a byte-level BPE of 512 entries trained on story.py, plus `<|endoftext|>` as the last id, written both
as tokenizer.json and as vocab.json + merges.txt. The weights are random and large enough that greedy text wanders
instead of looping; tokens of plain ASCII are favoured so that most of the text can be read.
"""

import json
import shutil

import numpy as np
import torch
from common import TALE, fill, load_tale, load_tale_tokenizer, save_tensors
from story import story
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

END = "<|endoftext|>"
VOCAB = 513
ASCII_LOGIT = 2.5  # how much more likely plain ASCII is
STDS = {
    "wte.weight": 0.45,
    "wpe.weight": 0.9,
    "ln_1.weight": 0.2,
    "ln_2.weight": 0.2,
    "ln_f.weight": 0.2,
    "bias": 0.2,
    "weight": 0.6,
}


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([story(seed, 20_000) for seed in range(10)], trainer)
    tokenizer.add_special_tokens([END])
    assert tokenizer.get_vocab_size() == VOCAB and tokenizer.token_to_id(END) == VOCAB - 1
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer) -> None:
    tokenizer.save(str(TALE / "tokenizer.json"))
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"] | {END: VOCAB - 1}  # GPT-2's vocab.json lists the special token too
    vocab = dict(sorted(vocab.items(), key=lambda entry: entry[1]))
    (TALE / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    merges = [" ".join(pair) for pair in state["model"]["merges"]]
    (TALE / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 512, "add_prefix_space": False}
    settings |= {"bos_token": END, "eos_token": END, "unk_token": END}
    (TALE / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_model(tokenizer: Tokenizer) -> None:
    shape = dict(n_embd=32, n_head=4, n_layer=2, vocab_size=VOCAB, n_positions=512)
    ends = dict(bos_token_id=VOCAB - 1, eos_token_id=VOCAB - 1)
    model = GPT2LMHeadModel(GPT2Config(**shape, **ends)).eval()
    fill(model, 7, STDS)

    # One direction of the embedding says "plain ASCII", and the last norm's bias always points along it.
    direction = np.random.Generator(np.random.PCG64(11)).standard_normal(32)
    direction = torch.from_numpy((direction / np.linalg.norm(direction)).astype(np.float32))
    readable = torch.tensor([tokenizer.decode([i]).isascii() and tokenizer.decode([i]).isprintable() for i in range(512)])
    wte, ln_f = model.transformer.wte.weight, model.transformer.ln_f
    wte -= torch.outer(wte @ direction, direction)
    wte[:512][readable] += ASCII_LOGIT / 3.0 * direction
    ln_f.bias.copy_(3.0 * direction)

    names = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_tensors(TALE / "model.safetensors", names)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "torch_dtype": "float32"}
    config |= shape | ends | {"n_ctx": 512, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05}
    (TALE / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (TALE / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n")


def make() -> None:
    shutil.rmtree(TALE, ignore_errors=True)
    TALE.mkdir(parents=True)
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer)
    save_model(tokenizer)

    model, wrapped = load_tale(), load_tale_tokenizer()
    text = story(99, 3000)
    ids = tokenizer.encode(text).ids
    assert wrapped(text)["input_ids"] == ids and wrapped.decode(ids) == text
    for files in ({"tokenizer_file": str(TALE / "tokenizer.json")},):
        assert type(wrapped)(**files)(text)["input_ids"] == ids
    rebuilt = Tokenizer(models.BPE.from_file(str(TALE / "vocab.json"), str(TALE / "merges.txt")))
    rebuilt.pre_tokenizer, rebuilt.decoder = tokenizer.pre_tokenizer, tokenizer.decoder
    assert rebuilt.encode(text).ids == ids
    with torch.no_grad():
        logits = model(torch.tensor([ids[:300]])).logits[0]
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    print(f"  {len(text)} characters are {len(ids)} tokens; logits std {logits.std():.2f}, mean entropy {entropy:.2f}")
    prompt = tokenizer.encode("Once upon a time").ids
    out = model.generate(torch.tensor([prompt]), max_new_tokens=200, do_sample=False, eos_token_id=None)
    print("  " + repr(tokenizer.decode(out[0].tolist())))
