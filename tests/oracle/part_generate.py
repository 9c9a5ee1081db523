"""generate.json: greedy `generate()` and the text-generation pipeline on `tale`, from a prompt to its text.

A case has `name`, `settings`, `prompt` (text) or `prompt_ids` (when given as ids), always `prompt_ids` and `new_ids`, and
for a prompt given as text `texts`: what the pipeline returns with return_full_text true (`full`) and false (`new`), and
with skip_special_tokens false as well (`new_with_special`).

Cases with token_healing have `healed_ids`, the prompt after healing. transformers means to write the spaces of the last
token in the vocabulary's form before it looks for longer tokens, but with GPT-2's tokenizer looks up " ", gets the
unknown token, and so never heals a last token that begins with a space. `healed_ids_with_spaces` and
`new_ids_with_spaces` are its results when that look-up finds "Ġ".
"""

from collections import Counter

import torch
from common import FIXTURES, disturbed, load_tale, load_tale_tokenizer, write_json
from safetensors.torch import load_file
from story import story
from transformers import pipeline

PLAIN = "Anna carried a small lantern near the mill."


class Oracle:
    def __init__(self):
        self.model, self.tokenizer = load_tale(), load_tale_tokenizer()
        self.tokenizer.pad_token = self.tokenizer.eos_token  # healing and batching insist on one
        self.others = [disturbed(self.model, 1), disturbed(self.model, 2)]
        self.pipe = pipeline("text-generation", model=self.model, tokenizer=self.tokenizer, device="cpu")
        self.cases = []

    def generated(self, model, prompt_ids: list[int] | None, settings: dict) -> list[int]:
        needs_tokenizer = {"stop_strings", "token_healing"} & settings.keys()
        extra = {"tokenizer": self.tokenizer} if needs_tokenizer else {}
        prompt = None if prompt_ids is None else torch.tensor([prompt_ids])
        return model.generate(prompt, do_sample=False, pad_token_id=512, **extra, **settings)[0].tolist()

    def new_ids(self, prompt_ids: list[int], settings: dict, skipped: int) -> list[int]:
        all_ids = self.generated(self.model, prompt_ids, settings)
        for other in self.others:
            assert self.generated(other, prompt_ids, settings) == all_ids, "rounding decides here"
        return all_ids[skipped:]

    def texts(self, prompt: str, settings: dict) -> dict:
        needs_tokenizer = {"stop_strings", "token_healing"} & settings.keys()
        extra = {"tokenizer": self.tokenizer} if needs_tokenizer else {}
        wanted = {
            "full": {},
            "new": {"return_full_text": False},
            "new_with_special": {"return_full_text": False, "skip_special_tokens": False},
        }
        return {
            name: self.pipe(prompt, do_sample=False, **extra, **settings, **options)[0]["generated_text"]
            for name, options in wanted.items()
        }

    def ids(self, name: str, prompt_ids: list[int], settings: dict) -> list[int]:
        new = self.new_ids(prompt_ids, settings, len(prompt_ids))
        self.cases.append(dict(name=name, settings=settings, prompt_ids=prompt_ids, new_ids=new))
        return new

    def text(self, name: str, prompt: str, settings: dict) -> list[int]:
        prompt_ids = self.tokenizer(prompt)["input_ids"] or [512]  # an empty prompt becomes the begin token
        new = self.new_ids(prompt_ids, settings, len(prompt_ids))
        texts = self.texts(prompt, settings)
        assert texts["full"] == prompt + texts["new"]
        assert texts["new"] == self.tokenizer.decode(new, skip_special_tokens=True)
        shown = new if prompt else [512, *new]  # the pipeline takes the begin token that it adds for generated text
        assert texts["new_with_special"] == self.tokenizer.decode(shown)
        case = dict(name=name, settings=settings, prompt=prompt, prompt_ids=prompt_ids, new_ids=new, texts=texts)
        self.cases.append(case)
        return new

    def hole(self, name: str, prompt: str, new_tokens: int) -> None:
        kept = self.tokenizer(prompt)["input_ids"][-(512 - new_tokens) :]
        new = self.new_ids(kept, {"max_new_tokens": new_tokens}, len(kept))
        settings = {"max_new_tokens": new_tokens, "handle_long_generation": "hole"}
        texts = self.texts(prompt, settings)
        assert texts["new"] == self.tokenizer.decode(new, skip_special_tokens=True)
        case = dict(name=name, settings=settings, prompt=prompt, prompt_ids=kept, new_ids=new, texts=texts)
        self.cases.append(case)

    def healing(self, prompt: str) -> None:
        settings = {"token_healing": True, "max_new_tokens": 12}
        prompt_ids = self.tokenizer(prompt)["input_ids"]
        case = dict(name=f"token_healing of {prompt!r}", settings=settings, prompt=prompt, prompt_ids=prompt_ids)
        as_is = self.tokenizer.convert_tokens_to_ids
        for suffix in ("", "_with_spaces"):
            if suffix:
                self.tokenizer.convert_tokens_to_ids = lambda token: as_is("Ġ" if token == " " else token)
            healed = self.model.heal_tokens(torch.tensor([prompt_ids]), self.tokenizer)[0].tolist()
            case["healed_ids" + suffix] = healed
            case["new_ids" + suffix] = self.new_ids(prompt_ids, settings, len(healed))
        self.tokenizer.convert_tokens_to_ids = as_is
        self.cases.append(case)


