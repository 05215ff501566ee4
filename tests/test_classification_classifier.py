"""ResNet18 and VGG16 from random weights."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torchvision import models

import finished_study
from noisesteps import stages
from noisesteps.classification import LabelledSet, build_network, train_classifier
from noisesteps.classification.classifier import _input, _settle_normalisation
from noisesteps.config import Classification
from noisesteps.errors import DivergedError, StageError
from noisesteps.paths import StudyPaths
from noisesteps.seeds import torch_generator

CPU = torch.device("cpu")


def chosen(**values) -> Classification:
    defaults = {"datasets": ["light", "dark"], "steps": 10, "epochs": 1}
    return Classification(**(defaults | values))


def two_kinds(count: int, size: int = 32, seed: int = 0) -> LabelledSet:
    """Return `count` light and `count` dark noisy images."""
    random = np.random.default_rng(seed)
    dark = random.integers(0, 100, (2 * count, 3, size, size), dtype=np.uint8)
    images = dark + np.repeat([150, 0], count).astype(np.uint8)[:, None, None, None]
    sources = tuple(f"train[{index}]" for index in range(2 * count))
    return LabelledSet(images, np.repeat([0, 1], count), ("light", "dark"), sources)


def classify(train, test, settings, architecture="resnet18", key=(0,)):
    return train_classifier(train, test, architecture, settings, key=key, device=CPU)


def test_a_classifier_learns_what_can_be_seen():
    settings = chosen(epochs=10, batch_size=8, learning_rate=1e-3)
    result = classify(two_kinds(16), two_kinds(6, seed=1), settings)
    seconds, loss = result.pop("seconds"), result.pop("final_loss")
    assert seconds > 0
    assert loss < 0.3
    assert result == {
        "accuracy": 1.0,
        "accuracy_precise_bn": 1.0,
        "per_class_accuracy": {"light": 1.0, "dark": 1.0},
        "train_images": 32,
        "test_images": 12,
        "classes": ["light", "dark"],
        "epochs": 10,
    }


def test_statistics_taken_anew_are_those_of_the_training_images():
    network = build_network("resnet18", 2)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    images = two_kinds(6).images
    _settle_normalisation(network, images, len(images), CPU)
    with torch.no_grad():
        seen = network.conv1(_input(images, CPU))
    mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
    torch.testing.assert_close(network.bn1.running_mean, mean)
    torch.testing.assert_close(network.bn1.running_var, variance)
    for name, weight in network.named_parameters():
        assert torch.equal(weight, before[name])


def test_vgg16_has_no_statistics_to_take_anew():
    settings = chosen(epochs=1, batch_size=8)
    train, test = two_kinds(4), two_kinds(4, seed=1)
    result = classify(train, test, settings, architecture="vgg16")
    assert result["accuracy_precise_bn"] == result["accuracy"]


def test_accuracy_is_counted_class_by_class(monkeypatch):
    """Of four light images three are named rightly, of four dark ones none."""
    monkeypatch.setattr(
        "noisesteps.classification.classifier._predict",
        lambda *a: np.array([0, 0, 0, 1, 0, 0, 0, 0]),
    )
    result = classify(two_kinds(2), two_kinds(4, seed=1), chosen())
    assert result["per_class_accuracy"] == {"light": 0.75, "dark": 0.0}
    assert result["accuracy"] == 0.375


def test_equal_keys_give_equal_classifiers():
    train, test = two_kinds(5), two_kinds(4, seed=1)
    settings = chosen(epochs=2, batch_size=4)
    before = torch.get_rng_state()
    torch.manual_seed(1)
    first = classify(train, test, settings, key=(0, "classify", "resnet18", 0))
    torch.manual_seed(2)
    middle = torch.get_rng_state()
    again = classify(train, test, settings, key=(0, "classify", "resnet18", 0))
    assert torch.equal(torch.get_rng_state(), middle)
    other = classify(train, test, settings, key=(0, "classify", "resnet18", 1))
    torch.set_rng_state(before)
    assert first["final_loss"] == again["final_loss"]
    assert first["accuracy"] == again["accuracy"]
    assert first["final_loss"] != other["final_loss"]


def test_repetitions_are_paired(tmp_path, monkeypatch):
    """What a repetition starts from, and draws, is the same whatever it learns from."""
    monkeypatch.chdir(tmp_path)
    study, starts = finished_study.study(), {}
    paths = StudyPaths(study.study)
    for name, count in {"origin": 2, "mix": 4, "origin_repeated": 4, "test": 1}.items():
        two_kinds(count).save(paths.set(name))
        record = {"provenance": {"settings": {}}}
        stages.write_record(paths.set(name) / "set.json", record, *stages.SET_FILES)

    def fit(network, train, settings, key, device):
        weights = parameters_to_vector(network.parameters()).detach().clone()
        order = torch_generator(*key, "order", 0).get_state()
        starts[len(starts)] = (weights, torch.get_rng_state(), order)
        return 0.0

    monkeypatch.setattr("noisesteps.classification.classifier._fit", fit)
    for name in ("origin", "mix", "origin_repeated"):
        stages.classify(study, "resnet18", name, 0, CPU)
    stages.classify(study, "resnet18", "mix", 1, CPU)
    for other in (1, 2):
        assert all(map(torch.equal, starts[0], starts[other]))
    assert not any(map(torch.equal, starts[0], starts[3]))


def test_sets_of_one_size_make_as_many_updates_in_one_order(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "noisesteps.classification.classifier._epoch",
        lambda network, optimizer, images, labels, order: seen.append(order) or 0.5,
    )
    for count in (4, 8, 8):
        classify(two_kinds(count), two_kinds(1), chosen(batch_size=4))
    origin, mix, repeated = seen
    assert len(mix) == len(repeated) == 2 * len(origin)
    assert all(map(torch.equal, mix, repeated))


def test_vgg16_makes_an_update():
    """16-pixel images, which VGG16's poolings could not take as they are."""
    train, test = two_kinds(2, size=16), two_kinds(1, size=16, seed=1)
    result = classify(train, test, chosen(batch_size=4), "vgg16")
    assert result["train_images"] == 4
    assert np.isfinite(result["final_loss"])


