from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro import registry
from repro.data.types import ImageSet
from repro.errors import UserError

COLOR = (3, 32, 32)

#: name, image shape, classes, parameters
SIZES = [
    ("resnet18", COLOR, 10, 11_173_962),
    ("resnet18", COLOR, 100, 11_220_132),
    ("vgg16", COLOR, 10, 14_728_266),
    ("vgg16", COLOR, 100, 14_774_436),
    ("alexnet", COLOR, 10, 2_472_266),
    ("alexnet", COLOR, 100, 2_495_396),
    ("wrn_28_10", COLOR, 10, 36_479_194),
    ("wrn_28_10", COLOR, 100, 36_536_884),
    # Given as 0.46 and 0.85 million by He et al. 2016.
    ("resnet_cifar", COLOR, 10, 464_154),
    ("resnet_cifar", COLOR, 100, 470_004),
    ("cnn_9", COLOR, 10, 4_434_570),
    ("cnn_9", COLOR, 100, 4_446_180),
    ("small_cnn", COLOR, 10, 25_626),
    ("small_cnn", COLOR, 100, 210_036),
    ("small_cnn", (3, 16, 16), 10, 10_266),
    ("digits_cnn", (1, 8, 8), 10, 21_482),
    ("digits_cnn", (1, 8, 8), 100, 44_612),
]

#: Settings that make each architecture small enough for a test.
SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 4},
    "vgg16": {},
    "alexnet": {},
    "wrn_28_10": {"depth": 10, "widen_factor": 1},
    "digits_cnn": {},
    "small_cnn": {"block": "residual"},
    "resnet_cifar": {"depth": 8},
    "cnn_9": {"width": 8},
}


def build(name: str, shape: tuple[int, int, int] = COLOR, num_classes: int = 10, **settings: Any) -> nn.Module:
    choice = registry.get("model", name)
    model: nn.Module = choice.build(choice.config(name=name, **settings), num_classes=num_classes, image_shape=shape)
    return model


def small(name: str, shape: tuple[int, int, int] = COLOR, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, shape, **SMALL[name])


