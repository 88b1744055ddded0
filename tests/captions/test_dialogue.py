import pytest
from scripted import WORDS, Couple, Scripted, asked, attributes_of, ok, unsure

from lookalike.captions.chat import Reply
from lookalike.captions.prompts import load, versions
from lookalike.captions.replies import Unusable

IMPROVED = ["1", "2"]


# the dialogue as published


def ten_rounds(**changes: object) -> Scripted:
    script = {
        "answers": [f"The part {number} is blue." for number in range(10)],
        "questions": [f"What does part {number} look like?" for number in range(1, 10)],
        "summary": "A navy skirt. It has patch pockets.",
    }
    return Scripted(Couple("paper", **script | changes))


def test_the_published_dialogue_makes_twenty_calls_in_turn():
    engine = ten_rounds()
    told, talk = asked("dialogue", "paper", engine)
    assert [ask.to for ask in engine.asks] == ["vlm", "llm"] * 10
    assert len(talk.steps) == 20
    assert attributes_of(told) == {"colour": "navy", "category": "skirt", "pockets": "patch pockets"}
    assert told.prose == "A navy skirt. It has patch pockets."
    assert told.sampled == (told.claims,)


def test_the_first_question_is_fixed_and_the_others_are_the_askers():
    engine = ten_rounds()
    asked("dialogue", "paper", engine)
    questions = [ask.turns[-1].text for ask in engine.to("vlm")]
    assert questions[0] == load("dialogue", "paper").says("first")
    assert questions[1:] == [f"What does part {number} look like?" for number in range(1, 10)]


def test_the_published_parameters():
    engine = ten_rounds()
    asked("dialogue", "paper", engine)
    assert [ask.max_tokens for ask in engine.to("llm")] == [30] * 9 + [100]
    assert {ask.temperature for ask in engine.to("llm")} == {0.6}
    assert {ask.temperature for ask in engine.to("vlm")} == {0.0}
    assert {(ask.schema is None, ask.stop) for ask in engine.asks} == {(True, ())}


def test_the_published_asker_is_told_everything_and_the_answerer_the_last_round():
    engine = ten_rounds()
    asked("dialogue", "paper", engine)
    summary = engine.to("llm")[-1].turns
    for number in range(10):
        assert sum(f"The part {number} is blue." in turn.text for turn in summary) == 1
    assert [turn.text for turn in engine.to("vlm")[-1].turns[1:]] == [
        "What does part 8 look like?",
        "The part 8 is blue.",
        "What does part 9 look like?",
    ]


@pytest.mark.parametrize("version", versions("dialogue"))
def test_turns_are_what_chat_templates_take(version):
    answers = [f"It has {word}." if version == "paper" else ok(f"It has {word}.") for word in WORDS]
    engine = Scripted(Couple(version, answers, [f"What is number {number}?" for number in range(9)]))
    asked("dialogue", version, engine)
    assert len(engine.asks) == 20
    for ask in engine.asks:
        assert ask.turns[0].by == "system"
        rest = [turn.by for turn in ask.turns[1:]]
        assert rest == ["user", "assistant"] * (len(rest) // 2) + ["user"]
        shows = [place for place, turn in enumerate(ask.turns) if turn.region is not None]
        assert shows == ([1] if ask.to == "vlm" else [])


def test_askers_that_answer_themselves_and_answerers_that_ask_are_cut():
    engine = ten_rounds(
        answers=["A skirt. Question: Is it long?", "Answer: It is\nshort."] + ["Blue."] * 8,
        questions=["Sure. Question: How long is it? Answer: Very long."] + ["What else?"] * 8,
    )
    _, talk = asked("dialogue", "paper", engine)
    assert engine.to("vlm")[1].turns[-1].text == "How long is it?"
    said = [turn.text for turn in engine.to("llm")[1].turns]
    assert "Answer: A skirt." in said
    assert said[-1].startswith("Answer: It is short.\n")
    assert talk.steps[0].raw == "A skirt. Question: Is it long?"
    assert talk.steps[0].used == "A skirt."


def test_the_published_dialogue_takes_what_was_cut_short_and_what_comes_again():
    engine = ten_rounds(
        questions=[Reply("Question: What does the thing with", "length")] + ["What else is there?"] * 8,
        summary=Reply("A navy skirt with a patch po", "length"),
    )
    told, _ = asked("dialogue", "paper", engine)
    assert engine.to("vlm")[1].turns[-1].text == "What does the thing with"
    assert len(engine.asks) == 20
    assert told.prose == "A navy skirt with a patch po"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", "empty"),
        ("Your message is empty.", "meta"),
        ("I'm sorry, but I can't help with that.", "refused"),
    ],
)
def test_the_published_dialogue_never_takes_empty_talk_for_a_caption(answer, status):
    with pytest.raises(Unusable) as error:
        asked("dialogue", "paper", ten_rounds(answers=[answer]))
    assert error.value.status == status


