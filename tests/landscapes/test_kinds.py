"""What data are taken for: kinds of targets, places of channels, numbers that a type cannot hold; asked where open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from lossgeo.components.component import identity
from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets import Data, Dataset, Kind, Raw
from lossgeo.landscapes.datasets.digits import Digits
from lossgeo.landscapes.datasets.file import File
from lossgeo.landscapes.datasets.text import Text
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.losses.mse import MSE
from lossgeo.recipes.documents import read_document, write_document
from lossgeo.recipes.resolving import resolve
from tests.support.program import a_run, lossgeo, manifest, news, written

RNG = np.random.default_rng(0)
N = 40
BOTH, CLASSES = MSE.accepts, CrossEntropy.accepts
HOT = np.eye(3)[np.arange(N) % 3]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _of_file(targets: Any, accepts: Any = (), inputs: Any = None, **fields: Any) -> Data:
    np.savez("a.npz", x=RNG.normal(size=(N, 2)) if inputs is None else inputs, y=np.asarray(targets))
    return File(path="a.npz", **fields).load(accepts)


class Given(Dataset):
    """Arrays as a user's own dataset gives them."""

    kind: ClassVar[Kind] = "auto"
    raw: ClassVar[Raw]

    def read(self, generator: torch.Generator) -> Raw:
        return self.raw


class GivenValues(Given):
    """Targets that are said to be values."""

    kind: ClassVar[Kind] = "values"


# --- kinds of targets ------------------------------------------------------------------------------------------------

WHOLE = np.arange(N) % 7 + 3
TARGETS: dict[str, Any] = {
    "whole": WHOLE,
    "whole, a column": WHOLE[:, None],
    "whole as floats": WHOLE.astype(float),
    "booleans": WHOLE > 5,
    "text": np.array(["cat", "dog"])[np.arange(N) % 2],
    "fractions": WHOLE / 7,
    "one-hot": HOT,
    "whole one-hot": HOT.astype(int),
    "several of three": np.maximum(HOT, HOT[:, ::-1]),
    "negative": WHOLE - 6,
    "gaps": np.array([0, 1, 7])[np.arange(N) % 3],
}


@pytest.mark.parametrize(
    ("targets", "takes_classes", "takes_both"),
    [
        ("whole", 7, "asked"),
        ("whole, a column", 7, "asked"),
        ("whole as floats", 7, "1 value"),
        ("booleans", 2, "asked"),
        ("text", 2, "2 classes"),
        ("fractions", "1 value", "1 value"),
        ("one-hot", 3, "3 values"),
        ("whole one-hot", 3, "3 values"),
        ("several of three", "3 values", "3 values"),
        ("negative", 7, "asked"),
        ("gaps", 3, "asked"),
    ],
)
def test_the_loss_decides_and_what_it_leaves_open_is_asked(targets: str, takes_classes: Any, takes_both: str) -> None:
    data = _of_file(TARGETS[targets], CLASSES)
    if isinstance(takes_classes, int):
        assert (data.task.targets, data.task.outputs) == ("classes", takes_classes)
    else:  # which the loss then refuses
        assert f"{takes_classes} to predict" in data.understood
    if takes_both == "asked":
        message = (
            r"file a.npz: array 'y': \d different whole numbers .* may be classes or values, .*say `kind: classes` or"
        )
        with pytest.raises(UsageError, match=message):
            _of_file(TARGETS[targets], BOTH)
        values = _of_file(TARGETS[targets], BOTH, kind="values", standardize=False)
        assert values.task.targets == "values"
        assert sorted(values.train.targets.flatten().tolist() + values.test.targets.flatten().tolist()) == sorted(
            np.asarray(TARGETS[targets], dtype=float).flatten().tolist()
        )
        assert _of_file(TARGETS[targets], BOTH, kind="classes").task.targets == "classes"
    else:
        assert takes_both in _of_file(TARGETS[targets], BOTH).understood


