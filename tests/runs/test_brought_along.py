"""What a user's component brings along: modules beside it and files that it declares. All else is refused."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lossgeo.components.finding import used_files
from lossgeo.components.parsing import parse
from lossgeo.errors import RunError, UsageError
from lossgeo.landscapes.models import Model
from lossgeo.probes.trace import Trace
from lossgeo.runs import run as run_module
from lossgeo.runs.building import landscape_and_data
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.probing import probe
from lossgeo.runs.resuming import finished
from lossgeo.runs.run import Run
from tests.support.program import a_run, lossgeo, manifest, news, rows, runs, trained, written

SHORT: dict[str, Any] = {"steps": 4, "checkpoint": {"every": 2}, "evaluate": {"every": 4}, "model": "net"}

PROBES = [Trace(vectors=2, samples=50)]

NET = '''
from typing import ClassVar, final
import numpy as np
import torch
from torch import nn
from lossgeo import Model, Task
{imports}

@final
class Net(Model):
    """A line with a bias from elsewhere."""

    {fields}

    def module(self, task: Task) -> nn.Module:
        bias = 0.0
        {body}
        line = nn.Linear(64, task.outputs)
        with torch.no_grad():
            line.bias.fill_(float(bias))
        return nn.Sequential(nn.Flatten(), line)
'''


def net(folder: Path, body: str = "pass", imports: str = "", fields: str = "pass") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "net.py"
    file.write_text(NET.format(imports=imports, fields=fields, body=body.replace("\n", "\n        ")))
    return file


def bias(run: Run) -> float:
    """The bias that the component gave, read off the first checkpoint."""
    return float(run.load(0)["theta"][-1])


def error(tmp_path: Path, file: Path) -> str:
    """What a run says of a component that reads what it should not; nothing is written."""
    with pytest.raises(UsageError) as caught:
        news(a_run(tmp_path / "refused", [file], **SHORT))
    assert not (tmp_path / "refused").exists()
    return str(caught.value)


# --- modules beside the component ------------------------------------------------------------------------------------

IMPORTS = {
    "import helper": "helper.SCALE",
    "import helper as h": "h.SCALE",
    "from helper import SCALE": "SCALE",
    "from . import helper": "helper.SCALE",
    "from .helper import SCALE as s": "s",
    "import parts.deep.scale": "parts.deep.scale.SCALE",
    "from parts.deep import scale": "scale.SCALE",
    "from parts import SCALE": "SCALE",
    "import parts.deep.scale as s": "s.SCALE",
    "from parts.deep.scale import *": "SCALE",
    "import bare.scale": "bare.scale.SCALE",
    "import through": "through.SCALE",
}


def helpers(folder: Path, scale: str) -> None:
    texts = {
        "helper.py": f"SCALE = {scale}\n",
        "parts/__init__.py": "from .deep.scale import SCALE\n",
        "parts/deep/__init__.py": "",
        "parts/deep/scale.py": f"SCALE = {scale}\n",
        "bare/scale.py": f"SCALE = {scale}\n",
        "through.py": "import helper\nfrom helper import SCALE\n",
        "other.py": "1 / 0\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("statement", IMPORTS)
def test_a_module_beside_it_is_part_of_the_id(tmp_path: Path, statement: str) -> None:
    own, found = tmp_path / "own", []
    expression = f"bias = {IMPORTS[statement]}"
    at_the_top = net(tmp_path / "top", expression, statement)
    inside = net(own, f"{statement.replace('*', 'SCALE')}\n{expression}")
    for scale in ("2.0", "3.0"):  # as long, and perhaps as old to the clock: bytecode would not tell them apart
        helpers(own, scale)
        helpers(tmp_path / "top", scale)
        for file in (at_the_top, inside):
            found.append(a_run(tmp_path / "out", [file], **SHORT))
    assert len({run.id for run in found}) == 4
    helpers(own, "2.0")
    assert a_run(tmp_path / "out", [inside], **SHORT).id == found[1].id
    for run, scale in zip(found, (2.0, 2.0, 3.0, 3.0), strict=True):
        module = landscape_and_data(run.recipe, "cpu")[0].module
        assert list(module.parameters())[-1][0].item() == scale


def test_what_it_imports_is_copied_and_serves_when_the_original_is_gone(tmp_path: Path) -> None:
    own = tmp_path / "own"
    file = net(own, "import bare.scale\nbias = through.SCALE", "import through\nfrom parts import SCALE")
    helpers(own, "2.0")
    run = trained(tmp_path / "out", [file], **SHORT)
    shutil.rmtree(own)
    again = Run.open(run.folder)
    assert (again.id, again.resolved.id, bias(again)) == (run.id, run.id, 2.0)
    copies = run.folder / "components"
    assert sorted(str(path.relative_to(copies)) for path in copies.rglob("*") if path.is_file()) == [
        "bare/__init__.py",  # the package that a folder is needs none, a copy of it has one
        "bare/scale.py",
        "helper.py",
        "net.py",
        "parts/__init__.py",
        "parts/deep/__init__.py",
        "parts/deep/scale.py",
        "through.py",
    ]
    list(probe(run.folder, PROBES, "last", Interrupt()))
    assert [row["failure"] for row in rows(run.folder, "trace")] == [None]


def test_a_helper_that_only_looks_like_another_changes_nothing(tmp_path: Path) -> None:
    own = tmp_path / "own"
    file = net(own, "bias = 1.0", "import json\nimport torch.nn.functional")
    first = a_run(tmp_path, [file], **SHORT)
    helpers(own, "2.0")
    (own / "json.py").write_text("1 / 0")  # a module of Python's own stays what it is
    (own / "torch").mkdir()
    assert a_run(tmp_path, [file], **SHORT).id == first.id
    alone = net(tmp_path / "alone", "bias = 1.0", "import json\nimport torch.nn.functional")
    assert a_run(tmp_path, [alone], **SHORT).id == first.id


def test_two_versions_and_two_folders_live_side_by_side(tmp_path: Path) -> None:
    found = []
    for folder, scale in (("a", "2.0"), ("b", "3.0"), ("a", "4.0")):
        file = net(tmp_path / folder, "import helper\nbias = helper.SCALE")
        helpers(tmp_path / folder, scale)
        found.append(a_run(tmp_path / "out", [file], **SHORT))
    for run in reversed(found):
        news(run)
    assert [bias(run) for run in found] == [2.0, 3.0, 4.0]
    assert "helper" not in sys.modules
    (tmp_path / "b" / "two.py").write_text((tmp_path / "b" / "net.py").read_text().replace("Net", "Two"))
    with pytest.raises(UsageError, match=r"--use .*: .* have one name; rename one"):
        used_files([tmp_path / "a" / "net.py", tmp_path / "b"])


def test_a_file_edited_during_a_sweep_is_copied_as_it_was(tmp_path: Path) -> None:
    own = tmp_path / "own"
    file = net(own, "import helper\nbias = helper.SCALE")
    helpers(own, "2.0")
    one, two = runs(tmp_path / "out", [file], sweep={"seed": [0, 1]}, **SHORT)
    news(one)
    helpers(own, "3.0")
    file.write_text(file.read_text() + "# edited\n")
    news(two)
    assert bias(one) == bias(two) == 2.0
    for name in ("net.py", "helper.py"):
        copies = [(run.folder / "components" / name).read_text() for run in (one, two)]
        assert copies[0] == copies[1]
    assert Run.open(two.folder).resolved.id == two.id


def test_an_edited_copy_is_noticed_and_put_back(tmp_path: Path) -> None:
    file = net(tmp_path / "own", "from parts.deep import scale\nbias = scale.SCALE")
    helpers(tmp_path / "own", "2.0")
    run = trained(tmp_path / "out", [file], **SHORT)
    copy = run.folder / "components" / "parts" / "deep" / "scale.py"
    copy.write_text("SCALE = 9.0\n")
    with pytest.raises(RunError, match="not what the run was made from"):
        Run.open(run.folder)
    assert not finished(run)
    (note,) = [item.note for item in news(run) if item.note]
    assert "parts/deep/scale.py was edited" in note
    assert copy.read_text() == "SCALE = 2.0\n"
    assert Run.open(run.folder).id == run.id


def test_a_folder_may_hold_helpers_and_components(tmp_path: Path) -> None:
    own = tmp_path / "own"
    net(own, "import through\nbias = through.SCALE")
    helpers(own, "2.0")
    (own / "other.py").unlink()
    assert [file.name for file in used_files([own])] == ["net.py"]
    with pytest.raises(UsageError, match=r"helper.py: holds 0 public components"):
        used_files([own / "helper.py"])
    (own / "stray.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match=r"stray.py: holds 0 public components"):
        used_files([own])
    (own / "stray.py").unlink()
    run = trained(tmp_path / "out", [own], **SHORT)
    again = a_run(tmp_path / "out", [run.folder / "components"], **SHORT)
    assert (again.id, finished(again)) == (run.id, True)


def test_what_a_helper_does_wrong_is_told(tmp_path: Path) -> None:
    file = net(tmp_path / "own", imports="import helper")
    (tmp_path / "own" / "helper.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"net.py:7: importing it failed: ZeroDivisionError"):
            used_files([file])
    (tmp_path / "own" / "helper.py").write_text("def f(:\n")
    with pytest.raises(UsageError, match=r"importing it failed: SyntaxError"):
        used_files([file])


def test_a_link_brings_what_stands_beside_its_target(tmp_path: Path) -> None:
    file = net(tmp_path / "own", "import helper\nbias = helper.SCALE")
    helpers(tmp_path / "own", "2.0")
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "net.py"
    link.symlink_to(file)
    assert a_run(tmp_path, [link], **SHORT).id == a_run(tmp_path, [file], **SHORT).id


# --- files that it declares ------------------------------------------------------------------------------------------


def weights(folder: Path, value: float) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(torch.tensor(value), folder / "w.pt")
    np.save(folder / "w.npy", value)
    np.savez(folder / "w.npz", x=np.ones((4, 1)), y=[0, 1, 0, 1])
    save_file({"a": torch.tensor(value)}, folder / "w.safetensors")


READS = {
    "w.pt": "bias = torch.load(self.beside('w.pt'))",
    "w.npy": "bias = np.load(self.beside('w.npy'))",
    "w.safetensors": "from safetensors.torch import load_file\nbias = load_file(self.beside('w.safetensors'))['a']",
}


@pytest.mark.parametrize("name", READS)
def test_a_declared_file_is_part_of_the_id_and_is_copied(tmp_path: Path, name: str) -> None:
    own = tmp_path / "own"
    file = net(own, READS[name], fields=f"files = ({name!r},)")
    weights(own, 2.0)
    first = trained(tmp_path / "out", [file], **SHORT)
    weights(own, 3.0)
    second = trained(tmp_path / "out", [file], **SHORT)
    assert first.id != second.id
    assert (bias(first), bias(second)) == (2.0, 3.0)
    shutil.rmtree(own)
    assert Run.open(first.folder).resolved.id == first.id
    list(probe(first.folder, PROBES, "last", Interrupt()))
    copy = first.folder / "components" / name
    copy.write_bytes(copy.read_bytes() + b"0")
    with pytest.raises(RunError, match="not what the run was made from"):
        Run.open(first.folder)


def test_a_key_of_a_recipe_may_name_the_file(tmp_path: Path) -> None:
    own, far = tmp_path / "own", tmp_path / "far"
    fields = 'weights: str = "w.npy"\n\n    @property\n    def files(self):\n        return (self.weights,)'
    file = net(own, "bias = np.load(self.beside(self.weights))", fields=fields)
    weights(own, 2.0)
    weights(far, 5.0)
    model = {"name": "net", "weights": str(far / "w.npy")}
    beside, named = (trained(tmp_path / "out", [file], **SHORT | {"model": m}) for m in ("net", model))
    assert (bias(beside), bias(named)) == (2.0, 5.0)
    assert (beside.folder / "components" / "w.npy").exists()
    assert [path.name for path in (named.folder / "components").iterdir()] == ["net.py"]
    assert Run.open(named.folder).id == named.id
    weights(far, 6.0)  # its digest alone is kept
    with pytest.raises(RunError, match=r"w.npy, which a component of the run reads, is not what it was"):
        Run.open(named.folder)
    assert a_run(tmp_path / "out", [file], **SHORT | {"model": model}).id != named.id
    shutil.rmtree(far)
    with pytest.raises(UsageError, match=r"`files` names '.*w.npy', and there is no file"):
        Run.open(named.folder)


def test_a_large_file_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    file = net(own, READS["w.npy"], fields="files = ('w.npy',)")
    weights(own, 2.0)
    monkeypatch.setattr(run_module, "COPIED", 10)
    run = trained(tmp_path / "out", [file], **SHORT)
    assert (run.folder / "components" / "w.npy").readlink() == own / "w.npy"
    assert Run.open(run.folder).id == run.id
    weights(own, 3.0)
    with pytest.raises(RunError, match="not what the run was made from"):
        Run.open(run.folder)


def test_a_file_that_changes_during_a_sweep_ends_the_other_runs(tmp_path: Path) -> None:
    own = tmp_path / "own"
    file = net(own, READS["w.npy"], fields="files = ('w.npy',)")
    weights(own, 2.0)
    one, two = runs(tmp_path / "out", [file], sweep={"seed": [0, 1]}, **SHORT)
    news(one)
    weights(own, 3.0)
    with pytest.raises(RunError, match=r"w.npy, which a component reads, was changed since the command began"):
        news(two)
    assert not two.folder.exists()


@pytest.mark.parametrize(
    ("fields", "body", "said"),
    [
        ("files = ('v.npy',)", "pass", r"`files` names 'v.npy', and there is no file .*own/v.npy"),
        ("files = ('../w.npy',)", "pass", r"`files` names '../w.npy'"),
        ("pass", "bias = np.load(self.beside('w.npy'))", r"`files` of .*net.py does not name 'w.npy'"),
        ("files = ('w.npy',)", "bias = np.load('own/w.npy')", r"net.py:17 reads 'own/w.npy' relative to the working"),
    ],
)
def test_what_is_wrong_with_a_declaration_is_said(
    tmp_path: Path, fields: str, body: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path / "own", 2.0)
    weights(tmp_path, 2.0)
    with pytest.raises(UsageError, match=said):
        news(a_run(tmp_path / "out", [net(tmp_path / "own", body, fields=fields)], **SHORT))


# --- files that it does not declare ----------------------------------------------------------------------------------

UNDECLARED = {
    "torch": "bias = torch.load({path!r})",
    "mapped": "bias = torch.load({path!r}, mmap=True)",
    "open": "bias = len(open({path!r}, 'rb').read())",
    "pathlib": "from pathlib import Path\nbias = len(Path({path!r}).read_bytes())",
    "os": "import os\nbias = os.open({path!r}, os.O_RDONLY)",
    "read and write": "bias = len(open({path!r}, 'r+b').read())",
    "caught": "try:\n    bias = torch.load({path!r})\nexcept Exception:\n    bias = 1.0",
    "caught, then wrong": "try:\n    bias = torch.load({path!r})\nexcept Exception:\n    bias = undefined",
    "memmap": "bias = np.memmap({path!r}).sum()",
    "by a dataset": "from lossgeo.landscapes.datasets.file import File\nFile(path={path!r}[:-2] + 'npz').load()",
    "from a helper": "import reader\nbias = reader.read({path!r})",
}


@pytest.mark.parametrize("how", UNDECLARED)
def test_a_file_that_is_not_declared_is_refused(tmp_path: Path, how: str) -> None:
    own = tmp_path / "own"
    weights(own, 2.0)
    (own / "reader.py").write_text("import torch\n\ndef read(path):\n    return torch.load(path)\n")
    said = error(tmp_path, net(own, UNDECLARED[how].format(path=str(own / "w.pt"))))
    name = "w.npz" if how == "by a dataset" else "w.pt"
    assert f"{name}', which is no part of the run's id; put it beside that file, say `files = ('{name}',)`" in said
    assert f"{own}/{'reader.py:4' if how == 'from a helper' else 'net.py:'}" in said


def test_a_file_that_only_a_library_in_c_would_read_is_refused_by_its_name(tmp_path: Path) -> None:
    weights(tmp_path / "own", 2.0)
    body = "from safetensors.torch import load_file\nbias = load_file({path})['a']"
    for path in ("'w.safetensors'", repr(str(tmp_path / "own" / "w.safetensors"))):
        file = net(tmp_path / "own", body.format(path=path))
        with pytest.raises(UsageError, match=r"names '.*w.safetensors', a file that is no part of the run's id"):
            a_run(tmp_path / "refused", [file], **SHORT)


def test_reading_while_it_is_imported_or_trains_is_refused_too(tmp_path: Path) -> None:
    weights(tmp_path / "own", 2.0)
    path = str(tmp_path / "own" / "w.pt")
    file = net(tmp_path / "own", imports=f"W = torch.load({path!r})")
    with pytest.raises(UsageError, match=r"net.py:7 reads '.*w.pt', which is no part of the run's id"):
        used_files([file])
    forward = f"torch.load({path!r})\n        return super().forward(x)"
    late = f"class Late(nn.Linear):\n    def forward(self, x):\n        {forward}"
    file = net(tmp_path / "own", "line = None\nreturn nn.Sequential(nn.Flatten(), Late(64, task.outputs))", late)
    assert "which is no part of the run's id" in error(tmp_path, file)


@pytest.mark.parametrize("statement", ["import elsewhere", "import importlib; importlib.import_module('elsewhere')"])
def test_a_module_from_elsewhere_is_refused(tmp_path: Path, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "elsewhere.py").write_text("SCALE = 2.0\n")
    monkeypatch.syspath_prepend(tmp_path / "library")
    said = error(tmp_path, net(tmp_path / "own", statement))
    assert "library/elsewhere.py, which neither stands beside it nor is installed" in said
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)


@pytest.mark.parametrize(
    "body",
    [
        "import sklearn.datasets\nbias = len(sklearn.datasets.load_iris().data)",
        "bias = len(open('/proc/self/status').read())",
        "import inspect\nbias = len(inspect.getsource(type(self)))",
        "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n    f.write('2')\n    bias = f.tell()",
        "import tempfile\np = tempfile.mkdtemp() + '/x.pt'\ntorch.save(2.0, p)\nbias = torch.load(p)",
        "open({scratch!r}, 'w').write('2')\nbias = open({scratch!r}).read()",
        "import os\nbias = len(os.listdir({folder!r}))",
        "try:\n    open({folder!r} + '/missing')\nexcept FileNotFoundError:\n    bias = 1.0",
        "import scipy.special, decimal\nbias = scipy.special.gamma(2)",
    ],
)
def test_what_belongs_to_python_the_system_or_the_process_is_not_refused(tmp_path: Path, body: str) -> None:
    file = net(tmp_path / "own", body.format(scratch=str(tmp_path / "scratch"), folder=str(tmp_path)))
    run = trained(tmp_path / "out", [file], **SHORT)
    assert manifest(run.folder)["status"] == "done"
    assert Path(tempfile.gettempdir()).is_dir()


def test_a_dataset_reads_what_it_likes_and_is_compared_by_what_it_read(tmp_path: Path) -> None:
    text = '''
from typing import ClassVar, final
import numpy as np
from lossgeo import Dataset, Raw

@final
class Mine(Dataset):
    """Arrays from a file."""

    kind: ClassVar[str] = "classes"

    def read(self, generator):
        file = np.load({path!r})
        return Raw(file["x"], file["y"], "mine")
'''
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(120.0).reshape(60, 2), y=np.arange(60) % 2)
    own = tmp_path / "mine.py"
    own.write_text(text.format(path=str(path)))
    changes = {"dataset": "mine", "batch_size": 8, "steps": 4}
    run = trained(tmp_path / "out", [own], **changes)
    assert manifest(run.folder)["status"] == "done"
    np.savez(path, x=np.arange(120.0).reshape(60, 2) + 1, y=np.arange(60) % 2)
    with pytest.raises(RunError, match="was begun with other data"):
        news(a_run(tmp_path / "out", [own], **changes))
    with pytest.raises(RunError, match="was begun with other data"):
        list(probe(run.folder, PROBES, "last", Interrupt()))


def test_the_same_command_never_says_done_with_old_numbers(tmp_path: Path) -> None:
    own = net(tmp_path, "bias = torch.load(self.beside('w.pt')) * helper.SCALE", "import helper", "files = ('w.pt',)")
    path, seen = written(tmp_path, **SHORT), []
    for jobs, number in ((1, 1.0), (2, 2.0)):
        helpers(tmp_path, str(number))
        weights(tmp_path, number)
        done = lossgeo("train", path, "--use", own, "--jobs", jobs, "--sweep", "seed=0,1", "-q", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        seen += done.stdout.splitlines()
    assert len(set(seen)) == 4
    for name in ("w.pt", "helper.py", "net.py"):
        (tmp_path / name).unlink()
    probed = lossgeo("probe", "outputs", "--probe", "trace:vectors=2,samples=50", cwd=tmp_path)
    assert probed.returncode == 0, probed.stderr
    assert sorted(probed.stdout.splitlines()) == sorted(seen)


def test_a_component_is_still_one_value(tmp_path: Path) -> None:
    file = net(tmp_path / "own", fields="files = ('w.npy',)")
    made, problems = parse(Model, "net", used_files([file]))
    assert problems == []
    assert made is not None
    assert made.files == ("w.npy",)
    assert "files" not in type(made).model_fields