def lengths_and_ends(oracle: Oracle, common: list[int]) -> None:
    oracle.ids("neither max_length nor max_new_tokens: 20 new", oracle.tokenizer(PLAIN)["input_ids"], {})
    oracle.text("max_new_tokens", PLAIN, {"max_new_tokens": 40})
    oracle.text("max_new_tokens 1", PLAIN, {"max_new_tokens": 1})
    oracle.text("max_length counts the prompt", PLAIN, {"max_length": 36})
    oracle.text("max_new_tokens wins over max_length", PLAIN, {"max_length": 90, "max_new_tokens": 7})
    oracle.text("max_new_tokens wins over a smaller max_length", PLAIN, {"max_length": 22, "max_new_tokens": 30})

    ends = {"max_new_tokens": 48}
    oracle.text("one end token", PLAIN, ends | {"eos_token_id": common[1]})
    oracle.text("several end tokens", "The fox and the owl", ends | {"eos_token_id": [512, common[20], common[11]]})
    oracle.text("an end token in the prompt does not end", "It was a map from Vera", ends | {"eos_token_id": common[1]})
    oracle.text("min_new_tokens", PLAIN, ends | {"eos_token_id": [common[1], common[2]], "min_new_tokens": 14})
    oracle.text("min_length counts the prompt", PLAIN, ends | {"eos_token_id": [common[1], common[2]], "min_length": 38})
    both = {"eos_token_id": common[1], "min_length": 60, "min_new_tokens": 9}
    oracle.text("min_new_tokens wins over min_length", PLAIN, ends | both)
    oracle.text("the special end token", PLAIN, ends | {"sequence_bias": [[[common[1], 512], 25.0]]})
    decay = {"eos_token_id": 512, "exponential_decay_length_penalty": [6, 1.35]}
    oracle.text("exponential_decay_length_penalty brings the end", "Hugo found a violin", ends | decay)
    decay = {"eos_token_id": [512, 300], "exponential_decay_length_penalty": [0, 1.12]}
    oracle.text("exponential_decay_length_penalty on two end tokens", "Snow lay on every roof.", ends | decay)
    oracle.text("forced_eos_token_id", "There was once", {"max_new_tokens": 12, "forced_eos_token_id": 512})
    forced = {"max_new_tokens": 12, "forced_eos_token_id": [77, 33]}
    oracle.text("forced_eos_token_id: the lower of two", "There was once", forced)
    forced = {"max_length": 30, "forced_eos_token_id": 512, "eos_token_id": common[15]}
    oracle.text("forced_eos_token_id by max_length", PLAIN, forced)
    oracle.ids("forced_bos_token_id after a single id", [common[5]], {"max_new_tokens": 10, "forced_bos_token_id": 400})
    bos = {"max_new_tokens": 10, "forced_bos_token_id": 400, "begin_suppress_tokens": common[:6]}
    oracle.ids("forced_bos_token_id and begin_suppress_tokens", [common[5]], bos)
    oracle.text("forced_bos_token_id does nothing after a longer prompt", PLAIN, bos)