def test_a_loss_of_values_alone_takes_whole_numbers_as_such() -> None:
    assert _of_file(WHOLE, ("values",)).task.targets == "values"


def test_classes_keep_their_labels_whatever_these_are() -> None:
    for targets, labels in (("gaps", (0, 1, 7)), ("negative", tuple(range(-3, 4))), ("text", ("cat", "dog"))):
        data = _of_file(TARGETS[targets], CLASSES, standardize=False)
        assert data.task.labels == labels
        assert data.rows is not None
        given = np.asarray(TARGETS[targets])[data.rows[0]].tolist()
        assert [labels[place] for place in data.train.targets.tolist()] == given
    assert "3 classes (0, 1, 7)" in _of_file(TARGETS["gaps"], CLASSES).understood
    hot = np.zeros((N, 4))
    hot[:, :3] = HOT  # the fourth class has no example, and its output stays
    data = _of_file(hot, CLASSES)
    assert data.rows is not None
    assert data.task.outputs == 4
    assert data.train.targets.tolist() == (data.rows[0] % 3).tolist()


def test_labels_that_are_hardly_classes_are_asked_about() -> None:
    many = [f"patient {i}" for i in range(N)]
    for targets in (many, np.arange(N)):
        with pytest.raises(
            UsageError, match=r"40 different ones in 40 examples are hardly classes; say `kind: classes`"
        ):
            _of_file(targets, CLASSES)
        assert _of_file(targets, CLASSES, kind="classes").task.outputs == N
    words = [str(i / 7) for i in range(N - 1)] + ["n/a"]
    with pytest.raises(UsageError, match=r"'n/a' stands among numbers in example 39"):
        _of_file(words, CLASSES)
    pd.DataFrame({"a": range(3), "t": ["1.5", "2.5", "1.5"]}).to_parquet("t.parquet")
    with pytest.raises(UsageError, match="numbers are written as text"):
        File(path="t.parquet").load(CLASSES)
    with pytest.raises(UsageError, match=r"-100 marks what does not count in torch"):
        _of_file(np.where(np.arange(N) % 5 == 0, -100, np.arange(N) % 3), CLASSES)


def test_a_number_that_does_not_count_is_never_another_class() -> None:
    task = _of_file(TARGETS["gaps"], CLASSES).task
    with pytest.raises(
        UsageError, match=r"ignore_index: 7 is the number of a class, and the classes 0, 1, 7 are numbered"
    ):
        CrossEntropy(ignore_index=7).prepare(torch.tensor([0, 1, 2]), task, torch.float32)
    digits = Digits().load(CLASSES)
    counted = CrossEntropy(ignore_index=7).prepare(digits.train.targets, digits.task, torch.float32)
    assert torch.equal(counted < 0, digits.train.targets == 7)


