"""processors.json: what transformers' own list of logits processors and warpers makes of a row of 48 logits.

A case has `settings` (names of transformers' GenerationConfig; what is absent has transformers' default), `prompt_ids`
(some processors count from its end), `input_ids` (the prompt and what has been generated so far), `logits` and
`expected`, where null stands for -inf. The list is built by the same steps as in `generate()`, so the order of the
processors and the lengths that they are given are transformers' too. With `num_beams` the logits go in as they are.
"""

import itertools
import math

import numpy as np
import torch
from common import short, shorts, write_json
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

VOCAB = 48
THRESHOLDS = ["top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"]
MODEL = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=4, n_head=1, n_layer=1, n_positions=512))
MODEL.generation_config = GenerationConfig()


def run(settings: dict, prompt_ids: list[int], input_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    config, rest = MODEL._prepare_generation_config(GenerationConfig(**settings))
    assert not rest
    MODEL._prepare_special_tokens(config, True, device="cpu", batch_size=1)
    lengths = dict(has_default_max_length="max_length" not in settings, has_default_min_length="min_length" not in settings)
    prompt = torch.tensor([prompt_ids])
    config = MODEL._prepare_generated_length(
        config, **lengths, model_input_name="input_ids", input_ids_length=len(prompt_ids), inputs_tensor=prompt
    )
    processors = MODEL._get_logits_processor(config, len(prompt_ids), prompt, device="cpu")
    return processors(torch.tensor([input_ids]), logits[None].clone())[0]


def is_settled(settings: dict, prompt_ids, input_ids, logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the same entries survive in f64 and with every threshold moved a little: no cut lies on a knife's edge."""
    for shift in (0.0, 1e-4, -1e-4):
        moved = {k: min(v * (1 + shift), 1.0) if k in THRESHOLDS else v for k, v in settings.items()}
        other = run(moved, prompt_ids, input_ids, logits.double())
        if not torch.equal(other == -math.inf, expected == -math.inf):
            return False
    return True


class Cases:
    def __init__(self):
        self.rng = np.random.Generator(np.random.PCG64(2024))
        self.list, self.dropped = [], 0

    def ids(self, length: int, alphabet: int = VOCAB) -> list[int]:
        return self.rng.integers(0, alphabet, length).tolist()

    def logits(self, scale: float = 2.0, step: float = 0.0, holes: int = 0) -> torch.Tensor:
        """Normal logits; rounded to multiples of `step` to make ties; with some entries already -inf."""
        row = self.rng.standard_normal(VOCAB) * scale
        if step:
            row = np.round(row / step) * step
        row[self.rng.permutation(VOCAB)[:holes]] = -math.inf
        return torch.from_numpy(row.astype(np.float32))

    def add(self, name: str, settings: dict, prompt_ids: list[int], input_ids: list[int], logits: torch.Tensor) -> bool:
        assert input_ids[: len(prompt_ids)] == prompt_ids
        expected = run(settings, prompt_ids, input_ids, logits)
        if expected.isnan().any() or not (expected > -math.inf).any():
            self.dropped += 1
            return False
        if not is_settled(settings, prompt_ids, input_ids, logits, expected):
            self.dropped += 1
            return False
        case = dict(name=name, settings=settings, prompt_ids=prompt_ids, input_ids=input_ids)
        case |= dict(logits=shorts(logits.tolist()), expected=shorts(expected.tolist()))
        self.list.append(case)
        return True

    def one(self, settings: dict, prompt: int = 4, new: int = 3, alphabet: int = VOCAB, name: str = "", **logits) -> None:
        """A case of its own settings on fresh random ids and logits; drawn again while it is on a knife's edge."""
        name = name or ", ".join(f"{key} {value}" for key, value in settings.items() if key != "do_sample")
        for _ in range(200):
            input_ids = self.ids(prompt + new, alphabet)
            if self.add(name, settings, input_ids[:prompt], input_ids, self.logits(**logits)):
                return
        raise AssertionError(f"no settled case for {name}")

    def on(self, settings: dict, prompt_ids: list[int], new_ids: list[int], name: str, **logits) -> None:
        assert self.add(name, settings, prompt_ids, prompt_ids + new_ids, self.logits(**logits)), name


def processors_alone(cases: Cases) -> None:
    biases = {
        "one token up": [[[5], 3.5]],
        "one token down, another up": [[[7], -4.25], [[8], 1.0]],
        "the last entry of a repeated sequence counts": [[[9], 1.0], [[9], -2.0]],
        "two ids whose first is the last of the context": [[[3, 11], 6.0]],
        "two ids whose first is elsewhere": [[[2, 11], 6.0]],
        "three ids that match": [[[2, 3, 12], -7.5]],
        "several matches on one token add up": [[[12], 1.0], [[3, 12], 2.0], [[2, 3, 12], 4.0], [[1, 2, 3, 12], 8.0]],
        "a prefix longer than the context": [[[9, 0, 1, 2, 3, 12], 5.0]],
        "a prefix as long as the context": [[[0, 1, 2, 3, 12], 5.0]],
    }
    for name, bias in biases.items():
        cases.on({"sequence_bias": bias}, [0, 1], [2, 3], f"sequence_bias: {name}")

    for penalty in (1.05, 1.3, 2.0, 0.7, 1.0):
        cases.one({"repetition_penalty": penalty}, alphabet=12)
    cases.on({"repetition_penalty": 1.5}, [4, 4, 4], [4, 9], "repetition_penalty counts a repeated token once")

    context = [1, 2, 3, 1, 2, 4, 1, 2]
    for size in (1, 2, 3, 4):
        cases.on({"no_repeat_ngram_size": size}, context[:4], context[4:], f"no_repeat_ngram_size {size}")
    cases.on({"no_repeat_ngram_size": 2}, [6, 6], [6], "no_repeat_ngram_size 2 on a run of one token")
    cases.on({"no_repeat_ngram_size": 5}, [6, 7], [8], "no_repeat_ngram_size longer than the context")

    words = {
        "single tokens": [[3], [17]],
        "a word begun": [[1, 2, 20]],
        "a word not begun": [[2, 1, 20]],
        "the end token alone is let through": [[47], [5]],
        "a word that ends in the end token is not": [[2, 47]],
        "nothing but the end token": [[47]],
        "a word as long as the context and one more": [[*context, 30]],
    }
    for name, ids in words.items():
        cases.on({"bad_words_ids": ids, "eos_token_id": 47}, context[:3], context[3:], f"bad_words_ids: {name}")

    for length, eos in itertools.product((7, 8, 20), (47, [46, 3])):
        cases.one({"min_length": length, "eos_token_id": eos})
    for length, eos in itertools.product((3, 4, 20), (47, [46, 3])):
        cases.one({"min_new_tokens": length, "eos_token_id": eos})
    cases.one({"min_length": 30})
    cases.one({"min_length": 30, "min_new_tokens": 2, "eos_token_id": 47}, name="min_new_tokens wins over min_length")

    for prompt, new in ((1, 0), (1, 1), (2, 0)):
        cases.one({"forced_bos_token_id": 8}, prompt, new, name=f"forced_bos_token_id, prompt {prompt}, {new} new")
    for new, eos in itertools.product((5, 6, 7), (47, [45, 2])):
        name = f"forced_eos_token_id {eos}, {new} of 8 new"
        cases.one({"forced_eos_token_id": eos, "max_new_tokens": 8}, new=new, name=name)
    cases.one({"forced_eos_token_id": 47, "max_length": 8}, name="forced_eos_token_id by max_length")

    for start, new in ((3, 2), (3, 3), (3, 4), (3, 9), (0, 0), (0, 1)):
        settings = {"exponential_decay_length_penalty": [start, 1.3], "eos_token_id": [46, 3]}
        cases.one(settings, new=new, name=f"exponential_decay_length_penalty from {start}, {new} new")
    settings = {"exponential_decay_length_penalty": [1, 1.05], "eos_token_id": 47, "suppress_tokens": [47]}
    cases.one(settings, name="exponential_decay_length_penalty, then suppressed")

    cases.one({"suppress_tokens": [0, 13, 47]})
    for prompt, new, bos in ((4, 0, None), (4, 1, None), (1, 0, None), (1, 0, 8), (1, 1, 8), (1, 2, 8), (2, 0, 8)):
        settings = {"begin_suppress_tokens": [1, 9]} | ({} if bos is None else {"forced_bos_token_id": bos})
        name = f"begin_suppress_tokens, prompt {prompt}, {new} new" + (", forced_bos_token_id" if bos else "")
        cases.one(settings, prompt, new, name=name)
    cases.one({"renormalize_logits": True})
    cases.one({"renormalize_logits": True}, holes=20, name="renormalize_logits of a row with -inf")


def warpers_alone(cases: Cases) -> None:
    strengths = {
        "temperature": (0.25, 1.0, 0.7, 1.5, 10.0),
        "top_k": (0, 1, 5, 47, 48, 1000),
        "top_p": (0.0, 0.05, 0.5, 0.9, 0.99, 1.0),
        "min_p": (0.0, 0.02, 0.1, 0.5, 1.0),
        "typical_p": (0.05, 0.3, 0.6, 0.95, 1.0),
        "epsilon_cutoff": (0.0, 0.003, 0.02, 0.1, 0.9),
        "eta_cutoff": (0.0, 0.003, 0.02, 0.1, 0.9),
    }
    for key, values in strengths.items():
        for value in values:
            cases.one({"do_sample": True, key: value})
        cases.one({"do_sample": True, key: values[2]}, holes=25, name=f"{key} {values[2]} on a row with -inf")
    for key, value in (("temperature", 0.5), ("top_k", 3), ("top_p", 0.3), ("typical_p", 0.2)):
        cases.one({key: value}, name=f"{key} without do_sample does nothing")
    for key, value in (("top_k", 4), ("top_p", 0.6), ("min_p", 0.3), ("typical_p", 0.5), ("epsilon_cutoff", 0.04)):
        cases.one({"do_sample": True, key: value}, step=1.0, name=f"{key} {value} among ties")
    for key, value in (
        ("top_k", 1),
        ("top_p", 0.01),
        ("min_p", 1.0),
        ("typical_p", 0.01),
        ("epsilon_cutoff", 0.9),
        ("eta_cutoff", 0.9),
    ):
        for beams, eos in ((2, None), (4, 47), (2, [47, 3, 5])):
            settings = {"do_sample": True, key: value, "num_beams": beams}
            settings |= {} if eos is None else {"eos_token_id": eos}
            cases.one(settings)


def draw_settings(rng: np.random.Generator) -> dict:
    """A random mixture of settings, each with about the chance that keeps mixtures of two to eight."""

    def ids(count):
        return [int(i) for i in rng.permutation(VOCAB)[:count]]

    def near(low, high):
        return short(rng.uniform(low, high))

    settings = {}
    offers = {
        "sequence_bias": lambda: [[[i], near(-4, 4)] for i in ids(3)] + [[[a, b], near(-6, 6)] for a, b in zip(ids(8), ids(8))],
        "repetition_penalty": lambda: near(0.8, 2.0),
        "no_repeat_ngram_size": lambda: int(rng.integers(1, 4)),
        "bad_words_ids": lambda: [[i] for i in ids(2)] + [[a, b] for a, b in zip(ids(8), ids(8))],
        "min_length": lambda: int(rng.integers(1, 16)),
        "min_new_tokens": lambda: int(rng.integers(1, 8)),
        "forced_bos_token_id": lambda: ids(1)[0],
        "forced_eos_token_id": lambda: ids(1)[0],
        "exponential_decay_length_penalty": lambda: [int(rng.integers(0, 6)), near(1.01, 1.5)],
        "suppress_tokens": lambda: ids(4),
        "begin_suppress_tokens": lambda: ids(4),
        "renormalize_logits": lambda: True,
    }
    for key, value in offers.items():
        if rng.random() < 0.25:
            settings[key] = value()
    if rng.random() < 0.75:
        settings["do_sample"] = True
        warpers = {
            "temperature": lambda: near(0.4, 1.8),
            "top_k": lambda: int(rng.integers(2, 40)),
            "top_p": lambda: near(0.3, 0.99),
            "min_p": lambda: near(0.005, 0.2),
            "typical_p": lambda: near(0.3, 0.99),
            "epsilon_cutoff": lambda: near(0.001, 0.05),
            "eta_cutoff": lambda: near(0.001, 0.1),
        }
        for key, value in warpers.items():
            if rng.random() < 0.35:
                settings[key] = value()
        if rng.random() < 0.2:
            settings["num_beams"] = int(rng.integers(2, 5))
    if rng.random() < 0.8 or "exponential_decay_length_penalty" in settings:
        settings["eos_token_id"] = ids(1)[0] if rng.random() < 0.6 else ids(3)
    settings["max_new_tokens"] = int(rng.integers(4, 12))
    return settings


def mixtures(cases: Cases, count: int) -> None:
    rng, number = np.random.Generator(np.random.PCG64(77)), 0
    while number < count:
        settings = draw_settings(rng)
        prompt, new = int(rng.integers(1, 7)), int(rng.integers(0, settings["max_new_tokens"]))
        prompt = 1 if rng.random() < 0.15 else prompt
        input_ids = cases.ids(prompt + new, int(rng.choice([10, VOCAB])))
        scale = float(rng.uniform(1.0, 4.0))
        try:
            if cases.add(f"mixture {number}", settings, input_ids[:prompt], input_ids, cases.logits(scale)):
                number += 1
        except ValueError as refused:  # combinations that transformers itself refuses
            assert "suppress_tokens" in str(refused), refused


def beyond(cases: Cases) -> None:
    """Two more that transformers has in the same list."""
    for value in (0.1, 0.4, 0.9):
        cases.one({"do_sample": True, "top_h": value})
    cases.one({"do_sample": True, "temperature": 0.8, "top_h": 0.5, "top_k": 10})


def make() -> None:
    cases = Cases()
    processors_alone(cases)
    warpers_alone(cases)
    mixtures(cases, 80)
    beyond(cases)
    write_json("processors.json", {"vocab_size": VOCAB}, cases.list)
    changed = sum(case["logits"] != case["expected"] for case in cases.list)
    print(f"  {len(cases.list)} cases, {changed} of which change the row; {cases.dropped} drawn again")