@pytest.mark.parametrize("architecture", ["resnet18", "vgg16"])
def test_the_networks_are_torchvisions(architecture):
    with torch.device("meta"):
        ours = build_network(architecture, 3)
        theirs = getattr(models, architecture)(weights=None, num_classes=3)
        assert ours(torch.empty(2, 3, 32, 32)).shape == (2, 3)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}


@pytest.mark.parametrize(("size", "seen"), [(16, 32), (32, 32), (48, 48)])
def test_pixels_become_minus_one_to_one(size, seen):
    images = np.zeros((2, 3, size, size), np.uint8)
    images[1] = 255
    pixels = _input(images, CPU)
    assert pixels.shape == (2, 3, seen, seen)
    assert pixels.dtype == torch.float32
    assert (pixels[0] == -1).all()
    assert (pixels[1] == 1).all()


@pytest.mark.parametrize(("count", "batch_size"), [(3, 5), (3, 2), (1, 32)])
def test_no_batch_holds_one_image(count, batch_size):
    """2 × 3 + 1 images in batches of 5 or 2 would leave one for batch normalisation."""
    train = two_kinds(count)
    if count == 3:
        train = LabelledSet(
            np.concatenate([train.images, train.images[:1]]),
            np.append(train.labels, 0),
            train.classes,
            (*train.sources, "train[6]"),
        )
    result = classify(train, two_kinds(1, seed=1), chosen(batch_size=batch_size))
    assert np.isfinite(result["final_loss"])


def test_sets_of_other_classes_are_refused():
    train, test = two_kinds(2), two_kinds(2)
    others = LabelledSet(test.images, test.labels, ("light", "grey"), test.sources)
    with pytest.raises(StageError, match="light, dark, but the test set light, grey"):
        classify(train, others, chosen())
    lights = LabelledSet(
        test.images[:2], test.labels[:2], test.classes, test.sources[:2]
    )
    with pytest.raises(StageError, match="A class has no test images"):
        classify(train, lights, chosen())


def test_divergence_is_reported(monkeypatch):
    monkeypatch.setattr(
        "noisesteps.classification.classifier._epoch", lambda *a: float("nan")
    )
    with pytest.raises(DivergedError, match=r"lower classification\.learning_rate"):
        classify(two_kinds(2), two_kinds(2), chosen())
