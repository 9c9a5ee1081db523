#!/usr/bin/env python3
"""Times the release binary: process start to first token, and GPT-2 against transformers on the same files.

    python3 benches/measure.py first-token
    python3 benches/measure.py gpt2 FOLDER [--rounds 5]

FOLDER holds a GPT-2 with its tokenizer; `tests/oracle/part_full_size.py` builds the 124M shape with random weights. The
peer needs `pip install torch transformers`. Both sides do the same work, greedy and in f32, in turn, and the medians and
their ratio are printed as a table.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

BINARY = Path(__file__).resolve().parent.parent / "target/release/fireside"
PROMPT, NEW = 512, 64  # tokens of the prompt, tokens generated


def first_token(rounds: int) -> None:
    """The time until one byte more than the prompt has come out of the pipe."""
    prompt, times = "Hello World", []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        process = subprocess.Popen([BINARY, "generate", prompt], stdout=subprocess.PIPE)
        process.stdout.read(len(prompt) + 1)
        times.append((time.perf_counter() - start) * 1e3)
        process.stdout.close()
        process.wait()
    times = sorted(times[1:])
    print(f"ember, process start to first token: median {statistics.median(times):.1f} ms, {times[0]:.1f} to {times[-1]:.1f}, {rounds} runs")


def ours(folder: str, prompt: str, threads: int) -> dict:
    command = [BINARY, "generate", "--model", folder, "--json", "--details", "--do-sample=false", "--ignore-eos"]
    command += ["-n", str(NEW), "--threads", str(threads), prompt]
    details = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]["details"]
    times = details["timings"]
    return {
        "load ms": times["load_ms"],
        "prefill tokens/s": details["prompt_tokens"] / times["prefill_ms"] * 1e3,
        "decode tokens/s": (details["generated_tokens"] - 1) / times["decode_ms"] * 1e3,
        "ids": [token["id"] for token in details["tokens"]],
    }


def theirs(folder: str, ids: list[int], threads: int) -> dict:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    load = time.perf_counter() - start
    new, times, past = torch.tensor([ids]), [], None
    with torch.inference_mode():
        for _ in range(NEW):
            start = time.perf_counter()
            out = model(new, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, new = out.past_key_values, out.logits[:, -1:].argmax(-1)
            times.append((time.perf_counter() - start, new.item()))
    decode = sum(seconds for seconds, _ in times[1:])
    return {
        "load ms": load * 1e3,
        "prefill tokens/s": len(ids) / times[0][0],
        "decode tokens/s": (NEW - 1) / decode,
        "ids": [token for _, token in times],
    }


def gpt2(folder: str, rounds: int, threads: int) -> None:
    words = "the king said that he would go to the old house by the sea and see who lived there now "
    tokenize = [BINARY, "tokenize", "--json", "--model", folder, words * 200]
    ids = json.loads(subprocess.run(tokenize, capture_output=True, check=True).stdout)["ids"][:PROMPT]
    decode = [BINARY, "tokenize", "--decode", "--model", folder, " ".join(map(str, ids))]
    prompt = subprocess.run(decode, capture_output=True, check=True, text=True).stdout.removesuffix("\n")
    runs = [(ours(folder, prompt, threads), theirs(folder, ids, threads)) for _ in range(rounds + 1)][1:]
    print(f"the same {NEW} ids: {all(a['ids'] == b['ids'] for a, b in runs)}; {threads} threads, {rounds} interleaved rounds, medians\n")
    print("| GPT-2, f32 | fireside | transformers | ratio |\n|---|---|---|---|")
    for key in ("load ms", "prefill tokens/s", "decode tokens/s"):
        a, b = (statistics.median(run[side][key] for run in runs) for side in (0, 1))
        print(f"| {key} | {a:.0f} | {b:.0f} | {a / b:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("first-token")
    start.add_argument("--rounds", type=int, default=21)
    peer = verbs.add_parser("gpt2")
    peer.add_argument("folder")
    peer.add_argument("--rounds", type=int, default=5)
    peer.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.verb == "first-token":
        first_token(args.rounds)
    else:
        gpt2(args.folder, args.rounds, args.threads)


if __name__ == "__main__":
    main()
