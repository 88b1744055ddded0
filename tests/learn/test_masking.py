"""Words left out of captions, as texts for a frozen tower and as ids for one that is trained."""

import numpy as np

from lookalike.learn.masking import LEFT_OUT, MOST, Cloze, Masker, variants
from lookalike.words import Words

CAPTION = "A tiered mid-calf burgundy skirt. It has buttons down the front."
PLAIN = ["a", "tiered", "mid", "calf", "burgundy", "skirt", "it", "has", "buttons", "down", "the", "front"]


def test_what_is_left_and_what_is_missing_make_the_caption() -> None:
    made = variants(CAPTION)
    assert made == variants(CAPTION) and len({text for text, _ in made}) == 2
    for text, missing in made:
        left, waiting = text.split(), iter(missing)
        assert len(missing) == len(PLAIN) // 2
        restored = [word if word == due else next(waiting) for word, due in zip(left, PLAIN, strict=True)]
        assert restored == PLAIN
    assert variants("") == [] and variants(" .") == []
    long = " ".join(f"word{number}" for number in range(30))
    assert all(len(missing) == MOST for _, missing in variants(long))


def test_a_missing_word_is_unknown_to_bert() -> None:
    words = Words()
    for text, missing in variants(CAPTION):
        ids, _ = words.tokens([text])
        assert (ids == 100).sum() == len(missing)  # [UNK]


def test_missing_words_have_numbers() -> None:
    cloze = Cloze.of([CAPTION, "a red coat"])
    texts, missing = cloze.draw([CAPTION, "", "a red coat"], np.array([3, 3, 4]))
    assert texts == [variants(CAPTION)[1][0], "", variants("a red coat")[0][0]]
    names = list(cloze.numbers)
    told = [[names[number] for number in row if number != LEFT_OUT] for row in missing]
    assert told == [variants(CAPTION)[1][1], [], variants("a red coat")[0][1]]
    assert missing.shape == (3, MOST)


def test_ids_are_hidden_in_whole_words_and_never_the_ends() -> None:
    ids, mask = Words().tokens(["a tracksuit with drawstrings and pockets", ""])
    pieces = [Words().tokens([word])[0][0, 1:-1].tolist() for word in ("tracksuit", "drawstrings")]
    assert all(len(each) > 1 for each in pieces)
    masker, hidden_alone = Masker(), 0
    for draw in range(200):
        changed, places, missing = masker.draw(ids, mask, np.array([draw, draw]))
        (known,) = np.nonzero(missing[0] != LEFT_OUT)
        assert len(known) and (missing[1] == LEFT_OUT).all() and (changed[1] == ids[1]).all()
        at = places[0, known]
        assert (missing[0, known] == ids[0, at]).all()
        assert at.min() >= 1 and at.max() < mask[0].sum() - 1 and len(set(at)) == len(at)
        others = np.setdiff1d(np.arange(ids.shape[1]), at)
        assert (changed[0, others] == ids[0, others]).all()
        for word in pieces:
            hidden_alone += 0 < sum(piece in missing[0] for piece in word) < len(word)
    assert hidden_alone == 0


def test_eight_in_ten_are_masked_one_is_any_word_and_one_stays() -> None:
    ids, mask = Words().tokens([" ".join(["red"] * 20)] * 400)
    changed, places, missing = Masker().draw(ids, mask, np.arange(400))
    known = missing != LEFT_OUT
    became = np.take_along_axis(changed, places, axis=1)[known]
    assert known.sum() == 400 * 10
    assert abs((became == 103).mean() - 0.8) < 0.02  # [MASK]
    assert abs((became == missing[known]).mean() - 0.1) < 0.02
    again = Masker().draw(ids, mask, np.arange(400))
    assert all((one == other).all() for one, other in zip((changed, places, missing), again, strict=True))
