"""ember.json: what transformers makes of the embedded model: bits per byte of a page that it never saw, greedy texts; one
of them also as models/ember/golden.toml, for `fireside verify-golden`.

The page, ember/page.txt, is the opening of The Happy Prince (Oscar Wilde, 1888), one of the books that ember's training
leaves out. It is read in windows of 256 tokens every 128, each token scored once.
"""

import json
from pathlib import Path

import torch
from common import FIXTURES, write_json
from part_perplexity import strided
from transformers import AutoTokenizer, GPT2LMHeadModel

EMBER = Path(__file__).resolve().parents[2] / "models" / "ember"
PROMPTS = ["Hello World", "Once upon a time there was", "The old man looked at the sea, and"]
NEW = 40


def make() -> None:
    model = GPT2LMHeadModel.from_pretrained(EMBER, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBER)
    page = (FIXTURES / "ember" / "page.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(page)["input_ids"]])
    exact = strided(model, ids, 256, 128)["exact"]
    bits = exact["nll"] / torch.log(torch.tensor(2.0)).item() / len(page.encode())
    cases = []
    for prompt in PROMPTS:
        prompt_ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        attention = torch.ones_like(prompt_ids)
        out = model.generate(prompt_ids, attention_mask=attention, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        new = out[0, prompt_ids.shape[1] :]
        cases.append({"prompt": prompt, "text": prompt + tokenizer.decode(new, skip_special_tokens=True)})
        print(f"  {cases[-1]['text']!r}")
    golden = {
        "prompt": cases[1]["prompt"],
        "output": cases[1]["text"][len(cases[1]["prompt"]) :],
        "max_new_tokens": NEW,
        "computed_in": "f32",
        "source": "transformers with these weights, tests/oracle/part_ember.py",
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in golden.items()]  # what is a JSON text is one in TOML
    (EMBER / "golden.toml").write_text("".join(lines))
    write_json("ember.json", {"tokens": exact["tokens"], "bits_per_byte": bits, "max_new_tokens": NEW}, cases)
