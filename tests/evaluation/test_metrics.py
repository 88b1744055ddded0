import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookalike.evaluation.metrics import average_precision, recall_at


def test_a_worked_example() -> None:
    relevant = np.array([True, False, True, False, False])
    assert average_precision(relevant) == (1 / 1 + 2 / 3) / 2
    assert average_precision(relevant, total=4) == (1 / 1 + 2 / 3) / 4
    assert [recall_at(relevant[1:], k) for k in (1, 2)] == [0.0, 1.0]


def test_a_query_without_right_answers_has_no_average_precision() -> None:
    assert math.isnan(average_precision(np.zeros(3, bool)))


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_average_precision_equals_its_definition(ranking: list[bool]) -> None:
    precisions = [sum(ranking[: i + 1]) / (i + 1) for i, right in enumerate(ranking) if right]
    expected = sum(precisions) / len(precisions) if precisions else math.nan
    np.testing.assert_allclose(average_precision(np.array(ranking)), expected)
