import re

import pytest

from lookalike.captions.prompts import load, versions
from lookalike.captions.strategies import STRATEGIES
from lookalike.captions.vocabulary import Vocabulary
from lookalike.errors import BadInput

PROMPTS = [load(strategy, version) for strategy in sorted(STRATEGIES) for version in versions(strategy)]
PLACES = {"questions", "open", "known", "most"}  # what the strategies fill in


def test_each_strategy_has_its_versions():
    assert versions("dialogue") == ["paper", "1", "2"]
    assert versions("attributes") == versions("targeted") == ["1", "2", "3"]


def test_the_last_numbered_version_is_the_default():
    assert [load(strategy).version for strategy in ("dialogue", "attributes", "targeted")] == ["2", "3", "3"]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: f"{prompt.strategy}-{prompt.version}")
def test_texts_ask_for_nothing_that_no_strategy_knows(prompt):
    for name, text in prompt.texts.items():
        assert text.is_valid()
        assert set(text.get_identifiers()) <= PLACES, name
        said = prompt.says(name, **dict.fromkeys(PLACES, "…"))
        assert said == said.strip()
        assert "  " not in said


def test_no_two_versions_say_the_same():
    said = [(prompt.strategy, *(text.template for text in prompt.texts.values())) for prompt in PROMPTS]
    assert len(set(said)) == len(PROMPTS)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: f"{prompt.strategy}-{prompt.version}")
def test_often_confused_attributes_are_in_the_vocabulary(prompt):
    assert set(prompt.preset.confused) <= {named.name for named in Vocabulary.open("fashion").attributes}


def test_the_papers_parameters():
    preset = load("dialogue", "paper").preset
    assert (preset.rounds, preset.context, preset.temperature) == (10, 1, 0.6)
    assert (preset.question_tokens, preset.summary_tokens, preset.published) == (30, 100, True)


def test_the_improved_parameters():
    for version in ("1", "2"):
        preset = load("dialogue", version).preset
        assert (preset.temperature, preset.question_tokens, preset.summary_tokens) == (0.0, 48, 120)
        assert not preset.published


def test_what_is_put_into_a_text_is_not_read_again():
    said = load("targeted", "1").says("follow", questions="Is $5 ${questions} $$ the price?")
    assert "Is $5 ${questions} $$ the price?" in said


def test_an_unknown_version_is_told_what_there_is():
    with pytest.raises(BadInput, match=re.escape("no prompt for dialogue is called '7'")) as error:
        load("dialogue", "7")
    assert "paper, 1, 2" in error.value.hint
    with pytest.raises(BadInput, match="no strategy is called 'dialog'") as error:
        load("dialog")
    assert "did you mean dialogue?" in error.value.hint


def test_no_version_reaches_out_of_its_folder():
    with pytest.raises(BadInput):
        load("dialogue", "../../fashion")
