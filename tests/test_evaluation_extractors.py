"""The feature extractors: that they are the networks they are called."""

import dataclasses
import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch_fidelity import feature_extractor_inceptionv3 as torch_fidelity_inception

from noisesteps.config import Distribution
from noisesteps.data.array import Images
from noisesteps.errors import DataError, StageError
from noisesteps.evaluation import describe, extractors, load_extractor, score

CPU = torch.device("cpu")
ARCHIVES = Path(__file__).parents[2] / "shared" / "data"
needs_archives = pytest.mark.skipif(
    not ARCHIVES.is_dir(), reason="the archives of real images are not here"
)
BUTTERFLIES = range(321, 327)  # ImageNet's admiral to lycaenid


def noise(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


@pytest.fixture(scope="module")
def efficientnet() -> extractors.Extractor:
    return load_extractor("efficientnet-lite0", None, CPU, batch_size=4)


def test_efficientnet_describes_itself(efficientnet):
    assert efficientnet.metric == "FD (EfficientNet-Lite0)"
    assert efficientnet.dimensions == 1280
    assert efficientnet.digest.startswith("57934424")  # as its file is named


def test_features_have_the_stated_form(efficientnet):
    features = efficientnet.features(noise(3))
    assert features.shape == (3, 1280)
    assert features.dtype == np.float32
    assert efficientnet.features(noise(0)).shape == (0, 1280)


def test_features_are_the_packages_own_up_to_the_classes(efficientnet):
    """The package's classifier on our features is the package's network."""
    network = packaged_network()
    images = torch.from_numpy(noise(2, 32))
    with torch.inference_mode():
        expected = network((functional.interpolate(
            images.float(), (224, 224), mode="bilinear", antialias=True
        ) - 127) / 128)  # fmt: skip
        found = network._fc(torch.from_numpy(efficientnet.features(images.numpy())))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def packaged_network() -> torch.nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(extractors._efficientnet_file())
    )
    return network.eval()


def test_features_do_not_depend_on_the_batch(efficientnet):
    images = noise(5)
    whole = efficientnet.features(images)
    alone = np.concatenate([efficientnet.features(image[None]) for image in images])
    np.testing.assert_allclose(alone, whole, atol=1e-4 * whole.max())
    np.testing.assert_array_equal(efficientnet.features(images), whole)


@pytest.mark.parametrize(
    "images",
    [noise(2).astype(np.float32), noise(2).transpose(0, 2, 3, 1), noise(1)[0]],
)
def test_other_arrays_are_refused(efficientnet, images):
    with pytest.raises(ValueError, match=r"uint8 \(N, 3, H, W\)"):
        efficientnet.features(images)


def test_loading_leaves_global_randomness_alone():
    before = torch.get_rng_state()
    load_extractor("efficientnet-lite0", None, CPU, batch_size=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_changed_package_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "weights.pth"
    other.write_bytes(b"other weights")
    monkeypatch.setattr(extractors, "_efficientnet_file", lambda: other)
    with pytest.raises(DataError, match=r"weights\.pth has SHA-256"):
        load_extractor("efficientnet-lite0", None, CPU, batch_size=4)


def decode(data: bytes, size: int = 64) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size))
    return np.asarray(image).transpose(2, 0, 1)


def real_butterflies(count: int) -> np.ndarray:
    from pyarrow import parquet

    path = next((ARCHIVES / "smithsonian_butterflies").glob("*.parquet"))
    rows = parquet.read_table(path)["image"].slice(0, count).to_pylist()
    return np.stack([decode(row["bytes"], 128) for row in rows])


def real_flowers(count: int) -> np.ndarray:
    with tarfile.open(ARCHIVES / "oxford_flowers" / "102flowers.tgz") as archive:
        files = (member for member in archive if member.name.endswith(".jpg"))
        return np.stack(
            [
                decode(archive.extractfile(file).read())
                for file, _ in zip(files, range(count), strict=False)
            ]
        )


def real_faces(count: int) -> np.ndarray:
    with zipfile.ZipFile(next((ARCHIVES / "anime_faces").glob("*.zip"))) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:count]
        return np.stack([decode(archive.read(name)) for name in names])


@needs_archives
def test_efficientnet_knows_a_butterfly(efficientnet):
    features = torch.from_numpy(efficientnet.features(real_butterflies(12)))
    with torch.inference_mode():
        named = packaged_network()._fc(features).argmax(1).tolist()
    assert sum(label in BUTTERFLIES for label in named) >= 10