def repetition_and_bans(oracle: Oracle, common: list[int]) -> None:
    prompts = ["When Iris came to the library,", "Nolan asked Vera where the kettle was;", "A raven, a hare and a horse"]
    for prompt, penalty in zip(prompts, (1.1, 1.8, 0.9)):
        oracle.text(f"repetition_penalty {penalty}", prompt, {"max_new_tokens": 50, "repetition_penalty": penalty})
    for prompt, size in zip(prompts, (1, 2, 3)):
        oracle.text(f"no_repeat_ngram_size {size}", prompt, {"max_new_tokens": 60, "no_repeat_ngram_size": size})
    for prompt in prompts[:2]:
        words = [[i] for i in common[:5]] + [[common[6], common[7]], [common[8], common[9], common[10]]]
        oracle.text("bad_words_ids", prompt, {"max_new_tokens": 40, "bad_words_ids": words})
    plain = oracle.new_ids(oracle.tokenizer(PLAIN)["input_ids"], {"max_new_tokens": 12}, 0)[-12:]
    words = [plain[1:3], plain[4:7], plain[8:9]]
    oracle.text("bad_words_ids that would have come", PLAIN, {"max_new_tokens": 30, "bad_words_ids": words})
    words = {"bad_words_ids": [[common[1]], [common[0]]], "eos_token_id": common[1]}
    oracle.text("bad_words_ids lets the end token through", PLAIN, {"max_new_tokens": 40} | words)
    oracle.text("suppress_tokens", prompts[0], {"max_new_tokens": 40, "suppress_tokens": common[:12]})
    suppress = {"begin_suppress_tokens": [plain[0], *common[:3]]}
    oracle.text("begin_suppress_tokens", PLAIN, {"max_new_tokens": 20} | suppress)
    bias = {"sequence_bias": [[[common[0]], -3.0], [[common[1]], -2.5], [[common[2], common[3]], 8.0], [plain[:3], -9.0]]}
    oracle.text("sequence_bias", PLAIN, {"max_new_tokens": 40} | bias)
    oracle.text("renormalize_logits changes no choice", PLAIN, {"max_new_tokens": 40, "renormalize_logits": True})


def stop_strings(oracle: Oracle, common: list[int]) -> None:
    decode = oracle.tokenizer.decode
    for prompt in (PLAIN, "Thunder rolled far away"):
        prompt_ids = oracle.tokenizer(prompt)["input_ids"]
        new = oracle.new_ids(prompt_ids, {"max_new_tokens": 40}, len(prompt_ids))
        pieces = [decode([i]) for i in new]
        run = {"max_new_tokens": 40}
        # Where three readable tokens of two letters or more follow each other, none of which came before.
        starts = [
            i
            for i in range(6, 36)
            if all(len(p) > 1 and p.isascii() for p in pieces[i : i + 3])
            and "".join(pieces[i : i + 3])[1:-1] not in "".join(pieces[: i + 2])
        ]
        i, later = starts[0], starts[-1]
        whole = "".join(pieces[i : i + 3])
        oracle.text("stop_strings: exactly three tokens", prompt, run | {"stop_strings": [whole]})
        oracle.text("stop_strings: from within a token into another", prompt, run | {"stop_strings": whole[1:-1]})
        several = {"stop_strings": ["never to be met", "".join(pieces[later : later + 2]), whole[1:-1]]}
        oracle.text("stop_strings: the first of several", prompt, run | several)
        oracle.text("stop_strings: inside one token", prompt, run | {"stop_strings": [pieces[i + 1][-2:]]})
    begun = PLAIN[-5:] + decode(oracle.new_ids(oracle.tokenizer(PLAIN)["input_ids"], run, 0)[-40:])[:3]
    oracle.text("stop_strings: begun in the prompt", PLAIN, run | {"stop_strings": [begun]})
    oracle.text("stop_strings: only in the prompt", PLAIN, run | {"stop_strings": ["lantern near"]})
    vocab = oracle.tokenizer.get_vocab()
    smile = [vocab[c] for c in oracle.tokenizer.convert_ids_to_tokens(oracle.tokenizer("😀")["input_ids"])]
    assert len(smile) == 4
    bias = [[smile[:1], 11.0], *([[smile[:n], 60.0] for n in (2, 3, 4)])]
    oracle.text("stop_strings: an emoji of four tokens", PLAIN, run | {"stop_strings": ["😀"], "sequence_bias": bias})
    oracle.text("an emoji of four tokens", "Piet laughed", {"max_new_tokens": 16, "sequence_bias": bias})
    end = {"stop_strings": ["<|endoftext|>"], "eos_token_id": common[25], "sequence_bias": [[[common[1], 512], 25.0]]}
    oracle.text("stop_strings: a special token's text", PLAIN, run | end)


