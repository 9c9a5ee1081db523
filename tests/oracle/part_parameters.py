"""parameters.json: how many numbers torch counts in each tiny model (`models`, by folder), in the shape of each card of
models/ (`cards`, by name), and in what a config.json makes that says its `model_type` alone (`defaults`).

A matrix that is used twice counts once, and of models that see only the half that reads counts. Shapes are built without
numbers.
"""

import json
import tomllib

import torch
from common import FIXTURES
from part_long import TYPE_NAMES
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

CARDS = FIXTURES.parent.parent / "models"


def count(model) -> int:
    return sum(parameter.numel() for name, parameter in model.named_parameters() if "vision" not in name and "multi_modal" not in name)


def built(config) -> int:
    auto = AutoModelForImageTextToText if config.model_type == "gemma3" else AutoModelForCausalLM
    with torch.device("meta"):
        return count(auto.from_config(config))


def make() -> None:
    folders = sorted(file.parent for file in FIXTURES.glob("**/config.json"))
    models = {str(folder.relative_to(FIXTURES)): built(AutoConfig.from_pretrained(folder)) for folder in folders}
    cards = {}
    for file in sorted(CARDS.glob("*.toml")):
        card = tomllib.loads(file.read_text())
        if "shape" in card:
            cards[card["name"]] = built(AutoConfig.for_model(card["architecture"], **card["shape"]))
    defaults = {model_type: built(AutoConfig.for_model(model_type)) for model_type in sorted(set(TYPE_NAMES))}
    found = {"models": models, "cards": cards, "defaults": defaults}
    (FIXTURES / "parameters.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"  {len(models)} models, {len(cards)} cards, {len(defaults)} defaults")
