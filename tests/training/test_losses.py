"""The loss terms against direct transcriptions, their errors, and training in several processes."""

import pytest
import torch
import torch.nn.functional as F
from processes import run_processes
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sat_peft import SatLoss, SatOutput
from sat_peft.errors import UsageError
from sat_peft.training.losses import (
    BLUR_KERNEL,
    area_per_image,
    normalization_per_image,
    separation_per_image,
)
from sat_peft.tuner.output import border_per_image


def random_output(batch=4, classes=5, grid=(4, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SatOutput(
        logits=torch.randn(batch, classes, generator=generator),
        maps=torch.rand(batch, *grid, generator=generator),
    )


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_blur_weights():
    corner, edge, centre = 0.00262846, 0.0460116, 0.8054397
    expected = torch.tensor([[corner, edge, corner], [edge, centre, edge], [corner, edge, corner]])
    assert torch.equal(BLUR_KERNEL, expected)
    torch.testing.assert_close(BLUR_KERNEL.sum(), torch.tensor(1.0))
    sigma = 1 / (2 * torch.log(expected[1, 1] / expected[1, 0])).sqrt()  # a Gaussian: exp(-r^2 / 2 sigma^2)
    torch.testing.assert_close(expected[0, 0] / expected[1, 1], torch.exp(-2 / (2 * sigma**2)), rtol=1e-4, atol=0)


def test_normalization_is_the_mean_of_blurred_times_one_minus_blurred():
    maps = random_output().maps
    padded = F.pad(maps, (1, 1, 1, 1))
    blurred = sum(BLUR_KERNEL[i, j] * padded[:, i : i + 4, j : j + 6] for i in range(3) for j in range(3))
    torch.testing.assert_close(normalization_per_image(maps), (blurred * (1 - blurred)).mean((1, 2)))


def test_area_is_that_of_the_batch_not_of_each_image():
    output = random_output(batch=2)
    output.maps[0], output.maps[1] = 0.1, 0.5
    assert torch.equal(area_per_image(output.maps), output.maps.mean((1, 2)))
    loss = SatLoss(area_target=0.3)(output, torch.tensor([0, 1]))
    torch.testing.assert_close(loss.area, torch.tensor(0.0), atol=1e-6, rtol=0)
    loss = SatLoss(area_target=0.4)(output, torch.tensor([0, 1]))
    torch.testing.assert_close(loss.area, torch.tensor(0.1))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (0.0, 1.0, 0.0)])
def test_total_is_the_weighted_sum(weights):
    output, labels = random_output(), torch.tensor([0, 1, 2, 3])
    loss = SatLoss(0.2, *weights, label_smoothing=0.1)(output, labels)
    torch.testing.assert_close(loss.classification, F.cross_entropy(output.logits, labels, label_smoothing=0.1))
    torch.testing.assert_close(loss.area, (output.maps.mean() - 0.2).abs())
    torch.testing.assert_close(loss.normalization, normalization_per_image(output.maps).mean())
    expected = weights[0] * loss.classification + weights[1] * loss.area + weights[2] * loss.normalization
    torch.testing.assert_close(loss.total, expected)


def test_area_gradient_draws_the_mean_area_towards_the_target():
    for value, sign in ((0.1, -1), (0.9, 1)):
        output = random_output(batch=2)
        output["maps"] = torch.full((2, 4, 6), value, requires_grad=True)
        SatLoss(0.5)(output, torch.tensor([0, 1])).area.backward()
        torch.testing.assert_close(output["maps"].grad, torch.full((2, 4, 6), sign / 48))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 5]), "label 5 is out of range: the model has 5 classes"),
        (torch.tensor([0, -1, 2, 3]), "label -1 is out of range"),
        (torch.tensor([0, 1]), r"shape \(2,\) do not fit logits of shape \(4, 5\)"),
        (torch.tensor([[0, 1, 2, 3]]), r"shape \(1, 4\) do not fit"),
        (torch.tensor([0.0, 1, 2, 3]), "dtype torch.int64, not torch.float32"),
    ],
)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises(UsageError, match=message):
        SatLoss()(random_output(), labels)