@needs_archives
def test_flowers_are_nearer_to_flowers_than_to_faces(efficientnet):
    flowers = real_flowers(24)
    dataset = Images(flowers[:12], flowers[12:])
    reference, _, record = describe(
        dataset, efficientnet, images=12, key=(0, "flowers")
    )
    _, _, faces = score(
        real_faces(12), efficientnet, reference, images=12, seeds=1, key=(0, "faces")
    )
    assert record["floor"]["fid"][0] < 0.7 * faces["value"]


def published(sha256: str, name: str = "inception.pth") -> Distribution:
    return Distribution(files={name: {"url": None, "sha256": sha256}})


@pytest.fixture(scope="module")
def inception_folder(tmp_path_factory) -> Path:
    """Write random weights for torch-fidelity's own network to a file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = random_inception()
    folder = tmp_path_factory.mktemp("weights")
    torch.save(network.state_dict(), folder / "inception.pth")
    return folder


def random_inception() -> torch.nn.Module:
    """Build torch-fidelity's network; its download is replaced by the initial state."""
    inception = torch_fidelity_inception.FeatureExtractorInceptionV3

    class Undownloaded(inception):
        def load_state_dict(self, state_dict, *args, **kwargs):
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch_fidelity_inception, "load_state_dict_from_url", lambda *a, **k: {}
        )
        return Undownloaded("inception-v3", ["2048"])


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def inception(inception_folder) -> extractors.Extractor:
    digest = digest_of(inception_folder / "inception.pth")
    return load_extractor("inception-v3", inception_folder, CPU, 2, published(digest))


def test_inception_is_torch_fidelitys(inception, inception_folder):
    images = noise(3, 24)
    features = inception.features(images)
    network = random_inception()
    state = torch.load(inception_folder / "inception.pth", weights_only=True)
    torch.nn.Module.load_state_dict(network, state)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))[0].numpy()
    assert features.shape == (3, 2048)
    assert inception.dimensions == 2048
    assert inception.digest == digest_of(inception_folder / "inception.pth")
    np.testing.assert_allclose(features, expected, atol=1e-4 * expected.max())
    assert expected.std(axis=0).max() > 0  # different images, different features


def test_only_the_literatures_weights_give_a_fid(inception):
    assert inception.metric == "FD (Inception-v3, other weights)"
    literature = dataclasses.replace(inception, digest=extractors.INCEPTION_SHA256)
    assert literature.metric == "FID"


def test_a_mirrors_checksum_is_the_one_that_counts(inception_folder):
    digest = digest_of(inception_folder / "inception.pth")
    mirrored = Distribution(
        files={"inception.pth": {"url": None, "sha256": "0" * 64}},
        mirror={"location": "mirror", "sha256": {"inception.pth": digest}},
    )
    loaded = load_extractor("inception-v3", inception_folder, CPU, 2, mirrored)
    assert loaded.digest == digest


def test_weights_of_another_checksum_are_refused(inception_folder):
    for weights in (
        published("0" * 64),
        Distribution(files={"inception.pth": {"url": None}}),
    ):
        with pytest.raises(DataError, match="fetch it again"):
            load_extractor("inception-v3", inception_folder, CPU, 2, weights)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(StageError, match=r"inception\.pth is missing; run"):
        load_extractor("inception-v3", tmp_path, CPU, 2, published("0" * 64))
    with pytest.raises(StageError, match=r"needs evaluation\.weights"):
        load_extractor("inception-v3", None, CPU, 2)


def test_other_networks_weights_are_refused(tmp_path):
    path = tmp_path / "inception.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="other weights than torch-fidelity's"):
        load_extractor("inception-v3", tmp_path, CPU, 2, published(digest_of(path)))


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the file's code ran",))


def test_code_in_a_weights_file_does_not_run(tmp_path):
    path = tmp_path / "inception.pth"
    torch.save({"weight": Payload()}, path)
    with pytest.raises(DataError, match="plain state dict"):
        load_extractor("inception-v3", tmp_path, CPU, 2, published(digest_of(path)))
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match="plain state dict"):
        load_extractor("inception-v3", tmp_path, CPU, 2, published(digest_of(path)))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="plain state dict"):
        load_extractor("inception-v3", tmp_path, CPU, 2, published(digest_of(path)))
