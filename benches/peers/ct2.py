#!/usr/bin/env python3
"""CTranslate2's part of run.py: one model, one kind of work, the result as JSON.

    FOLDER/venv/bin/python benches/peers/ct2.py MODEL [--prompt 512] [--new 0] [--batch 1] [--threads 2] [--repeat 3]

MODEL is a folder that ct2-transformers-converter wrote. The time of the prompt alone is that of a generation that stops
after its first token; decoding is what a longer generation takes beyond it, so that the prompt is not counted twice.
"""

import argparse
import json
import random
import statistics
import time

import ctranslate2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512, help="tokens in the prompt")
    parser.add_argument("--new", type=int, default=0, help="tokens to decode after the first; 0 measures the prompt")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--first-token", action="store_true", help="say when the first token is there, and end")
    args = parser.parse_args()

    generator = ctranslate2.Generator(args.model, device="cpu", inter_threads=1, intra_threads=args.threads)
    with open(f"{args.model}/vocabulary.json") as file:
        words = json.load(file)[1000:9000]
    draw = random.Random(0)
    prompts = [[draw.choice(words) for _ in range(args.prompt)] for _ in range(args.batch)]

    def seconds(length: int) -> float:
        start = time.perf_counter()
        results = generator.generate_batch(
            prompts, min_length=length, max_length=length, sampling_topk=1, include_prompt_in_result=False
        )
        elapsed = time.perf_counter() - start
        if any(len(result.sequences_ids[0]) != length for result in results):
            raise SystemExit(f"error: a sequence is not {length} tokens long")
        return elapsed

    if args.first_token:
        seconds(1)
        return print("token", flush=True)
    seconds(1 + min(args.new, 4))  # the first run allocates
    rates = []
    for _ in range(args.repeat):
        first = seconds(1)
        if args.new:
            rates.append(args.batch * args.new / (seconds(1 + args.new) - first))
        else:
            rates.append(args.batch * args.prompt / first)
    print(json.dumps({"tokens_per_s": statistics.median(rates), "all": rates, "version": ctranslate2.__version__}))


if __name__ == "__main__":
    main()
