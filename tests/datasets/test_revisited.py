import os
import pickle

import numpy as np
import pytest

from lookalike.datasets import Labelled, Side, Unlisted, open_dataset
from lookalike.errors import BadInput
from lookalike.values import Box

GALLERY = ["radcliffe_1", "radcliffe_2", "keble_1"]
QUERIES = ["radcliffe_q", "keble_q"]


def truth(array=list, number=float):
    first = {"easy": [1], "hard": [0], "junk": []}
    second = {"easy": [], "hard": [2], "junk": [0, 1], "bbx": [0.0, 0.0, 9.0, 9.0]}
    return {
        "imlist": GALLERY,
        "qimlist": QUERIES,
        "gnd": [
            {kind: array(places) for kind, places in first.items()}
            | {"bbx": list(map(number, (1, 2, 30.5, 40)))},
            {kind: array(places) for kind, places in second.items()},
        ],
    }


def made(root, content, protocol=pickle.DEFAULT_PROTOCOL, name="gnd_roxford5k.pkl"):
    (root / "jpg").mkdir(exist_ok=True)
    for each in (*GALLERY, *QUERIES):
        (root / "jpg" / f"{each}.jpg").touch()
    (root / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return root


def arrays(values):
    return np.array(values, np.float64 if values and isinstance(values[0], float) else np.int64)


class TestReading:
    def test_queries_then_gallery(self, tmp_path):
        data = open_dataset(made(tmp_path, truth()))
        assert (data.name, data.splits) == ("roxford5k", ("test",))
        regions = list(data.read("test"))
        assert [(each.id, each.side) for each in regions] == [
            *((name, Side.QUERY) for name in QUERIES), *((name, Side.GALLERY) for name in GALLERY)
        ]  # fmt: skip
        assert regions[0] == Labelled(
            id="radcliffe_q", source=str(tmp_path / "jpg" / "radcliffe_q.jpg"), side=Side.QUERY,
            identity=None, group="radcliffe_q", box=Box(1, 2, 30.5, 40),
            truth={"easy": ("radcliffe_2",), "hard": ("radcliffe_1",), "junk": ()},
        )  # fmt: skip
        assert regions[1].truth == {"easy": (), "hard": ("keble_1",), "junk": ("radcliffe_1", "radcliffe_2")}

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_lists_arrays_and_scalars_say_the_same_in_every_protocol(self, tmp_path, protocol):
        (tmp_path / "plain").mkdir()
        (tmp_path / "numpy").mkdir()
        plain = open_dataset(made(tmp_path / "plain", truth()))
        numpy = open_dataset(made(tmp_path / "numpy", truth(arrays, np.float32), protocol))
        facts = [[(each.id, each.box, each.truth) for each in data.read("test")] for data in (plain, numpy)]
        assert facts[0] == facts[1]

    def test_as_numpy_1_wrote_it(self, tmp_path):
        new = pickle.dumps(truth(arrays), 2)
        old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        assert old != new
        assert len(list(open_dataset(made(tmp_path, old)).read("test"))) == 5

    def test_paris(self, tmp_path):
        assert open_dataset(made(tmp_path, truth(), name="gnd_rparis6k.pkl")).name == "rparis6k"


class Runs:
    """Pickles into a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestMaliciousPickles:
    @pytest.mark.parametrize(
        "attack",
        [
            lambda mark: Runs(os.system, f"touch {mark}"),
            lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
            lambda mark: Runs(exec, f"open({str(mark)!r}, 'w')"),
            lambda mark: Runs(getattr, "", "format"),
            lambda mark: Runs(open, str(mark), "w"),
            lambda mark: Runs(np.save, str(mark), 1),
            lambda mark: Runs(np.load, str(mark)),
            lambda mark: Runs(np.fromfile, str(mark)),
        ],
        ids=["system", "eval", "exec", "getattr", "open", "save", "load", "fromfile"],
    )
    @pytest.mark.parametrize("protocol", [0, 2, 5])
    def test_nothing_runs(self, tmp_path, attack, protocol):
        mark = tmp_path / "mark"
        data = open_dataset(made(tmp_path, truth() | {"extra": attack(mark)}, protocol))
        with pytest.raises(BadInput, match="the pickle wants to use") as error:
            data.read("test")
        assert not mark.exists()
        assert "gnd_roxford5k.pkl" in str(error.value) and error.value.hint

    @pytest.mark.parametrize(
        "name",
        [b"numpy\nsave", b"numpy._core.multiarray\nfromfile", b"numpy.core\nndarray", b"builtins\nlist"],
    )
    def test_not_even_a_name_outside_the_list_is_looked_up(self, tmp_path, name):
        data = open_dataset(made(tmp_path, b"c" + name + b"\n."))
        with pytest.raises(BadInput, match="the pickle wants to use"):
            data.read("test")

    def test_what_is_allowed_cannot_be_changed(self, tmp_path):
        attack = b"cnumpy._core.numeric\n_frombuffer\nN}Vmark\nNs\x86b."  # setattr(_frombuffer, "mark", None)
        with pytest.raises(BadInput):
            open_dataset(made(tmp_path, attack)).read("test")
        assert not hasattr(np._core.numeric._frombuffer, "mark")
        with pytest.raises(BadInput):
            open_dataset(
                made(tmp_path, attack.replace(b"numeric\n_frombuffer", b"multiarray\n_reconstruct"))
            ).read("test")

    def test_an_array_larger_than_memory(self, tmp_path):
        data = open_dataset(made(tmp_path, Runs(np.ndarray, (1 << 60,))))
        with pytest.raises(BadInput, match="not a pickle of a ground truth"):
            data.read("test")


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"imlist": "names"}, "imlist: "),
            ({"imlist": [1, 2]}, "imlist: 1 is a whole number, not text"),
            ({"qimlist": ["radcliffe_q"]}, "gnd: 2 entries for 1 qimlist"),
            ({"qimlist": ["keble_1", "keble_q"]}, "imlist, qimlist: a picture stands there twice"),
            ({"gnd": None}, "gnd: null is null, not a list"),
        ],
    )
    def test_a_wrong_ground_truth(self, tmp_path, changes, told):
        with pytest.raises(BadInput, match=r"gnd_roxford5k\.pkl: ") as error:
            open_dataset(made(tmp_path, truth() | changes)).read("test")
        assert told in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04", pickle.dumps([1, 2])])
    def test_no_ground_truth_at_all(self, tmp_path, content):
        with pytest.raises(BadInput, match=r"gnd_roxford5k\.pkl: "):
            open_dataset(made(tmp_path, content)).read("test")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"easy": [3]}, "easy: 3 is no place in imlist, which has 3"),
            ({"easy": [-1]}, "easy: -1 is no place in imlist"),
            ({"easy": [0.5]}, "easy: 0.5 is no place in imlist"),
            ({"junk": None}, "junk: null is null, not a list"),
            ({"bbx": [5, 5, 1, 1]}, "bbx: [5, 5, 1, 1] is inverted"),
            ({"bbx": [float("nan"), 5, 1, 1]}, "bbx: NaN is a number, not a finite number"),
        ],
    )
    def test_a_wrong_query(self, tmp_path, changes, told):
        content = truth()
        content["gnd"][1] |= changes
        wrong = list(open_dataset(made(tmp_path, content)).read("test"))[1]
        assert isinstance(wrong, Unlisted)
        assert f"gnd_roxford5k.pkl, query keble_q: {told}" in wrong.error

    def test_missing_pictures(self, tmp_path):
        data = open_dataset(made(tmp_path, truth()))
        (tmp_path / "jpg" / "keble_1.jpg").unlink()
        (tmp_path / "jpg" / "keble_q.jpg").unlink()
        wrong = [each.error for each in data.read("test") if isinstance(each, Unlisted)]
        assert len(wrong) == 2 and all("No such file" in error for error in wrong)

    def test_an_unknown_split(self, tmp_path):
        with pytest.raises(BadInput, match="no split train"):
            open_dataset(made(tmp_path, truth())).read("train")
