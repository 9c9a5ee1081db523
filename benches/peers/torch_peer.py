#!/usr/bin/env python3
"""transformers' part of run.py: one model, one kind of work, the result as JSON.

    FOLDER/venv/bin/python benches/peers/torch_peer.py MODEL [--prompt 512] [--new 0] [--batch 1] [--threads 2] [--repeat 3]

The model computes in the type its weights are stored in. The loop below is greedy decoding with the library's own cache
and nothing else: `generate` would add a few per cent of Python.
"""

import argparse
import json
import statistics
import time

import torch
import transformers


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

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").eval()
    prompt = torch.randint(1000, 9000, (args.batch, args.prompt))

    def step(tokens, past):
        out = model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1:].argmax(-1), out.past_key_values

    rates = []
    with torch.inference_mode():
        if args.first_token:
            step(prompt, None)
            return print("token", flush=True)
        for run in range(args.repeat + 1):
            start = time.perf_counter()
            token, past = step(prompt, None)
            middle = time.perf_counter()
            for _ in range(args.new if run else min(args.new, 4)):
                token, past = step(token, past)
            end = time.perf_counter()
            if run:  # the first run allocates
                rates.append(args.batch * (args.new / (end - middle) if args.new else args.prompt / (middle - start)))
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"tokens_per_s": statistics.median(rates), "all": rates, "version": versions}))


if __name__ == "__main__":
    main()