@pytest.mark.parametrize(("name", "shape", "num_classes", "wanted"), SIZES)
def test_number_of_parameters(name: str, shape: tuple[int, int, int], num_classes: int, wanted: int) -> None:
    with torch.device("meta"):
        model = build(name, shape, num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_has_a_gradient(name: str) -> None:
    model = small(name)
    torch.manual_seed(1)
    logits = model(torch.randn(4, *COLOR))
    assert logits.shape == (4, 10)
    F.cross_entropy(logits, torch.arange(4)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # A bias before BatchNorm is taken out again: its gradient is zero but for rounding.
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_initial_weights_are_a_function_of_torch_s_generator(name: str) -> None:
    state, other = small(name, seed=0).state_dict(), small(name, seed=1).state_dict()
    for key, value in small(name, seed=0).state_dict().items():
        assert torch.equal(value, state[key]), key
    assert any(not torch.equal(value, other[key]) for key, value in state.items())


@pytest.mark.parametrize("name", SMALL)
def test_no_operation_without_a_deterministic_gradient_on_cuda(name: str) -> None:
    pooling = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d, nn.Upsample)
    assert not [module for module in small(name).modules() if isinstance(module, pooling)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", ["digits_cnn", "resnet18", "wrn_28_10"])
def test_models_for_images_of_any_size(name: str, shape: tuple[int, int, int]) -> None:
    assert small(name, shape)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(("name", "size"), [("vgg16", 31), ("alexnet", 28)])
def test_images_that_are_too_small_are_named(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"model={name}: .*at least {size + 1}x{size + 1} .*{size}x{size}"):
        build(name, (1, size, size))
    assert small(name, (1, size + 1, size + 1))(torch.zeros(2, 1, size + 1, size + 1)).shape == (2, 10)


def map_sizes(model: nn.Module, kind: type[nn.Module], shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return (channels, height) of what each module of ``kind`` puts out."""
    found: list[tuple[int, int]] = []
    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _module, _inputs, output: found.append((output.shape[1], output.shape[2])))
    model.eval()
    model(torch.zeros(1, *shape))
    return found


def test_resnet18_halves_its_maps_three_times() -> None:
    from torchvision.models.resnet import BasicBlock

    assert map_sizes(build("resnet18"), BasicBlock, COLOR) == [
        *[(64, 32)] * 2,
        *[(128, 16)] * 2,
        *[(256, 8)] * 2,
        *[(512, 4)] * 2,
    ]


def test_vgg16_has_thirteen_convolutions_and_five_poolings() -> None:
    model = build("vgg16")
    assert map_sizes(model, nn.MaxPool2d, COLOR) == [(64, 16), (128, 8), (256, 4), (512, 2), (512, 1)]
    assert len([module for module in model.modules() if isinstance(module, nn.Conv2d)]) == 13


def test_alexnet_ends_in_one_position() -> None:
    assert map_sizes(build("alexnet"), nn.MaxPool2d, COLOR) == [(64, 4), (192, 2), (256, 1)]


def test_wide_resnet_has_the_depth_and_width_of_its_name() -> None:
    with torch.device("meta"):
        model = build("wrn_28_10")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    # Three of them are shortcuts; with the linear layer the longest path has 26, and the authors count the shortcuts.
    assert len(convolutions) == 28
    assert {module.out_channels for module in convolutions} == {16, 160, 320, 640}
    assert not [module for module in convolutions if module.bias is not None]


def test_wide_resnet_halves_its_maps_twice() -> None:
    from repro.models.wrn_28_10 import _Block

    assert map_sizes(build("wrn_28_10", depth=16, widen_factor=2), _Block, COLOR) == [
        *[(32, 32)] * 2,
        *[(64, 16)] * 2,
        *[(128, 8)] * 2,
    ]


def test_wide_resnet_starts_with_a_variance_of_two_over_fan_out() -> None:
    torch.manual_seed(0)
    model = build("wrn_28_10", depth=10, widen_factor=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx(np.sqrt(2 / fan_out), rel=0.1)


def test_wide_resnet_has_dropout_only_on_request() -> None:
    def dropouts(rate: float) -> list[float]:
        model = build("wrn_28_10", depth=10, widen_factor=1, dropout=rate)
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert dropouts(0.0) == []
    assert dropouts(0.3) == [0.3] * 3


def test_wide_resnet_of_an_impossible_depth_is_named() -> None:
    with pytest.raises(UserError, match=r"model.depth=27: .*22 or 28"):
        build("wrn_28_10", depth=27)


def test_wide_resnet_block_is_the_paper_s() -> None:
    """Against the block written out: the shortcut of a block that changes the shape starts after BatchNorm and ReLU."""
    from repro.models.wrn_28_10 import _Block

    torch.manual_seed(0)
    images = torch.randn(2, 4, 6, 6)
    for outputs, stride in ((4, 1), (8, 2)):
        block = _Block(4, outputs, stride=stride, dropout=0.0).eval()
        active = F.relu(images / np.sqrt(1 + 1e-5))
        hidden = F.relu(F.conv2d(active, block.conv1.weight, stride=stride, padding=1) / np.sqrt(1 + 1e-5))
        shortcut = images if block.shortcut is None else F.conv2d(active, block.shortcut.weight, stride=stride)
        torch.testing.assert_close(block(images), shortcut + F.conv2d(hidden, block.conv2.weight, padding=1))


def test_digits_cnn_learns_the_digits() -> None:
    choice = registry.get("dataset", "digits")
    raw = choice.build(choice.config(name="digits"), Path())

    def tensors(part: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
        images = (torch.from_numpy(part.images).float() / 255 - raw.mean[0]) / raw.std[0]
        return images, torch.from_numpy(part.labels)

    (images, labels), (test_images, test_labels) = tensors(raw.train), tensors(raw.test)
    model = small("digits_cnn", raw.image_shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # A third of the recipe's 60 epochs is enough for the accuracy that the demo relies on.
    for _ in range(20):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    model.eval()
    assert float((model(test_images).argmax(dim=1) == test_labels).float().mean()) >= 0.97


def test_resnet_56_has_the_size_of_its_paper() -> None:
    assert sum(parameter.numel() for parameter in build("resnet_cifar", depth=56).parameters()) == 853_018


@pytest.mark.parametrize("depth", [9, 10, 33])
def test_a_resnet_of_an_impossible_depth_is_named(depth: int) -> None:
    with pytest.raises(UserError, match=rf"model.depth={depth}: must be 6n \+ 2"):
        build("resnet_cifar", depth=depth)


def test_resnet_cifar_halves_its_maps_twice() -> None:
    from repro.models.resnet_cifar import Block

    assert map_sizes(build("resnet_cifar", depth=14), Block, COLOR) == [(16, 32)] * 2 + [(32, 16)] * 2 + [(64, 8)] * 2


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2)])
def test_a_resnet_block_adds_a_shortcut_without_parameters(inputs: int, outputs: int, stride: int) -> None:
    from repro.models.resnet_cifar import Block

    torch.manual_seed(0)
    block = Block(inputs, outputs, stride=stride).eval()
    maps = torch.randn(2, inputs, 6, 6)
    first, second = (module for module in block.residual if isinstance(module, nn.Conv2d))
    # Fresh BatchNorm in evaluation divides by sqrt(1 + 1e-5) only.
    hidden = F.relu(F.conv2d(maps, first.weight, stride=stride, padding=1) / np.sqrt(1 + 1e-5))
    wanted = F.conv2d(hidden, second.weight, padding=1) / np.sqrt(1 + 1e-5)
    wanted[:, :inputs] += maps[:, :, ::stride, ::stride]
    torch.testing.assert_close(block(maps), F.relu(wanted))


def test_resnet_cifar_starts_with_a_variance_of_two_over_fan_in() -> None:
    torch.manual_seed(0)
    for name, weight in build("resnet_cifar", width=64).named_parameters():
        if weight.ndim == 4 and weight.shape[1] > 3:
            assert float(weight.detach().var()) * weight[0].numel() == pytest.approx(2.0, rel=0.05), name


def test_cnn_9_is_the_network_of_co_teaching() -> None:
    model = build("cnn_9")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [128, 128, 128, 256, 256, 256, 512, 256, 128]
    assert map_sizes(model, nn.Conv2d, COLOR)[-3:] == [(512, 6), (256, 4), (128, 2)]
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout2d)] == [0.25, 0.25]
    assert {module.negative_slope for module in model.modules() if isinstance(module, nn.LeakyReLU)} == {0.01}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 20)])
def test_digits_cnn_convolves(shape: tuple[int, int, int]) -> None:
    """Its matrices are PyTorch's convolutions, and weights that an earlier version saved as filters are read as such."""
    model = small("digits_cnn", shape).eval()
    state = model.state_dict()
    filters = {
        name: value.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        for name, value in state.items()
        if name in ("features.0.weight", "features.3.weight")
    }
    images = torch.randn(5, *shape)
    maps = images
    for number, weight in enumerate(filters.values()):
        norm = model.get_submodule(f"features.{3 * number + 1}")
        maps = F.conv2d(maps, weight, stride=2, padding=1)
        maps = F.relu(norm(maps.permute(0, 2, 3, 1).flatten(0, 2)).view(5, *maps.shape[2:], -1).permute(0, 3, 1, 2))
    wanted = F.linear(maps.flatten(1), state["classifier.weight"], state["classifier.bias"])
    torch.testing.assert_close(model(images), wanted)
    other = small("digits_cnn", shape, seed=1).eval()
    other.load_state_dict({**state, **filters})
    assert torch.equal(other(images), model(images))