def prompts_of_all_kinds(oracle: Oracle) -> None:
    for prompt in (
        "",
        " ",
        "Hello World",
        "  two spaces, a tab\tand\n\nlines \n",
        "日本語の文章は短いです。",
        "They laughed 😀😂 and waved 👋🏽",
        "naïve façade — “Łódź” e\u0301",
        "<|endoftext|>Once upon a time",
        "one<|endoftext|>two",
    ):
        oracle.text(f"prompt {prompt!r}", prompt, {"max_new_tokens": 24})
    oracle.hole("a prompt longer than the context, cut on the left", story(31, 2400), 24)


def mixtures(oracle: Oracle, common: list[int]) -> None:
    prompts = [story(seed, 60 + 17 * seed) for seed in range(10)]
    settings = [
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "eos_token_id": common[4], "min_new_tokens": 10},
        {"repetition_penalty": 1.4, "suppress_tokens": common[:3], "begin_suppress_tokens": common[3:9]},
        {"sequence_bias": [[[common[0]], -1.5], [[common[12]], 2.0]], "repetition_penalty": 1.15, "renormalize_logits": True},
        {"bad_words_ids": [[common[0], common[1]], [common[2]]], "no_repeat_ngram_size": 3, "eos_token_id": [common[5], 512]},
        {"exponential_decay_length_penalty": [8, 1.2], "min_new_tokens": 16, "eos_token_id": 512, "repetition_penalty": 1.1},
        {"forced_eos_token_id": 512, "no_repeat_ngram_size": 1, "suppress_tokens": [common[30]]},
        {"stop_strings": [" quest", "ver "], "repetition_penalty": 1.3, "min_length": 40, "eos_token_id": common[3]},
        {"sequence_bias": [[[common[1]], -4.0], [[common[2], common[1]], 9.0]], "no_repeat_ngram_size": 4},
        {"begin_suppress_tokens": common[:10], "bad_words_ids": [[i] for i in common[:6]], "repetition_penalty": 1.25},
        {"exponential_decay_length_penalty": [2, 0.9], "eos_token_id": common[1], "no_repeat_ngram_size": 2},
    ]
    for number, (prompt, mixture) in enumerate(zip(prompts, settings)):
        oracle.text(f"mixture {number}", prompt, {"max_new_tokens": 44} | mixture)
    for prompt, k in ((prompts[7], {"prompt_lookup_num_tokens": 4}), (prompts[8], {"prompt_lookup_num_tokens": 10})):
        lookup = k | {"max_matching_ngram_size": 3}
        ids = oracle.tokenizer(prompt)["input_ids"]
        new = oracle.ids("prompt_lookup_num_tokens is plain greedy", ids, {"max_new_tokens": 60} | lookup)
        assert new == oracle.new_ids(ids, {"max_new_tokens": 60}, len(ids))


def make() -> None:
    oracle = Oracle()
    counts = Counter(load_file(FIXTURES / "greedy.safetensors")["new_ids"].flatten().tolist())
    common = [i for i, _ in counts.most_common(40)]
    lengths_and_ends(oracle, common)
    repetition_and_bans(oracle, common)
    stop_strings(oracle, common)
    prompts_of_all_kinds(oracle)
    mixtures(oracle, common)
    for prompt in ("hello", "Once upon a tim", "no spa", "Anna walked to the har", "The old b", "in quest", "a", "tail  "):
        oracle.healing(prompt)
    write_json("generate.json", {"model": "tale"}, oracle.cases)
    ended = sum(len(case["new_ids"]) < case["settings"].get("max_new_tokens", 0) for case in oracle.cases)
    print(f"  {len(oracle.cases)} cases, {ended} end before max_new_tokens")
