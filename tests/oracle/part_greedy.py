"""greedy.safetensors + greedy.json: 100 prompts for `tale` with the 256 greedy ids that follow each, end tokens ignored.

greedy.safetensors: `new_ids` u32 (100, 256), `prompt_ids` u32 (all prompts one after the other), `prompt_lengths` u32
(100). greedy.json: per prompt its ids and `smallest_gap`, the closest that the two best logits ever came. Candidates
whose gap falls under LEAST_GAP are passed over, as there rounding may decide.
"""

import numpy as np
import torch
from common import FIXTURES, disturbed, load_tale, load_tale_tokenizer, save_tensors, short, write_json
from safetensors.torch import load_file
from story import story

PROMPTS, NEW, LEAST_GAP = 100, 256, 1e-3


def candidates(tokenizer):
    """Prompts of 1 to 40 ids in turn: pieces of a story, and every fifth one plain random ids."""
    text_ids = tokenizer(story(5, 30_000))["input_ids"]
    rng = np.random.Generator(np.random.PCG64(5))
    for number in range(10_000):
        length = number % 40 + 1
        if number % 5 == 4:
            yield rng.integers(0, 512, length).tolist()
        else:
            start = int(rng.integers(0, len(text_ids) - length))
            yield text_ids[start : start + length]


def continued(model, prompt: list[int]):
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),  # else ids that equal the padding are masked out
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(out.logits).topk(2).values
    new = out.sequences[0, len(prompt) :].tolist()
    assert len(new) == NEW
    return new, (best[:, 0] - best[:, 1]).min().item()


def make() -> None:
    model = load_tale()
    model.generation_config.eos_token_id = None
    other = disturbed(model, 1)
    cases, rows, tried = [], [], 0
    for prompt in candidates(load_tale_tokenizer()):
        tried += 1
        new, gap = continued(model, prompt)
        if gap < LEAST_GAP:
            continue
        assert continued(other, prompt)[0] == new
        cases.append({"prompt_ids": prompt, "smallest_gap": short(gap)})
        rows.append(new)
        if len(cases) == PROMPTS:
            break
    tensors = {
        "new_ids": torch.tensor(rows).to(torch.uint32),
        "prompt_ids": torch.tensor([i for case in cases for i in case["prompt_ids"]]).to(torch.uint32),
        "prompt_lengths": torch.tensor([len(case["prompt_ids"]) for case in cases]).to(torch.uint32),
    }
    save_tensors(FIXTURES / "greedy.safetensors", tensors)
    assert load_file(FIXTURES / "greedy.safetensors")["new_ids"].tolist() == rows
    write_json("greedy.json", {"model": "tale", "max_new_tokens": NEW}, cases)
    lengths = {len(case["prompt_ids"]) for case in cases}
    distinct = np.mean([len(set(row)) for row in rows])
    print(f"  {tried} tried, lengths {min(lengths)}–{max(lengths)}, {distinct:.0f} distinct ids per text on average")
    print(f"  closest top two: {min(case['smallest_gap'] for case in cases)}")
