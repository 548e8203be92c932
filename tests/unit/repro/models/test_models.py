import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_models import COLOR, SMALL, build_model
from torch import nn

from repro.config import registry
from repro.errors import UserError

#: name and settings -> parameters with 10 and with 100 classes
SIZES = {
    "resnet18": (11_173_962, 11_220_132),
    "vgg16": (14_728_266, 14_774_436),
    "alexnet": (2_472_266, 2_495_396),
    "wrn_28_10": (36_479_194, 36_536_884),
    # Given as 0.46 and 0.85 million by He et al. 2016.
    "resnet_cifar": (464_154, 470_004),
    "resnet_cifar depth=56": (853_018, 858_868),
    "cnn_9": (4_434_570, 4_446_180),
    "small_cnn": (25_626, 210_036),
    "digits_cnn": (21_482, 44_612),
}


def test_every_model_is_here() -> None:
    assert set(SMALL) == set(registry.choices("model")) == {name.split()[0] for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_number_of_parameters(name: str) -> None:
    model, *settings = name.split()
    given = {key: int(value) for key, value in (item.split("=") for item in settings)}
    with torch.device("meta"):
        networks = [build_model(model, (1, 8, 8) if model == "digits_cnn" else COLOR, classes, **given) for classes in (10, 100)]
    assert tuple(sum(parameter.numel() for parameter in network.parameters()) for network in networks) == SIZES[name]


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_a_function_of_torch_s_generator_and_every_one_has_a_gradient(name: str) -> None:
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(name, (1, 8, 8) if name == "digits_cnn" else COLOR, **SMALL[name])

    model, again, other = (made(seed) for seed in (0, 0, 1))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    # Of these, the gradients have no fixed order on CUDA.
    assert not [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Upsample)]
    logits = model(torch.randn(4, *((1, 8, 8) if name == "digits_cnn" else COLOR)))
    assert logits.shape == (4, 10)
    F.cross_entropy(logits, torch.arange(4)).backward()
    # A bias before BatchNorm is taken out again: its gradient is zero but for rounding.
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "size"), [("vgg16", 31), ("alexnet", 28), ("cnn_9", 27), ("small_cnn", 3)])
def test_images_that_are_too_small_are_named(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"model={name}: .*at least {size + 1}x{size + 1} .*{size}x{size}"):
        build_model(name, (1, size, size))
    assert build_model(name, (1, size + 1, size + 1), **SMALL[name])(torch.zeros(2, 1, size + 1, size + 1)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "settings", "kind", "wanted"),
    [
        ("resnet18", {}, "BasicBlock", [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 2 + [(512, 4)] * 2),
        ("vgg16", {}, "MaxPool2d", [(64, 16), (128, 8), (256, 4), (512, 2), (512, 1)]),
        ("alexnet", {}, "MaxPool2d", [(64, 4), (192, 2), (256, 1)]),
        ("wrn_28_10", {"depth": 16, "widen_factor": 2}, "_Block", [(32, 32)] * 2 + [(64, 16)] * 2 + [(128, 8)] * 2),
        ("resnet_cifar", {"depth": 14}, "Block", [(16, 32)] * 2 + [(32, 16)] * 2 + [(64, 8)] * 2),
        ("cnn_9", {}, "Conv2d", [(128, 32)] * 3 + [(256, 16)] * 3 + [(512, 6), (256, 4), (128, 2)]),
    ],
)
def test_channels_and_sides_of_maps(name: str, settings: dict[str, int], kind: str, wanted: list[tuple[int, int]]) -> None:
    found: list[tuple[int, int]] = []
    model = build_model(name, **settings).eval()
    for module in model.modules():
        if type(module).__name__ == kind:
            module.register_forward_hook(lambda _module, _inputs, output: found.append((output.shape[1], output.shape[2])))
    model(torch.zeros(1, *COLOR))
    assert found == wanted


@pytest.mark.parametrize(("name", "depth", "allowed"), [("wrn_28_10", 27, "22 or 28"), ("resnet_cifar", 33, "32 or 38")])
def test_a_residual_network_of_an_impossible_depth_is_named(name: str, depth: int, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"model.depth={depth}: must be .*{allowed}"):
        build_model(name, depth=depth)


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (8, 2)])
def test_residual_blocks_are_those_of_their_papers(outputs: int, stride: int) -> None:
    """Written out. A wide one whose shape changes starts its shortcut after BatchNorm and ReLU; the other has no parameters there."""
    from repro.models.resnet_cifar import Block
    from repro.models.wrn_28_10 import _Block

    def norm(maps: torch.Tensor) -> torch.Tensor:
        return maps / np.sqrt(1 + 1e-5)  # a fresh BatchNorm in evaluation

    torch.manual_seed(0)
    images = torch.randn(2, 4, 6, 6)
    wide, plain = _Block(4, outputs, stride, dropout=0.0).eval(), Block(4, outputs, stride).eval()
    active = F.relu(norm(images))
    hidden = F.relu(norm(F.conv2d(active, wide.conv1.weight, stride=stride, padding=1)))
    shortcut = images if wide.shortcut is None else F.conv2d(active, wide.shortcut.weight, stride=stride)
    torch.testing.assert_close(wide(images), shortcut + F.conv2d(hidden, wide.conv2.weight, padding=1))
    first, second = (module for module in plain.residual if isinstance(module, nn.Conv2d))
    wanted = norm(F.conv2d(F.relu(norm(F.conv2d(images, first.weight, stride=stride, padding=1))), second.weight, padding=1))
    wanted[:, :4] += images[:, :, ::stride, ::stride]
    torch.testing.assert_close(plain(images), F.relu(wanted))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 10, 10)])
def test_digits_cnn_convolves(shape: tuple[int, int, int]) -> None:
    """Its matrices are PyTorch's convolutions."""
    model, images = build_model("digits_cnn", shape, width=4).eval(), torch.randn(5, *shape)
    maps, state = images, model.state_dict()
    for number in (0, 3):
        weight = state[f"features.{number}.weight"].unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        maps = F.relu(F.conv2d(maps, weight, stride=2, padding=1) / np.sqrt(1 + 1e-5))
    torch.testing.assert_close(model(images), F.linear(maps.flatten(1), state["classifier.weight"], state["classifier.bias"]))
