"""YAML in, plain data with places out; whatever the text, nothing else than a message comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from lossgeo.recipes.documents import (
    MAX_BYTES,
    MAX_NODES,
    RecipeError,
    read_document,
    read_named,
    read_value,
    scalar,
    write_document,
)
from lossgeo.recipes.resolving import resolve
from tests.support.counting import calls_of
from tests.support.program import start

VALID = {
    "name": "valid",
    "claim": {"says": "it holds", "source": "us", "report": "sharpness"},
    "model": {"name": "mlp", "hidden": [8, 8]},
    "dataset": {"name": "digits", "train": 100, "classes": [1, 7]},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "schedule": {"name": "piecewise", "boundaries": [5], "factors": [0.1]},
    "batch_size": 16,
    "steps": 20,
    "stop": {"train_loss_below": 0.01},
    "checkpoint": {"at": [1, "last"], "keep": "all"},
    "probes": [{"name": "trace", "every": 10}, {"name": "eigenvalues", "operator": "hessian", "log": 3}],
    "sweep": {"seed": {"range": 2}, "optimizer.lr": {"log": [0.01, 1, 3]}},
    "zip": {"steps": [10, 20], "model.hidden": [[4], [8]]},
    "list": [{"batch_size": 16}, {"batch_size": 32}],
}
BILLION_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
)


def complaint(text: str | bytes) -> str:
    """What the reader says of a recipe, read and resolved."""
    with pytest.raises(RecipeError) as caught:
        resolve(read_document(text if isinstance(text, bytes) else text.encode(), "f.yaml"))
    return str(caught.value)


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("-0x1", "-0x1"),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),  # YAML 1.1 would read it as octal
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("no", "no"),
        ("Off", "Off"),
        ("true", True),
        ("~", None),
        ("", None),
        ("null", None),
        ("-.inf", float("-inf")),
        ("1e999", float("inf")),
        ("2024-01-01", "2024-01-01"),
        ("nan", "nan"),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2_has_them(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
    assert read_value(text, "--set x") == value


def test_quoted_scalars_are_text() -> None:
    document = read_document(b"a: '1'\nb: \"true\"\nc: |\n  2\n", "f.yaml")
    assert document.plain == {"a": "1", "b": "true", "c": "2\n"}


@pytest.mark.parametrize("prefix", ["", "\ufeff", "# comment\n", "---\n", "%YAML 1.2\n---\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(prefix: str, newline: str) -> None:
    text = (prefix + "a: 1\nb:\n  - {c: 2}\n").replace("\n", newline).encode()
    document = read_document(text, "f.yaml")
    assert document.plain == {"a": 1, "b": ({"c": 2},)}
    lines = prefix.count("\n")
    assert document.place(("b", 0, "c")) == f"f.yaml:{3 + lines}:6"
    assert document.place(("b", 0, "unknown")) == f"f.yaml:{3 + lines}:5"


def test_aliases_are_read_once_for_each_mention() -> None:
    document = read_document(b"a: &x {k: [1, 2]}\nb: [*x, *x]\n", "f.yaml")
    assert document.plain == {"a": {"k": (1, 2)}, "b": ({"k": (1, 2)}, {"k": (1, 2)})}
    assert document.place(("b", 1, "k")) == "f.yaml:2:9"


def test_a_component_on_the_command_line() -> None:
    assert read_named("trace", "--probe") == "trace"
    assert read_named("e:top=5,at=[first,last],x2=1e-3", "--probe") == {
        "name": "e",
        "top": 5,
        "at": ("first", "last"),
        "x2": 1e-3,
    }
    for text in ("e:", "e:top", "e:top=[1", "e:top=1,top=2"):
        with pytest.raises(RecipeError, match=r"^--probe: "):
            read_named(text, "--probe")


# --- what is refused, and where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f.yaml:1:1: there is nothing in it; a recipe is a mapping"),
        ("# nothing\n", "f.yaml:1:1: there is nothing in it"),
        ("- a\n- b\n", "f.yaml:1:1: this is a list of 2; a recipe is a mapping"),
        ("just text", "f.yaml:1:1: this is 'just text'; a recipe is a mapping"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document begins"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: tags such as 'tag:yaml.org,2002:python/object"),
        ("a: !x 1", "f.yaml:1:4: tags such as '!x'"),
        ("? [a]: b\n", "f.yaml:1:3: a key is a word, not a list or a mapping"),
        ("? {a: b}\n: c\n", "f.yaml:1:3: a key is a word"),
        ("a: &x 1\n*x : 2\n", "f.yaml:2:1: an alias cannot be a key"),
        ("a: &x [*x]\n", "f.yaml:1:8: no anchor named 'x' is complete here"),
        ("a: *x\n", "f.yaml:1:4: no anchor named 'x' is complete here"),
        ("a: 'x\n", "f.yaml:2:1: not YAML: found unexpected end of stream"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: not YAML: found character that cannot start any token; indent with spaces"),
        ("a: b: c\n", "f.yaml:1:5: not YAML: mapping values are not allowed in this context"),
        ("a: 1\nb: x\0y\n", "f.yaml:2:5: not YAML: it holds the unprintable character U+0000"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:1: not UTF-8 text"),
        ("a: 1\n".encode("utf-16"), "f.yaml:1:1: not UTF-8 text"),
        (b"\x7fELF\x02\x01\x01\0\0", "f.yaml:1:1: not YAML: it holds the unprintable character U+007F"),
        ("a: " + "1" * 5000, "f.yaml:1:4: a number of 5000 digits"),
        ("a: 0x" + "f" * 5000, "f.yaml:1:4: a number of 5002 digits"),
        ("a: " + "[" * 500, "f.yaml:1:35: nested deeper than 32 levels"),
        ("a: " + "[" * 5000, "nested deeper than 32 levels"),
        ("a: " + "{b: " * 5000, "nested deeper than 32 levels"),
        ("\n".join(" " * i + "a:" for i in range(400)), "f.yaml:33:33: nested deeper than 32 levels"),
        (BILLION_LAUGHS, "more than 50000 values, aliases expanded"),
        ("a: [" + "1," * 60_000 + "]", "more than 50000 values"),
        ("a: " + "x" * MAX_BYTES, "f.yaml: longer than 256 kB"),
    ],
)
def test_what_is_no_recipe_is_refused_with_one_message(text: str | bytes, said: str) -> None:
    message = complaint(text)
    assert said in message
    assert "\n" not in message
    calls_of(lambda: complaint(text), most=40 * MAX_NODES)  # found: 17 for each value that it may have


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1: 2", "f.yaml:1:1: 1: unknown key; choose from name, "),
        ("~: 2", "f.yaml:1:1: ~: unknown key"),
        ("? \n: 2", "f.yaml:1:2: a key is missing here"),
        ("'': 2", "f.yaml:1:1: a key is missing here"),
        ("<<: {a: 1}", "f.yaml:1:1: <<: unknown key"),
        ('"a\\nb\\e[31m": 2', "f.yaml:1:1: 'a\\nb\\x1b[31m': unknown key"),
        ("k" * 900 + ": 2", "f.yaml:1:1: '" + "k" * 56 + "...: unknown key"),
    ],
)
def test_odd_keys_are_named_on_one_line(text: str, said: str) -> None:
    assert said in complaint(text)


def test_equal_keys_are_refused_together_with_everything_else() -> None:
    message = complaint("model: mlp\nmodel: logistic\noptimizer: {lr: 1, lr: 2, name: sdg}\nloss: mse\n")
    assert "f.yaml:2:1: model: this key stands here twice; keep one" in message
    assert "f.yaml:3:20: optimizer.lr: this key stands here twice; keep one" in message
    assert "f.yaml:3:27: optimizer.name: no optimizer is named 'sdg'; did you mean 'sgd'?" in message


def test_a_long_list_of_complaints_is_cut() -> None:
    message = complaint("".join(f"key{i}: 1\n" for i in range(3000)))
    assert len(message.splitlines()) == 101
    assert message.endswith("more")


def test_values_of_the_command_line_have_no_line_and_column() -> None:
    for text in ("[1", "a: b: c", "*x", "!!int 3", "{a: 1, a: 2}", "1\n---\n2", "\0", "\udcff", "9" * 5000):
        with pytest.raises(RecipeError) as caught:
            read_value(text, "--set k=v")
        assert str(caught.value).startswith("--set k=v: ")
        assert not str(caught.value).startswith("--set k=v: --set")


# --- arbitrary text --------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**420), max_value=10**420),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["no", "sgd", "mlp", "full", "../x", "os", "__init__", "1e-3", "1e999", "\u2028", "\x85", "\ufeff"]
    ),
)
KEYS = st.one_of(
    st.sampled_from([*VALID, "lr", "range", "log", "every", "at", "optimizer.lr", "probes.0.top"]), SCALARS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
PIECES = st.sampled_from(
    [
        *(
            "a",
            "b",
            ":",
            ": ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&a ",
            "*a",
            "!!int ",
            "!",
            "---\n",
            "...\n",
            "\n",
            "\n  ",
        ),
        *("'", '"', "|\n", ">\n", "? ", "#", "%", "@", "\t", "\r", "\0", ".nan", "1e5", "0x", "~", "<<", "é"),
        *("model", "sweep"),
    ]
)


def survives(text: bytes) -> None:
    """Runs, or an error in which every line has its place; nothing else."""
    try:
        runs, lines = resolve(read_document(text, "f.yaml")), []
    except RecipeError as error:
        runs, lines = [], error.lines
    assert bool(runs) != bool(lines)
    assert all(line.startswith("f.yaml") and line.isprintable() and len(line) < 2000 for line in lines)
    for run in runs[:1]:
        (again,) = resolve(read_document(write_document(run.plain), "again.yaml"))
        assert again.id == run.id


def paths(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything in plain data."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(path for key, item in inside for path in paths(item, (*way, key)))]


def replaced(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    if isinstance(value, dict):
        return {k: replaced(v, way[1:], new) if k == way[0] else v for k, v in value.items()}
    return [replaced(v, way[1:], new) if i == way[0] else v for i, v in enumerate(value)]


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode(errors="surrogatepass")


def test_the_valid_recipe_is_valid() -> None:
    assert len(resolve(read_document(as_yaml(VALID), "f.yaml"))) == 2 * 3 * 2 * 2


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode(errors="surrogatepass"))))
def test_arbitrary_bytes_survive(text: bytes) -> None:
    survives(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=40))
def test_arbitrary_pieces_of_yaml_survive(pieces: list[str]) -> None:
    survives("".join(pieces).encode())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VALUES)
def test_arbitrary_values_survive(value: Any) -> None:
    survives(as_yaml(value))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(paths(VALID)), VALUES)
def test_a_recipe_with_any_value_in_any_place_survives(way: tuple[Any, ...], value: Any) -> None:
    survives(as_yaml(replaced(VALID, way, value)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(paths(VALID)), KEYS, VALUES)
def test_a_recipe_with_any_further_key_survives(way: tuple[Any, ...], key: Any, value: Any) -> None:
    here: Any = VALID
    for step in way:
        here = here[step]
    survives(as_yaml(replaced(VALID, way, {**here, key: value} if isinstance(here, dict) else {key: value})))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_text_is_written_so_that_it_is_read_back(text: str) -> None:
    plain = {"a": text, "b": {"c": [text]}}
    again = read_document(write_document(plain), "f.yaml").plain
    assert again == {"a": text, "b": {"c": (text,)}}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.from_regex(r"[-+]?[0-9.eExo_~a-f]{1,6}", fullmatch=True))
def test_text_that_looks_like_a_number_stays_text(text: str) -> None:
    assert read_document(write_document({"a": text}), "f.yaml").plain == {"a": text}


# --- through the real program ----------------------------------------------------------------------------------------


def test_hostile_files_end_the_program_with_code_2_and_a_message(tmp_path: Path) -> None:
    hostile = {
        "ten_megabytes.yaml": b"a: 1\n" * 2_000_000,
        "billion_laughs.yaml": BILLION_LAUGHS.encode(),
        "deep.yaml": b"a: " + b"[" * 200_000,
        "binary.yaml": bytes(range(256)) * 100,
    }
    programs = {}
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
        complaint(content)
        calls_of(lambda content=content: complaint(content), most=2000)  # found: 800
        programs[name] = start("train", name, "--dry-run", cwd=tmp_path)
    for name, program in programs.items():
        out, err = program.communicate(timeout=120)
        assert program.returncode == 2, err
        assert out == ""
        assert err.startswith(f"error: {name}"), err
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == set(hostile)