# the improved dialogue


@pytest.mark.parametrize("version", IMPROVED)
def test_the_improved_parameters(version):
    engine = Scripted(Couple(version, [ok("A navy skirt."), ok("It has tassels.")], ["The hem?", "", ""]))
    asked("dialogue", version, engine)
    assert engine.to("vlm")[0].turns[-1].text == load("dialogue", version).says("first")
    assert {(ask.temperature, ask.seed) for ask in engine.asks} == {(0.0, 0)}
    assert [ask.max_tokens for ask in engine.to("llm")] == [48, 48, 48, 120]
    assert engine.to("llm")[0].stop == ("\n", "Answer:")
    statuses = {tuple(ask.schema["properties"]["status"]["enum"]) for ask in engine.to("vlm")}
    assert statuses == {("ok", "unsure", "not_visible")}


@pytest.mark.parametrize("version", IMPROVED)
def test_no_more_than_ten_rounds(version):
    answers = [ok(f"It has {word}.") for word in WORDS]
    engine = Scripted(Couple(version, answers, [f"What is number {number}?" for number in range(9)]))
    asked("dialogue", version, engine)
    assert [ask.to for ask in engine.asks] == ["vlm", "llm"] * 10


@pytest.mark.parametrize("version", IMPROVED)
def test_a_question_that_comes_again_is_asked_for_once_more_and_then_ends_it(version):
    answers = [ok("A navy skirt."), ok("It has a patch pocket.")]
    questions = ["What pockets does it have?", "what pockets, does it have", "What does it have, pockets?"]
    engine = Scripted(Couple(version, answers, questions))
    asked("dialogue", version, engine)
    assert [ask.to for ask in engine.asks] == ["vlm", "llm", "vlm", "llm", "llm", "llm"]
    again = engine.asks[4].turns
    assert again[-2].text == "Question: what pockets, does it have"
    assert again[-1].text == load("dialogue", version).says("again")


@pytest.mark.parametrize("version", IMPROVED)
def test_a_new_question_at_the_second_try_goes_on(version):
    answers = [ok("A navy skirt."), ok("Patch pockets."), ok("It has tassels.")]
    questions = ["What pockets?", "What pockets?", "What is at the hem?", "", ""]
    engine = Scripted(Couple(version, answers, questions))
    asked("dialogue", version, engine)
    assert [ask.turns[-1].text for ask in engine.to("vlm")][1:] == ["What pockets?", "What is at the hem?"]


@pytest.mark.parametrize(
    "stale",
    [
        ok("It is navy."),  # said before
        ok("Yes, the hem."),  # echoes the question
        unsure("Perhaps it has tassels."),
        {"answer": "The back has tassels.", "status": "not_visible"},
        ok("I'm sorry, but I can't see the image."),
        Reply("", "stop"),
        Reply("I cannot assist with that.", "filter"),
    ],
    ids=lambda stale: str(stale)[:30],
)
def test_two_rounds_without_news_end_it(stale):
    stales = [stale] * (3 if stale == Reply("") else 1)  # an empty form is asked for again
    answers = [ok("A navy skirt with a patch pocket."), *stales, ok("It has tassels."), *stales, *stales]
    questions = ["What is at the hem?", "What else?", "And the hem, what is it like?", "How is the hem sewn?"]
    engine = Scripted(Couple("1", answers, questions))
    asked("dialogue", "1", engine)
    assert len(engine.to("vlm")) == len(answers)
    assert len(engine.to("llm")) == len(questions) + 1  # and the summary


