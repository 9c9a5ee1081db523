#!/usr/bin/env python3
"""What a constraint costs, and what a conversation's length does to the time to the first token.

    python3 benches/talk.py constrained MODEL [--fireside BINARY] [--rounds 7]
    python3 benches/talk.py turns MODEL [--fireside BINARY] [--rounds 3]

`constrained`: new tokens per second of sampled text, free and constrained, in turn. Every run is a process of its own that draws
128 tokens at temperature 1 with the round's seed; a round has one of each kind. Printed are medians without the first token,
whose time holds the reading of the prompt and of the grammar, and the ratio to free text; `first` is that time's median.

`turns`: 20 questions of some 25 tokens in one conversation, 100 greedy tokens after each. Printed is the median of each turn's
time to its first token, and for the last turn what the same takes where nothing of the conversation is kept.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 20}, "age": {"type": "integer"}, "likes": {"type": "array", "items": {"type": "string"}, "minItems": 3}},
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
KINDS = {
    "free": [],
    "JSON schema": ["--json-schema", json.dumps({"type": "array", "items": PERSON, "minItems": 40})],
    "regex, words": ["--regex", r"([A-Z][a-z]+( [a-z]+){3,12}[.!?] ){90,}"],
    "regex, any text": ["--regex", r"(?s:.){2000,}"],
    "grammar": ["--grammar", 'root ::= line+ "end"\nline ::= [a-z]+ " = " [0-9]+ ";\\n" line'],
}


QUESTIONS = [
    "Tell me about the history of the lighthouse on the northern coast, in a few words.",
    "And who built the second one, the one with the red roof?",
    "How tall was it when it was finished, and how much did it cost?",
    "What did the keepers eat in the long winters up there?",
    "Which ships were lost before the light was lit for the first time?",
]
TURNS = 20


def constrained(args) -> None:
    speeds, firsts = {}, {}
    for round in range(args.rounds):
        for threads in (1, 2):
            for kind, flags in KINDS.items():
                command = [args.fireside, "generate", "-m", args.model, "--json", "--details", "--do-sample=true", "--temperature", "1"]
                command += ["--seed", str(round), "-n", "128", "--ignore-eos", "--threads", str(threads), *flags, "People of this town:"]
                run = subprocess.run(command, capture_output=True, text=True)
                assert run.returncode == 0, run.stderr
                details = json.loads(run.stdout)[0]["details"]
                assert details["generated_tokens"] == 128, (kind, details["generated_tokens"])
                times = details["timings"]
                speeds.setdefault((threads, kind), []).append(127 / times["decode_ms"] * 1e3)
                firsts.setdefault((threads, kind), []).append(times["prefill_ms"])
    print("| threads | text | tokens/s, median (range) | of free text | first, ms |\n|---|---|---|---|---|")
    for (threads, kind), found in speeds.items():
        middle = statistics.median(found)
        # Each round's pair was measured within seconds of each other.
        ratio = statistics.median(a / b for a, b in zip(found, speeds[threads, "free"]))
        first = statistics.median(firsts[threads, kind])
        print(f"| {threads} | {kind} | {middle:.0f} ({min(found):.0f} to {max(found):.0f}) | {ratio:.2f} | {first:.1f} |")


def figures(stderr: str) -> list[tuple[int, int, float]]:
    """Tokens of the prompt, new ones of them, and milliseconds to the first token, of each answer."""
    prompts = [line.split() for line in stderr.splitlines() if line.startswith("prompt ")]
    firsts = [float(line.split()[1]) for line in stderr.splitlines() if line.startswith("first ")]
    return [(int(prompt[1]), int(prompt[3]), first) for prompt, first in zip(prompts, firsts, strict=True)]


def turns(args) -> None:
    flags = [args.fireside, "chat", "-m", args.model, "--temperature", "0", "--verbose"]
    questions = [QUESTIONS[turn % len(QUESTIONS)] for turn in range(TURNS)]
    rounds, anew = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            kept = f"{folder}/conversation.json"
            lines = questions[:-1] + [f"/save {kept}", questions[-1]]
            command = [*flags, "-n", "100", "--min-new-tokens", "100", "--interactive"]
            run = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            rounds.append(figures(run.stderr))
            run = subprocess.run([*flags, "-n", "1", "--load", kept, questions[-1]], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            anew.append(figures(run.stderr)[-1])
    print("| turn | tokens of the prompt | new | first token, ms |\n|---|---|---|---|")
    for turn, found in enumerate(zip(*rounds), 1):
        print(f"| {turn} | {found[0][0]} | {found[0][1]} | {statistics.median(first for _, _, first in found):.0f} |")
    print(f"| {TURNS}, nothing kept | {anew[0][0]} | {anew[0][1]} | {statistics.median(first for _, _, first in anew):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["constrained", "turns"])
    parser.add_argument("model")
    parser.add_argument("--fireside", default=str(Path(__file__).resolve().parent.parent / "target/release/fireside"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    {"constrained": constrained, "turns": turns}[args.what](args)


if __name__ == "__main__":
    main()
