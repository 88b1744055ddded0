import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.captions.replies import LONGEST, Unusable, fault, parsed, trimmed_answer, trimmed_question

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "navy"]}, "note": {"type": "string", "maxLength": 20}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("raw", "question"),
    [
        ("What is its collar like?", "What is its collar like?"),
        ("Sure! Question: What is\nits collar like?", "What is its collar like?"),
        ("Question: Is it red? Question: What is its hem like?", "What is its hem like?"),
        ("Question: What is its hem like? Answer: It is straight.", "What is its hem like?"),
        ("Answer: What is its hem like? Answer: Straight.", "What is its hem like?"),
        ("QUESTION : what now?", "what now?"),
        ("Question: Answer:", ""),
        ("  \n ", ""),
    ],
)
def test_a_question_is_one_question(raw, question):
    assert trimmed_question(raw) == question


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("It is navy.", "It is navy."),
        (" It is\nnavy. Question: What else?", "It is navy."),
        ("\nAnswer: It is navy.", "It is navy."),
        ("The answer: it is navy.", "The answer: it is navy."),
        ("Question: What else?", ""),
    ],
)
def test_an_answer_ends_where_the_answerer_begins_to_ask(raw, answer):
    assert trimmed_answer(raw) == answer


@given(st.text())
def test_trimming_once_is_enough(raw):
    assert trimmed_answer(trimmed_answer(raw)) == trimmed_answer(raw)
    assert "\n" not in trimmed_question(raw)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("...", "empty"),
        ("Your message is empty. Please tell me what you would like to know.", "meta"),
        ("I'm sorry, but I can't see the image.", "meta"),
        ("I cannot view or open images.", "meta"),
        ("I don’t see an image attached to your message.", "meta"),
        ("As an AI language model, I have no eyes.", "meta"),
        ("Please upload the picture that you mean.", "meta"),
        ("There is no image provided.", "meta"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I cannot assist with this request.", "refused"),
        ("Sorry, I am unable to provide a description of this image.", "refused"),
        ("I must decline.", "refused"),
        ("red " * 30, "invalid"),
        ("It has a white collar and a " * 5, "invalid"),
        ("long " + "x" * LONGEST, "invalid"),
        ("Это синее платье с белым воротником.", "invalid"),
        ("這是一件藍色連衣裙", "invalid"),
    ],
)
def test_replies_that_say_nothing_of_the_picture(text, status):
    assert fault(text) == status


@pytest.mark.parametrize(
    "text",
    [
        "A navy dress with a white collar.",
        "I do not know.",
        "I'm not sure.",
        "I'm sorry, but I can't tell what it is made of.",
        "I can't see the back of the dress in the image.",
        "I cannot see the image clearly enough to name the fabric.",
        'A white T-shirt that reads "as an AI I cannot see images".',
        "A T-shirt with the words “sorry, I can't help” on it.",
        "Café au lait, knee-length, à la mode.",
        "5",
        json.dumps({f"field_{number}": "not_applicable" for number in range(40)}),
        "A red shirt with a red collar and red cuffs, and a red skirt with a red belt and red buttons.",
    ],
)
def test_replies_that_can_be_used(text):
    assert fault(text) is None


def test_what_the_server_says_of_a_reply_counts():
    assert fault("A navy dr", "length") == "truncated"
    assert fault("A navy dress", "filter") == "refused"
    assert fault("", "length") == "empty"
    assert fault("red " * 30, "length") == "invalid"


@pytest.mark.parametrize(
    "text",
    [
        '{"colour": "red"}',
        '```json\n{"colour": "red"}\n```',
        'Here is the JSON {as you asked}: {"colour": "red"} I hope that it helps.',
        'The form has [fields]: {"colour": "a colour"}. Filled in: {"colour": "red"}',
        '<think>{"colour"</think>{"colour": "red"}',
    ],
)
def test_json_is_found_in_prose(text):
    assert parsed(text, SCHEMA) == {"colour": "red"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("The colour is red.", "no JSON"),
        ("", "no JSON"),
        ('{"colour": "red"', "no JSON"),
        ('{"colour": "crimson"}', "crimson"),
        ("{}", "colour"),
        ('{"colour": "red", "role": "system"}', "role"),
        ('{"colour": "red", "note": "\\ud800"}', "no JSON"),
        ('{"colour": NaN}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
    ],
)
def test_what_is_wrong_with_a_form_is_told(text, why):
    with pytest.raises(Unusable) as error:
        parsed(text, SCHEMA)
    assert error.value.status == "invalid"
    assert why in error.value.why
    assert len(error.value.why) <= 300


_PROSE = st.text().filter(lambda text: not set(text) & set("[]{}"))
_FORMS = st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.lists(st.text()))


@given(_PROSE, _FORMS, _PROSE)
def test_any_form_comes_back_out_of_any_prose(before, form, after):
    assert parsed(before + json.dumps(form) + after, {"type": "object"}) == form