def test_labels_on_other_devices_are_not_read():
    output = SatOutput(logits=torch.empty(4, 5, device="meta"), maps=torch.empty(4, 4, 6, device="meta"))
    # Reading a value of a meta tensor raises, as reading one on a GPU would wait for it.
    assert SatLoss()(output, torch.empty(4, dtype=torch.int64, device="meta")).total.is_meta


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"area_target": 25}, "area_target is a fraction .* not 25"),
        ({"area_weight": -1}, "area_weight must be 0 or more, not -1"),
        ({"normalization_weight": float("nan")}, "normalization_weight"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        SatLoss(**arguments)


class TwoLayers(nn.Module):
    """Logits and maps of rows of six numbers."""

    def __init__(self):
        super().__init__()
        self.classify, self.locate = nn.Linear(6, 5), nn.Linear(6, 20)

    def forward(self, x):
        return SatOutput(logits=self.classify(x), maps=self.locate(x).sigmoid().unflatten(1, (4, 5)))


def _loss_and_gradients(sizes: list[int], each_image: bool, rank: int | None = None) -> tuple[dict, int]:
    """Gradients and loss terms, as lists, of one process with all rows or of one of several; and its number of rows."""
    torch.manual_seed(0)
    model, x, labels = TwoLayers(), torch.randn(sum(sizes), 6), torch.arange(sum(sizes)) % 5
    part = slice(None)
    if rank is not None:
        part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        model = DistributedDataParallel(model)
    criterion = SatLoss(area_target=0.9, label_smoothing=0.1, border_weight=1.0, border_in_each_image=each_image)
    loss = criterion(model(x[part]), labels[part])
    loss.total.backward()
    model = getattr(model, "module", model)
    if not rank:
        with torch.no_grad():
            # Evaluation is local: one process alone may call the loss without waiting for the others.
            SatLoss(0.9)(model(x[part]), labels[part])
    found = {name: parameter.grad.tolist() for name, parameter in model.named_parameters()}
    return found | {f"loss_{name}": value.item() for name, value in loss._asdict().items()}, len(x[part])


def _train_in_a_process(sizes: list[int], each_image: bool) -> tuple[dict, int]:
    distributed.init_process_group("gloo")
    found = _loss_and_gradients(sizes, each_image, distributed.get_rank())
    distributed.destroy_process_group()
    return found


@pytest.mark.parametrize(("sizes", "each_image"), [([4, 4], False), ([5, 2], False), ([5, 2], True)])
def test_two_processes_give_the_gradients_and_losses_of_one(sizes, each_image):
    expected, _ = _loss_and_gradients(sizes, each_image)
    assert expected["loss_border"] > 0
    for (found, rows), size in zip(run_processes(_train_in_a_process, sizes, each_image), sizes, strict=True):
        assert rows == size
        assert found.keys() == expected.keys()
        for name, value in found.items():
            given = torch.tensor(expected[name])
            torch.testing.assert_close(
                torch.tensor(value), given, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def two_sides(area: float, images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of an object with that area, and features that have one value on it and another beside it."""
    inside = torch.zeros(images, 100)
    inside[:, : round(100 * area)] = 1
    values = random(2, 8, seed=5)
    features = torch.where(inside[..., None] > 0, values[0], values[1])
    return inside.unflatten(1, (10, 10)), features.unflatten(1, (10, 10))


@pytest.mark.parametrize("area", [0.1, 0.35, 0.8])
def test_a_map_that_splits_the_features_leaves_nothing_unexplained_and_its_contrary_neither(area):
    maps, features = two_sides(area)
    torch.testing.assert_close(separation_per_image(maps, features), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(separation_per_image(1 - maps, features), torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1e-4, 0.35, 0.999, 1.0])
def test_uniform_maps_explain_nothing_whatever_their_value(value):
    _, features = two_sides(0.3)
    maps = torch.full((2, 10, 10), value, requires_grad=True)
    separation = separation_per_image(maps, features)
    torch.testing.assert_close(separation, torch.ones(2), atol=1e-4, rtol=0)
    separation.sum().backward()
    assert maps.grad.isfinite().all()


def test_separation_is_the_share_of_the_variance_between_two_groups():
    maps = torch.zeros(1, 3, 4)
    maps[0, 1:, :2] = 1
    features = random(1, 3, 4, 6, seed=2)
    tokens = torch.nn.functional.layer_norm(features, (6,)).flatten(1, 2)[0].double()
    groups = [tokens[maps.flatten() == value] for value in (0, 1)]
    within = sum(((group - group.mean(0)) ** 2).sum() for group in groups)
    expected = within / ((tokens - tokens.mean(0)) ** 2).sum()
    torch.testing.assert_close(separation_per_image(maps, features)[0].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("start", [0.3, 0.97])
def test_separation_leads_away_from_both_uniform_maps(start):
    """Gradient descent on the mask logits alone, from maps that are uniform but for a trace of the object."""
    target, features = two_sides(0.3)
    found = {}
    for weight in (0.0, 3.0):
        logits = (torch.tensor(start).logit() + 0.05 * (target - 0.3)).requires_grad_()
        criterion = SatLoss(area_target=0.35, normalization_weight=0.3, separation_weight=weight)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(200):
            output = SatOutput(logits=torch.zeros(2, 3), maps=logits.sigmoid(), features=features)
            optimizer.zero_grad()
            criterion(output, torch.tensor([0, 1])).total.backward()
            optimizer.step()
        found[weight] = logits.sigmoid().detach()
    assert (found[3.0] - target).abs().mean() < 0.1
    assert found[3.0].std() > 5 * found[0.0].std()


def test_border_is_the_mean_of_the_outermost_patches():
    maps = torch.zeros(2, 4, 5)
    maps[0, 1:-1, 1:-1] = 1
    maps[1] = 1 - maps[0]
    assert border_per_image(maps).tolist() == [0, 1]
    maps = random_output().maps
    ring = [maps[0, y, x] for y in range(4) for x in range(6) if y in (0, 3) or x in (0, 5)]
    torch.testing.assert_close(border_per_image(maps)[0], torch.stack(ring).mean())
    assert border_per_image(torch.full((1, 2, 2), 0.5)).tolist() == [0.5]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.6, 0.0), (1.0, 0.2)])
def test_border_costs_nothing_once_the_object_is_inside(share, expected):
    """Maps of 0.6 everywhere but along the border, where they have a share of that."""
    maps = torch.full((2, 8, 8), 0.6 * share)
    maps[:, 1:-1, 1:-1] = 0.6
    loss = SatLoss(border_weight=1.0)(SatOutput(logits=torch.zeros(2, 3), maps=maps), torch.tensor([0, 1]))
    torch.testing.assert_close(loss.border, torch.tensor(0.6 * expected))


def test_the_border_of_a_batch_hides_an_image_that_has_the_ground_and_each_image_does_not():
    maps = torch.zeros(4, 8, 8)
    maps[:, 2:-2, 2:-2] = 1
    maps[0] = 1 - maps[0]
    output, labels = SatOutput(logits=torch.zeros(4, 3), maps=maps.requires_grad_()), torch.tensor([0, 1, 2, 0])
    assert SatLoss(border_weight=1.0)(output, labels).border == 0
    loss = SatLoss(border_weight=1.0, border_in_each_image=True)(output, labels)
    # Ground alone: 1 along the border and 48 of 64 patches.
    torch.testing.assert_close(loss.border.detach(), torch.tensor((1 - 0.8 * 48 / 64) / 4))
    loss.border.backward()
    assert maps.grad[0].any()
    assert not maps.grad[1:].any()
    inside = SatOutput(logits=torch.zeros(3, 3), maps=maps[1:].detach())
    assert SatLoss(border_weight=1.0, border_in_each_image=True)(inside, labels[1:]).border == 0


def test_border_decides_which_of_two_sides_is_the_object():
    """Gradient descent on the mask logits alone, from maps with a trace of the ground, in an image of two sides."""
    target = torch.zeros(1, 10, 10)
    target[:, 1:-1, 1:-1] = 1
    values = random(2, 8, seed=5)
    features = torch.where(target[..., None] > 0, values[0], values[1])
    found = {}
    for weight in (0.0, 1.0):
        logits = (0.05 * (1 - 2 * target)).requires_grad_()
        criterion = SatLoss(area_target=0.5, separation_weight=2.0, border_weight=weight)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(300):
            output = SatOutput(logits=torch.zeros(1, 3), maps=logits.sigmoid(), features=features)
            optimizer.zero_grad()
            criterion(output, torch.tensor([0])).total.backward()
            optimizer.step()
        found[weight] = logits.sigmoid().detach()
    assert found[0.0][target > 0].mean() < 0.2 < 0.8 < found[0.0][target == 0].mean()
    assert found[1.0][target == 0].mean() < 0.2 < 0.8 < found[1.0][target > 0].mean()


def test_without_weight_no_features_are_needed():
    output = SatOutput(logits=torch.zeros(1, 3), maps=torch.full((1, 4, 4), 0.5))
    assert SatLoss()(output, torch.tensor([0])).separation == 0
    weighed = SatLoss(border_weight=2.0)(output, torch.tensor([0]))
    torch.testing.assert_close(weighed.total, SatLoss()(output, torch.tensor([0])).total + 2 * (0.5 - 0.8 * 0.5))
