"""sentencepiece/: a tiny vocabulary in SentencePiece's own file, and what sentencepiece and transformers make of texts.

`cases` have `text`, `sentencepiece` (ids of the library) and for each file of settings `<name>` the `ids` of transformers.
"""

import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from common import FIXTURES, write_json
from part_tokens import TEXTS
from story import OTHER, story
from transformers import AutoTokenizer

FOLDER = FIXTURES / "sentencepiece"
CONTROL = ["[INST]", "[/INST]"]
USER_DEFINED = ["<b>", "\n\n"]


def token(content: str, special: bool) -> dict:
    return dict(content=content, lstrip=False, rstrip=False, single_word=False, normalized=False, special=special)


def settings() -> dict[str, dict]:
    added = {str(id): token(content, True) for id, content in enumerate(["<unk>", "<s>", "</s>", *CONTROL])}
    added |= {str(5 + id): token(content, False) for id, content in enumerate(USER_DEFINED)}
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    llama["added_tokens_decoder"] = added
    return {
        "llama": llama,
        "no_space": llama | {"add_prefix_space": False},
        "around": llama | {"add_eos_token": True},
    }


def make() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "model"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(story(11, 20_000).split("\n")),
            model_prefix=str(prefix),
            model_type="bpe",
            vocab_size=460,
            byte_fallback=True,
            character_coverage=0.995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            control_symbols=CONTROL,
            user_defined_symbols=USER_DEFINED,
            num_threads=1,
            minloglevel=2,
        )
        shutil.copy(f"{prefix}.model", FOLDER / "tokenizer.model")

        library = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))
        texts = list(dict.fromkeys(TEXTS[::2] + OTHER + [story(60, 90), " two  spaces ", "<b>old</b>\n\n\nx", "[INST] a [/INST]b</s> c"]))
        cases = [{"text": text, "sentencepiece": library.encode(text)} for text in texts]
        tokenizers = {}
        for name, values in settings().items():
            (FOLDER / f"{name}.json").write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
            shutil.copy(FOLDER / "tokenizer.model", folder)
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
            (Path(folder) / "config.json").write_text('{"model_type": "llama"}')
            tokenizers[name] = AutoTokenizer.from_pretrained(folder)
            for case in cases:
                case[name] = tokenizers[name](case["text"])["input_ids"]
        for case in cases:
            case["decoded"] = tokenizers["llama"].decode(case["llama"], skip_special_tokens=True)
    write_json("sentencepiece.json", {"vocab_size": library.vocab_size()}, cases)
    print(f"  {library.vocab_size()} tokens, {len(cases)} texts")