def test_a_component_s_own_word_counts_before_the_shape() -> None:
    for cls, accepts, kind in (
        (GivenValues, BOTH, "values"),
        (Given, CLASSES, "classes"),
        (Given, (), "classes"),
        (Given, ("values",), "values"),
    ):
        cls.raw = Raw(RNG.normal(size=(N, 2)), WHOLE, "given arrays")
        assert cls().load(accepts).task.targets == kind
    with pytest.raises(UsageError, match="given arrays: targets: 7 different whole numbers"):
        Given().load(BOTH)
    Given.raw = Raw(RNG.normal(size=(N, 2)), WHOLE / 7, "given arrays")
    assert Given().load(()).task.targets == "values"
    Given.raw = Raw(RNG.normal(size=(N, 2)), WHOLE[:, None], "given arrays")
    assert Given().load(BOTH).task.targets == "values"  # (N, outputs)
    Given.raw = Raw(RNG.normal(size=(N, 2)), np.array(["a", "b"] * (N // 2), dtype=object), "given arrays")
    assert Given().load(BOTH).task.labels == ("a", "b")


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (np.ones((N, 2), complex), WHOLE, "the inputs hold complex128, not numbers"),
        (np.array([["1.5"]] * N), WHOLE, "the inputs hold <U3, not numbers"),
        (np.ones((N, 2)), np.ones(N, complex), "complex128 of shape"),
        (np.ones((N, 2)), np.array([None, 1] * (N // 2)), "object of shape"),
        (np.ones((N, 2)), np.ones((N, 2, 2)), "targets are labels"),
        (np.full((N, 2), 2**53 + 1), WHOLE, "hold 9007199254740993, which no float64 holds"),
    ],
)
def test_what_no_number_is_is_refused(inputs: Any, targets: Any, said: str) -> None:
    Given.raw = Raw(inputs, targets, "given arrays")
    with pytest.raises(UsageError, match=said):
        Given().load(CLASSES)


# --- values that have no unit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["one-hot", "several of three"])
def test_targets_of_yes_and_no_are_not_standardized(targets: str) -> None:
    for values in (TARGETS[targets], 2 * TARGETS[targets] - 1, TARGETS[targets][:, 0]):
        data = _of_file(values, BOTH)
        assert set(data.train.targets.flatten().tolist()) == set(values.flatten().tolist())
        assert "target values stay as they are, yes or no" in data.understood
    scaled = _of_file(TARGETS[targets], BOTH, standardize_targets="always")
    np.testing.assert_allclose(scaled.train.targets.numpy().mean(0), 0, atol=1e-12)
    fractions = _of_file(TARGETS["fractions"], BOTH, standardize_targets="never", standardize=True)
    assert set(fractions.train.targets.flatten().tolist()) <= set(TARGETS["fractions"].tolist())


def test_a_file_s_keys_have_joined_and_a_run_from_before_does_what_it_did() -> None:
    old = File(path="a.npz", layout="channels_first", standardize_targets="always")
    assert not {"layout", "standardize_targets"} & identity(old).keys()
    assert {"layout", "standardize_targets"} <= identity(File(path="a.npz")).keys()
    assert "standardize_targets" not in identity(Digits())


def test_a_recipe_from_before_its_keys_is_read_as_what_it_did(folder: Path) -> None:
    before = {"layout": "channels_first", "standardize_targets": "always"}
    fields = {"dataset": {"name": "file", "path": "a.npz", **before}, "loss": "mse"}
    made = a_run(folder, **fields)
    plain = made.resolved.plain
    for key in before:
        del plain["dataset"][key]  # as they stand in the folders of runs that were made before
    (again,) = resolve(read_document(write_document(plain), "recipe.yaml"), whole=True)
    assert (again.recipe, again.id) == (made.recipe, made.id)
    (new,) = resolve(read_document(write_document(plain), "recipe.yaml"))
    assert new.id != made.id


# --- channels --------------------------------------------------------------------------------------------------------

IMAGES = RNG.normal(size=(N, 3, 6, 8))
GRAY = RNG.normal(size=(N, 6, 8))


def _inputs(data: Data) -> np.ndarray[Any, Any]:
    """The inputs in the order of the source."""
    assert data.rows is not None
    both = torch.cat([data.train.inputs, data.test.inputs]).numpy()
    return both[np.argsort(np.concatenate(data.rows))]


@pytest.mark.parametrize(
    ("inputs", "fields", "expected", "said"),
    [
        (IMAGES, {}, IMAGES, "inputs 6 x 8, 3 channels; "),
        (IMAGES.transpose(0, 2, 3, 1), {}, IMAGES, "channels stand last in the file"),
        (IMAGES.transpose(0, 2, 3, 1), {"layout": "channels_last"}, IMAGES, "inputs 6 x 8, 3 channels; "),
        (GRAY, {"layout": "no_channels"}, GRAY[:, None], "inputs 6 x 8, 1 channel; "),
        (GRAY, {"layout": "channels_first"}, GRAY, "inputs 8 long, 6 channels; "),
        (GRAY, {"layout": "channels_last"}, GRAY.transpose(0, 2, 1), "inputs 6 long, 8 channels; "),
        (GRAY[:, None], {}, GRAY[:, None], "inputs 6 x 8, 1 channel; "),
        (GRAY[..., None], {}, GRAY[:, None], "inputs 6 x 8, 1 channel; "),
        (GRAY[:, :1], {}, GRAY[:, :1], "inputs 8 long, 1 channel; "),
        (GRAY, {"shape": (1, 6, 8)}, GRAY[:, None], "inputs 6 x 8, 1 channel; "),
        (GRAY.reshape(N, 48), {"shape": (1, 6, 8)}, GRAY[:, None], "inputs 6 x 8, 1 channel; "),
        (GRAY.reshape(N, 48), {"shape": (6, 8), "layout": "no_channels"}, GRAY[:, None], "inputs 6 x 8, 1 channel; "),
        (GRAY, {"shape": (48,)}, GRAY.reshape(N, 48), "inputs 48 numbers; "),
        (IMAGES.transpose(0, 2, 3, 1).reshape(N, -1), {"shape": (6, 8, 3)}, IMAGES, "inputs 6 x 8, 3 channels; "),
        (IMAGES.reshape(N, -1), {"shape": (3, 6, 8)}, IMAGES, "inputs 6 x 8, 3 channels; "),
        (GRAY[:, 0], {"layout": "no_channels"}, GRAY[:, :1], "inputs 8 long, 1 channel; "),
    ],
)
def test_channels_come_first_however_they_stood(inputs: Any, fields: dict[str, Any], expected: Any, said: str) -> None:
    data = _of_file(WHOLE, CLASSES, inputs, standardize=False, **fields)
    np.testing.assert_array_equal(_inputs(data), expected)
    assert said in data.understood
    assert data.task.inputs == expected.shape[1:]


@pytest.mark.parametrize(
    ("inputs", "fields", "said"),
    [
        (GRAY, {}, r"an input is \(6, 8\), .* `layout: no_channels` for images of 6 x 8, .* signals of 6 channels"),
        (RNG.normal(size=(N, 8, 8)), {}, r"an input is \(8, 8\), which can be read in three ways"),
        (RNG.normal(size=(N, 6, 7, 8)), {}, r"for 6 channels of 7 x 8, or `channels_last` for 8 channels of 6 x 7"),
        (RNG.normal(size=(N, 3, 6, 3)), {}, r"can be read in three ways"),
        (GRAY.reshape(N, 48), {"shape": (6, 8)}, r"an input is \(6, 8\), which can be read in three ways"),
        (
            IMAGES.transpose(0, 2, 3, 1),
            {"shape": (3, 6, 8)},
            r"\(6, 8, 3\); as `shape: .*` its numbers would be mixed up",
        ),
        (GRAY[:, 0], {"layout": "channels_last"}, r"a row of 8 numbers without channels"),
    ],
)
def test_a_shape_that_does_not_tell_is_asked_about(inputs: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _of_file(WHOLE, CLASSES, inputs, **fields)


def test_two_pairs_of_arrays_are_asked_about() -> None:
    np.savez("two.npz", x=np.ones((4, 1)), y=[0, 1, 0, 1], inputs=np.zeros((4, 1)), targets=[1, 1, 0, 0])
    with pytest.raises(UsageError, match=r"say with `inputs` and `targets` which of them to take"):
        File(path="two.npz").load()
    assert File(path="two.npz", inputs="x", targets="y", test=1).load().train.size == 3


# --- numbers that a type cannot hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e200, 1e307])
@pytest.mark.parametrize("shape", [(3,), (1, 5, 6)])
def test_features_of_any_size_are_standardized_alike(size: float, shape: tuple[int, ...]) -> None:
    inputs = RNG.normal(size=(N, *shape))
    plain, large = (_of_file(WHOLE, CLASSES, inputs * factor) for factor in (1.0, size))
    np.testing.assert_allclose(large.train.inputs, plain.train.inputs, rtol=1e-12)
    np.testing.assert_allclose(large.test.inputs, plain.test.inputs, rtol=1e-12)
    values = _of_file(inputs.reshape(N, -1) * size, BOTH)
    np.testing.assert_allclose(values.train.targets.numpy().std(0), 1, rtol=1e-12)


def test_what_a_type_cannot_hold_is_named_with_its_place() -> None:
    table = pd.DataFrame({"a": np.arange(10.0), "b": np.arange(10.0), "t": np.arange(10) % 2})
    table.loc[7, "b"] = 1e200
    table.to_csv("t.csv", index=False)
    data = File(path="t.csv", standardize=False).load(CLASSES)
    with pytest.raises(UsageError, match=r"^file t.csv: column 'b' is 1e\+200 in row 8, which float32 does not hold"):
        data.refuse_lost(torch.float32)
    data.refuse_lost(torch.float64)
    for numbers, dtype in ((np.arange(10) * 1e-60, torch.float32), (1e9 + np.arange(10), torch.float32)):
        table["b"] = numbers
        table.to_csv("t.csv", index=False)
        data = File(path="t.csv", standardize=False).load(CLASSES)
        with pytest.raises(UsageError, match=r"column 'b' is .* which float32 cannot tell from the others there"):
            data.refuse_lost(dtype)
        File(path="t.csv").load(CLASSES).refuse_lost(dtype)
    with pytest.raises(UsageError, match=r"number 0 of the targets is 1.*e\+200 in example"):
        _of_file(np.where(np.arange(N) == 3, 1e200, 0.5), BOTH, standardize=False).refuse_lost(torch.float32)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_line_says_what_was_understood() -> None:
    assert Digits().load().understood == "inputs 8 x 8, 1 channel; 10 classes; 1,438 train, 359 test"
    assert Text().load().understood.startswith("inputs 32 tokens of 92 kinds; the next one at each; ")
    shown = _of_file(WHOLE / 7, BOTH, standardize=False, kind="values").understood
    assert shown.startswith(
        "inputs 2 numbers; 1 value to predict; 32 train, 8 test; targets are array 'y'; inputs stay "
    )


def test_the_program_says_it_keeps_it_and_refuses_in_one_line(folder: Path) -> None:
    np.savez("a.npz", x=(RNG.random((N, 8, 8)) * 256).astype(np.uint8), y=np.arange(N) % 5)
    dataset: dict[str, Any] = {"name": "file", "path": "a.npz", "layout": "no_channels", "standardize": False}
    path = written(folder, dataset=dataset, batch_size=8, steps=2)
    done = lossgeo("train", path, cwd=folder)
    line = (
        "inputs 8 x 8, 1 channel; 5 classes; 32 train, 8 test; targets are array 'y'; inputs stay as they are, 0 to 255"
    )
    assert (done.returncode, done.stderr) == (0, f"tiny: {line}\n")
    assert manifest(folder / done.stdout.strip())["understood"] == line
    again = lossgeo("train", path, "--set", "loss=mse", cwd=folder)
    assert again.returncode == 2
    (error,) = again.stderr.splitlines()
    assert "file a.npz: array 'y': 5 different whole numbers (0, 1, 2, ...) may be classes or values" in error
    assert list((folder / "outputs" / "tiny").iterdir()) == [folder / done.stdout.strip()]


def test_a_number_that_is_lost_ends_before_anything_is_written(folder: Path) -> None:
    np.savez("a.npz", x=np.full((N, 2), 1e200) * RNG.random((N, 2)), y=np.arange(N) % 5)
    fields = {"dataset": {"name": "file", "path": "a.npz", "standardize": False}, "batch_size": 8, "steps": 2}
    with pytest.raises(UsageError, match="which float32 does not hold; use `dtype: float64` or `standardize: true`"):
        news(a_run(folder, **fields))
    assert not (folder / "tiny").exists()