@pytest.mark.parametrize("version", IMPROVED)
@pytest.mark.parametrize("status", ["unsure", "not_visible"])
def test_what_the_answerer_is_unsure_of_reaches_nobody(version, status):
    answers = [
        ok("A navy skirt."),
        {"answer": "Maybe burgundy tassels.", "status": status},
        ok("It is long."),
    ]
    engine = Scripted(
        Couple(
            version,
            answers,
            ["What is at the hem?", "How long is it?", "", ""],
            "A navy skirt. Burgundy trim.",
        )
    )
    told, _ = asked("dialogue", version, engine)
    for ask in engine.asks:
        assert not any("burgundy" in turn.text.lower() for turn in ask.turns)
    assert not any("hem" in turn.text for turn in engine.asks[-1].turns)
    assert "burgundy" not in f"{told}".lower()
    assert attributes_of(told) == {"colour": "navy", "category": "skirt"}


@pytest.mark.parametrize("version", IMPROVED)
def test_a_summary_adds_nothing_that_was_not_answered(version):
    answers = [ok("A navy skirt."), ok("It has patch pockets.")]
    summary = "A navy denim skirt. It has patch pockets. It closes with a zip."
    engine = Scripted(Couple(version, answers, ["What pockets?", "", ""], summary))
    told, _ = asked("dialogue", version, engine)
    assert attributes_of(told) == {"colour": "navy", "category": "skirt", "pockets": "patch pockets"}
    assert told.prose == "It has patch pockets."


def test_a_second_colour_was_named_whichever_question_it_answered():
    answers = [ok("A navy skirt with stripes."), ok("White.")]
    engine = Scripted(
        Couple("1", answers, ["What colour are the stripes?", "", ""], "Navy, with white stripes.")
    )
    told, _ = asked("dialogue", "1", engine)
    assert {"navy", "white"} <= set(attributes_of(told).values())


@pytest.mark.parametrize("version", IMPROVED)
@pytest.mark.parametrize(
    "summary", [Reply("A navy skirt with patch", "length"), "", "As an AI, I cannot.", "A red bag."]
)
def test_a_summary_that_is_no_use_leaves_the_answers(version, summary):
    engine = Scripted(
        Couple(version, [ok("A navy skirt."), unsure("Red.")], ["Any details?", "", ""], summary)
    )
    told, _ = asked("dialogue", version, engine)
    assert attributes_of(told) == {"colour": "navy", "category": "skirt"}
    assert told.prose == ""


@pytest.mark.parametrize("version", IMPROVED)
def test_without_an_answer_there_is_no_caption(version):
    engine = Scripted(Couple(version, [unsure("A skirt?"), unsure("Navy?")], ["What colour is it?"]))
    with pytest.raises(Unusable) as error:
        asked("dialogue", version, engine)
    assert error.value.status == "unsure"
    assert [ask.to for ask in engine.asks] == ["vlm", "llm", "vlm"]


def test_the_asker_of_version_2_is_told_what_is_open():
    answers = [ok("A navy skirt."), ok("It has patch pockets.")]
    engine = Scripted(Couple("2", answers, ["What pockets?", "", ""]))
    asked("dialogue", "2", engine)
    first, second, *_ = [ask.turns[-1].text for ask in engine.to("llm")]
    assert "pockets" in first
    assert "second colour" in first
    assert "neckline" not in first  # no skirt has one
    assert "pockets" not in second.split("Not known yet")[1]


def test_a_sample_is_a_dialogue_of_its_own():
    answers = [ok("A navy skirt."), unsure(""), unsure(""), ok("A black skirt."), unsure(""), unsure("")]
    questions = ["What hem?", "What waist?"] * 2
    engine = Scripted(Couple("1", answers, questions, "A navy or black skirt."))
    told, _ = asked("dialogue", "1", engine, samples=2)
    assert [(ask.sample, ask.seed, ask.temperature) for ask in engine.asks] == [(0, 0, 0.0)] * 6 + [
        (1, 1, 0.7)
    ] * 6
    assert [{claim.value for claim in claims} for claims in told.sampled] == [
        {"navy", "skirt"},
        {"black", "skirt"},
    ]
    assert told.claims == told.sampled[0]
