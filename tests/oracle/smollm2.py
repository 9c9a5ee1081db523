"""smollm2.json: greedy texts of SmolLM2-135M in GGUF, by llama.cpp. For a person to run, since both must be there.

    python3 tests/oracle/smollm2.py LLAMA_COMPLETION FORMAT=MODEL.gguf…

FORMAT is what `fireside info` shows first of the model's formats.
"""

import json
import subprocess
import sys

from common import FIXTURES

PROMPTS = [
    "Gravity is", "The capital of France is", "Once upon a time, in a small village,", "def fibonacci(n):",
    "Water boils at", "The quick brown fox", "In 1969, humans", "To make bread, you need",
    "The mitochondria", "A prime number is", "Shakespeare wrote", "The ocean is",
    "Photosynthesis is the process", "My favourite season is", "The history of computers", "A triangle has",
    "Dogs and cats", "The moon", "Electric current", "An apple a day",
]  # fmt: skip
TOKENS = 32


def text_of(program: str, model: str, prompt: str) -> str:
    command = [program, "-m", model, "--temp", "0", "-n", str(TOKENS), "-no-cnv", "--no-display-prompt", "-p", prompt]
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, **quiet).stdout
    return out.decode().removesuffix("\n").removesuffix("\n").removesuffix(" [end of text]")


def main() -> None:
    program, *models = sys.argv[1:]
    files = {}
    for model in models:
        kind, path = model.split("=", 1)
        files[kind] = [{"prompt": prompt, "text": text_of(program, path, prompt)} for prompt in PROMPTS]
    text = json.dumps({"tokens": TOKENS, "files": files}, ensure_ascii=False, indent=1)
    (FIXTURES / "smollm2.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
