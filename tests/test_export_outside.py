"""Networks from outside this package: named or announced, and built by constructors that do what constructors do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.cli import main
from export.models import Network, PublishedWeights, find_network
from export.parity import run_torch
from export.weights import find_weights, load_module
from runtime.bundle import Bundle
from runtime.errors import UserError, WeightsError
from runtime.upscaler import Upscaler

MODULE = '''
import torch
from torch import nn

from export.models import Network


class MeanShift(nn.Conv2d):
    """EDSR's own, as its authors and most who followed write it."""

    def __init__(self, sign):
        super().__init__(3, 3, kernel_size=1)
        std = torch.Tensor((1.0, 1.0, 1.0))
        self.weight.data = torch.eye(3).view(3, 3, 1, 1) / std.view(3, 1, 1, 1)
        self.bias.data = sign * torch.Tensor((0.4488, 0.4371, 0.4040)) / std
        for parameter in self.parameters():
            parameter.requires_grad = False


class MyNet(nn.Module):
    def __init__(self, scale, width=8):
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3 * scale**2, 3, padding=1))
        self.shuffle = nn.PixelShuffle(scale)
        self.gain = float(torch.linspace(0, 1, 5).numpy().sum()) / 2.5

    def forward(self, picture):
        return self.add_mean(self.shuffle(self.body(self.sub_mean(picture))) * self.gain)


NETWORK = Network(name="mine", paper="unpublished, 2026", scales=(2, 3), build=MyNet)
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, the current one, with my_package/my_net.py, its checkpoint beside it."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def _type(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _weights(network: Network, scale: int, path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(network.build(scale).state_dict(), path)
    return path


def test_a_network_of_ones_own_is_exported_with_its_weights(project: Path) -> None:
    network = find_network("my_package.my_net:NETWORK", scale=2)
    path = _weights(network, 2, project / "weights.pth")
    assert _type("my_package.my_net:NETWORK", "--scale=2", "--weights", path, "--out=out") == 0
    array = np.random.default_rng(0).random((1, 3, 19, 22), np.float32)
    module = load_module(network, scale=2, weights=find_weights(network, scale=2, choice=str(path)))
    bundle = Bundle.open(Path("out"))
    assert bundle.manifest.model == "mine"
    with Upscaler.open(bundle, precision="fp32", backend="onnxruntime") as upscaler:
        np.testing.assert_allclose(upscaler.run(array), run_torch(module, array), rtol=0, atol=1e-5)


def test_its_code_may_change_under_the_same_weights(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing says that it is up to date."""
    path = _weights(find_network("my_package.my_net:NETWORK", scale=2), 2, project / "weights.pth")
    for _ in range(2):
        assert _type("my_package.my_net:NETWORK", "--scale=2", "--weights", path, "--out=out") == 0
        assert "out: exported mine x2" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit_it_is_refused_by_its_keys(project: Path) -> None:
    network = find_network("my_package.my_net:NETWORK", scale=2)
    path = _weights(network, 3, project / "weights.pth")
    with pytest.raises(WeightsError, match=r"body\.2\.weight is \(27, 8, 3, 3\), expected \(12, 8, 3, 3\)"):
        load_module(network, scale=2, weights=find_weights(network, scale=2, choice=str(path)))


def test_a_network_that_an_installed_package_announces_is_known_by_its_name(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = project / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[sredge.networks]\nmynet = my_package.my_net:NETWORK\n")
    sys.path.append(str(project))
    assert find_network("mynet", scale=3).name == "mine"
    assert _type("list") == 0
    assert "mynet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_package.my_nets:NETWORK", "there is no module my_package.my_nets in"),
        ("their_package.my_net:NETWORK", "there is no module their_package in"),
        ("my_package.my_net:NETWORKS", "my_package.my_net has no NETWORKS; its networks: NETWORK"),
        ("my_package.my_net:MyNet", "my_package.my_net:MyNet is type, expected a Network"),
        ("my_package.my_net:", "names no network, expected module:ATTRIBUTE"),
        ("my_package/my_net.py:NETWORK", "names no network, expected module:ATTRIBUTE"),
        ("my_package.needy:NETWORK", "my_package.needy needs surely_not_installed, which is not installed"),
        ("my_package.wrong:NETWORK", "Network 'wrong': paper is ''"),
        ("mynet", "unknown network 'mynet'; known: lesrcnn, "),
    ],
)
def test_a_mistake_in_naming_it_is_one_sentence(project: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    (project / "my_package" / "needy.py").write_text("import surely_not_installed\n")
    (project / "my_package" / "wrong.py").write_text(
        'from export.models import Network\nNETWORK = Network(name="wrong", paper="", scales=(2,), build=lambda scale: None)\n'
    )
    assert _type(name, "--scale=2") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert " hint: " in printed


def _make(**changed: Any) -> Network:  # noqa: ANN401 # whatever a user may write
    given: dict[str, Any] = {"name": "net", "paper": "A et al. 2020", "scales": (2,), "build": nn.PixelShuffle, **changed}
    return Network(**given)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "my net"}, "name is 'my net'"),
        ({"name": "../net"}, "name is '../net'"),
        ({"paper": "A et al."}, "paper is 'A et al.', expected one with its year"),
        ({"paper": "arXiv 1707.02921"}, "expected one with its year"),
        ({"scales": ()}, "scales is ()"),
        ({"scales": (1,)}, "scales is (1,)"),
        ({"scales": (1.5,)}, "scales is (1.5,)"),
        ({"colour": "BGR"}, "colour is 'BGR', expected one of: RGB, Y"),
        ({"build": nn.PixelShuffle(2)}, "build is PixelShuffle, expected what makes the torch module"),
        ({"published": {3: PublishedWeights("https://a/b", "0" * 64)}}, "weights for scale 3, which it has not: 2"),
    ],
)
def test_what_a_network_must_give_is_checked_where_it_is_made(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        _make(**changed)
    assert said in str(caught.value)


@pytest.mark.parametrize("build", [nn.PixelShuffle, lambda scale: nn.PixelShuffle(scale)])
def test_a_network_that_gives_it_all_is_taken(build: Callable[[int], nn.Module]) -> None:
    assert _make(build=build).has_scale(2)
