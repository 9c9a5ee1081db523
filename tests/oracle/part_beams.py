"""beams.json: beam search on `tale`. A case has `prompt_ids`, `settings`, and the returned `sequences` (new ids only,
the end token included, padding stripped) with their `sequences_scores`, best first.

A case is dropped when weights that differ by a part in a million give other sequences, since then rounding decided.
"""

from collections import Counter

import torch
from common import FIXTURES, disturbed, load_tale, load_tale_tokenizer, shorts, write_json
from safetensors.torch import load_file
from story import story

PROMPTS = 24
PENALTIES = [0.5, 1.0, 2.0, -0.5]
STOPPING = [True, False, "never"]


def common_ids() -> list[int]:
    """The ids that greedy text uses most: as end tokens they are met soon and often."""
    counts = Counter(load_file(FIXTURES / "greedy.safetensors")["new_ids"].flatten().tolist())
    return [i for i, _ in counts.most_common(40)]


def grid(common: list[int], prompts: list[list[int]]):
    ends = [common[3], common[2:6], 512, common[8:11], common[1], [512, *common[10:30:4]], common[5:15:3]]
    returned = [{}, {"num_return_sequences": 2}, {}]
    extras = [
        {},
        {"no_repeat_ngram_size": 2},
        {},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 6},
        {},
        {"forced_eos_token_id": 512},
        {"sequence_bias": [[[common[3]], -2.5], [[common[0], common[4]], 3.0]]},
        {},
        {"bad_words_ids": [[common[0]], [common[6], common[7]]]},
        {"renormalize_logits": True, "suppress_tokens": [common[2]]},
    ]
    number = 0
    for prompt in prompts:
        for beams in (2, 4):
            for turn, penalty in enumerate(PENALTIES):
                settings = {"num_beams": beams, "length_penalty": penalty, "max_new_tokens": 10 + number * 7 % 31}
                settings["early_stopping"] = STOPPING[(number + turn) % 3]
                settings["eos_token_id"] = ends[number % 7]
                settings |= returned[number % len(returned)] | extras[number % len(extras)]
                if number % 13 == 0:
                    settings["num_return_sequences"] = beams
                yield prompt, settings
                number += 1
    base = {"max_new_tokens": 24, "early_stopping": False, "length_penalty": 1.0, "eos_token_id": common[4]}
    yield prompts[0], base | {"num_beams": 3, "num_return_sequences": 3}
    yield prompts[1], base | {"num_beams": 5, "num_return_sequences": 5, "early_stopping": "never"}
    yield prompts[2], base | {"num_beams": 8, "num_return_sequences": 8, "early_stopping": True}
    yield prompts[3], base | {"num_beams": 4, "length_penalty": 0.0, "num_return_sequences": 4}
    yield prompts[4], base | {"num_beams": 4, "exponential_decay_length_penalty": [4, 0.85]}
    yield prompts[5], base | {"num_beams": 4, "max_new_tokens": 1, "num_return_sequences": 4}
    yield prompts[6], base | {"num_beams": 4, "stop_strings": [" from", "er"], "num_return_sequences": 2}
    yield prompts[7], base | {"num_beams": 2, "eos_token_id": 512, "begin_suppress_tokens": common[:4]}


def searched(model, tokenizer, prompt: list[int], settings: dict):
    extra = {"tokenizer": tokenizer} if "stop_strings" in settings else {}
    out = model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        pad_token_id=512,
        return_dict_in_generate=True,
        output_scores=True,
        **extra,
        **settings,
    )
    lengths = (out.beam_indices >= 0).sum(dim=1).tolist()  # a padded row has -1 for each pad
    rows = [row[len(prompt) : len(prompt) + n].tolist() for row, n in zip(out.sequences, lengths)]
    return rows, out.sequences_scores.tolist()


def make() -> None:
    model, tokenizer = load_tale(), load_tale_tokenizer()
    others = [disturbed(model, 1), disturbed(model, 2)]
    ids = tokenizer(story(17, 8_000))["input_ids"]
    prompts = [ids[i * 97 : i * 97 + 1 + i * 5 % 23] for i in range(PROMPTS)]
    cases, dropped, early, short_rows = [], 0, 0, 0
    for prompt, settings in grid(common_ids(), prompts):
        rows, scores = searched(model, tokenizer, prompt, settings)
        if any(searched(other, tokenizer, prompt, settings)[0] != rows for other in others):
            dropped += 1
            continue
        ends = settings["eos_token_id"]
        ends = ends if isinstance(ends, list) else [ends]
        early += any(row[-1] in ends for row in rows)
        short_rows += any(len(row) < settings["max_new_tokens"] for row in rows)
        cases.append(dict(prompt_ids=prompt, settings=settings, sequences=rows, sequences_scores=shorts(scores)))
    write_json("beams.json", {"model": "tale"}, cases)
    print(f"  {len(cases)} cases ({dropped} dropped), {early} meet an end token, {short_rows} end before the limit")
