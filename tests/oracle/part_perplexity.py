"""perplexity.json: perplexity of a text under `tale`, by window and stride, as transformers' documentation computes it.

The documented recipe scores in each window the tokens that no earlier window had, takes the mean of their losses, and
weighs it with their number less one, "because of the label shift". The shift costs a token only where the window's
first token is among them; else one more loss was in the mean than in the weight, and with stride 1 every window but the
first weighs nothing. `documented` is that recipe to the letter, except that a window of one token, whose mean is 0/0,
counts as nothing. `exact` has each window's losses and their true number: with a stride below the window every token but
the text's first counts once.
Each has `nll` (in nats, summed), `tokens` (what the sum is divided by) and `perplexity`.
"""

import math

import torch
from common import load_tale, load_tale_tokenizer, write_json
from story import story

CASES = [
    # window, stride, how many tokens of the text
    (512, 512, None),
    (512, 256, None),
    (256, 128, None),
    (256, 256, None),
    (128, 100, None),
    (300, 299, 1000),
    (64, 16, 500),
    (64, 1, 200),
    (512, 512, 512),
    (512, 512, 513),
    (512, 128, 77),
    (512, 512, 2),
]


def strided(model, ids: torch.Tensor, window: int, stride: int) -> dict:
    total = ids.shape[1]
    sums = {"documented": [0.0, 0], "exact": [0.0, 0]}
    previous_end = 0
    for begin in range(0, total, stride):
        end = min(begin + window, total)
        fresh = end - previous_end
        labels = ids[:, begin:end].clone()
        labels[:, :-fresh] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            loss = model(ids[:, begin:end], labels=labels).loss.item()
            for name, weight in (("documented", int((labels != -100).sum()) - 1), ("exact", scored)):
                sums[name][0] += loss * weight
                sums[name][1] += weight
        previous_end = end
        if end == total:
            break
    return {k: dict(nll=nll, tokens=n, perplexity=math.exp(nll / n)) for k, (nll, n) in sums.items()}


def make() -> None:
    model, tokenizer = load_tale(), load_tale_tokenizer()
    text = story(404, 4200)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    double = load_tale().double()
    cases = []
    for window, stride, tokens in CASES:
        part = ids[:, :tokens]
        case = strided(model, part, window, stride)
        check = strided(double, part, window, stride)
        for name, values in case.items():
            assert abs(values["perplexity"] / check[name]["perplexity"] - 1) < 1e-5
        if stride < window:
            assert case["exact"]["tokens"] == part.shape[1] - 1
        cases.append(dict(window=window, stride=stride, total_tokens=part.shape[1]) | case)
        shown = [f"{case[name]['perplexity']:.3f} over {case[name]['tokens']}" for name in ("documented", "exact")]
        print(f"  window {window}, stride {stride}, {part.shape[1]} tokens: documented {shown[0]}, exact {shown[1]}")
    write_json("perplexity.json", {"model": "tale", "text": text, "ids": ids[0].tolist()}, cases)
