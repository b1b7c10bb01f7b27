"""References as ADM ships them, the names of figures, sweeps, and the Inception judge on a stand-in for its library."""

import sys
import types
import urllib.error

import numpy as np
import pytest
import torch

from tests.helpers.commands import run_command
from train.evaluate import features, inception, judging, metrics, samples, sources
from train.evaluate.sweep import sweep_panels


def see(n: int, seed: int, d: int = 4) -> features.Features:
    rng = np.random.default_rng(seed)
    return features.Features(rng.normal(size=(n, d)), rng.normal(size=(n, 3)), rng.dirichlet(np.ones(5), n))


class Judge:
    """Sees the mean colours of an image, and says that it is Inception."""

    name, words = "Inception", inception.Inception.words

    def __call__(self, images):
        colours = images.mean((1, 2)) / 100
        return features.Features(colours, colours[:, :2], np.full((len(images), 2), 0.5))


def adm_reference(path, images=None, **changes):
    """An npz with statistics of a known mean and covariance."""
    arrays = {"mu": np.array([1.0, 0, 0]), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": 4 * np.eye(2)} | changes
    np.savez(path, **arrays | ({} if images is None else {"arr_0": images}))
    return str(path)


def test_adms_statistics_are_what_fid_is_against(tmp_path):
    """The closed form for commuting covariances. Would catch a FID against the few images that ADM ships beside the
    statistics of the whole set, and pooled and spatial statistics swapped."""
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    real = judging.open_reference(adm_reference(tmp_path / "ref.npz", images), Judge(), tmp_path)
    seen = see(1000, 1, d=3)
    seen = features.Features(seen.pooled, seen.spatial[:, :2], seen.probabilities)
    found = judging.figures(real, seen, Judge())
    assert list(found) == ["KID", "KID error", "FID", "sFID", "IS", "precision", "recall"]
    assert found["FID"] == pytest.approx(1, abs=0.2)  # means 1 apart, both covariances the identity
    assert found["sFID"] == pytest.approx(2, abs=0.2)  # deviations of 2 and 1 in two directions
    assert found["KID"] == metrics.kernel_distance(Judge()(images).pooled, seen.pooled).value


def test_statistics_alone_give_what_can_be_had(tmp_path):
    """Would catch KID or recall invented from a Gaussian, and another judge's features held against Inception's."""
    path = adm_reference(tmp_path / "ref.npz")
    real = judging.open_reference(path, Judge(), tmp_path)
    assert list(judging.figures(real, Judge()(np.zeros((9, 8, 8, 3), np.uint8)), Judge())) == ["FID", "sFID", "IS"]
    with pytest.raises(ValueError, match="no halves"):
        real.halves()
    other = types.SimpleNamespace(name="EffLite0", words={})
    with pytest.raises(ValueError, match="--judge inception"):
        judging.open_reference(path, other, tmp_path)
    with pytest.raises(ValueError, match="3 dimensions, the other 4"):
        judging.figures(real, see(9, 0), Judge())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": np.eye(2)}, r"\(3,\) and \(2, 2\)"),
        ({"mu_s": np.zeros((2, 1))}, "mu_s and sigma_s"),
    ],
)
def test_broken_statistics_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        judging.read_statistics(tmp_path / adm_reference(tmp_path / "ref.npz", **changes))
    np.savez(tmp_path / "half.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="statistics are mu, sigma, mu_s and sigma_s"):
        judging.read_statistics(tmp_path / "half.npz")
    assert judging.read_statistics(tmp_path / "avatars:test") is None


def test_a_folder_is_read_a_slice_at_a_time(tmp_path, monkeypatch):
    """A reference may be larger than memory. Would catch all images read at once, and features of others than the
    array's with the same pixels."""
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (7, 6, 8, 3), np.uint8)
    (tmp_path / "real").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"real/{i}.png")
    found = sources.read(str(tmp_path / "real"), tmp_path).images
    assert found.shape == images.shape
    np.testing.assert_array_equal(found[2:5], images[2:5])
    np.testing.assert_array_equal(found[6], images[6])
    assert features.images_fingerprint(found) == features.images_fingerprint(images)
    asked = []
    read = sources.FolderImages.__getitem__
    monkeypatch.setattr(sources.FolderImages, "__getitem__", lambda self, i: asked.append(i) or read(self, i))
    np.testing.assert_array_equal(features.extract(Judge(), found, 3).pooled, Judge()(images).pooled)
    assert [i for i in asked if isinstance(i, slice)] == [slice(0, 3), slice(3, 6), slice(6, 9)]


def test_a_sweeps_plot_shows_the_trade():
    """Would catch axes swapped, and the error bar drawn in place of KID."""
    judge = types.SimpleNamespace(name="EffLite0", words={})
    real = judging.ReferenceStatistics.of(see(40, 0))
    reports = [{"guidance_scale": w} | judging.figures(real, see(30, i), judge) for i, w in enumerate((1.0, 2.5))]
    panels = sweep_panels(reports, "scale")
    labels = [("precision-EffLite0", "KID-EffLite0"), ("recall-EffLite0", "KID-EffLite0")]
    assert [(panel.x_label, panel.y_label) for panel in panels[:2]] == labels
    assert panels[1].lines[0].x == [report["recall-EffLite0"] for report in reports]
    assert panels[1].lines[0].y == [report["KID-EffLite0"] for report in reports]
    assert panels[1].lines[0].words == ["1", "2.5"]
    assert panels[3].y_label == "FD-EffLite0"


# ---- Inception


class Network(torch.nn.Module):
    """Stands in for torch-fidelity's: its names, and 9 channels of 2 x 2 places in the middle."""

    def __init__(self, name, features_list):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        library = sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
        self.asked = library.load_state_dict_from_url(library.URL_INCEPTION_V3, progress=False)
        self.Mixed_6d = torch.nn.Module()
        self.Mixed_6d.branch1x1 = torch.nn.Conv2d(3, 9, 1)

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        middle = self.Mixed_6d.branch1x1(x[:, :, :2, :2].float() / 255)
        return middle.mean((2, 3)), 10 * middle.mean((2, 3))


@pytest.fixture
def library(monkeypatch):
    """The library's module; downloads are noted in `asked`."""
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3, module.URL_INCEPTION_V3 = Network, "somewhere/weights-6726825d.pth"
    package = types.ModuleType("torch_fidelity")
    package.feature_extractor_inceptionv3 = module
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **settings: settings)
    return module


def test_inception_sees_what_adms_evaluator_sees(library):
    """Would catch channels before places (ADM's are last), more channels than seven, logits in place of probabilities,
    and a download that is unpickled."""
    judge = judging.open_judge("inception")
    assert judge.network.asked == {"progress": False, "weights_only": True, "check_hash": True}
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    seen = judge(images)
    middle = judge.network.Mixed_6d.branch1x1(torch.tensor(images[:, :2, :2]).permute(0, 3, 1, 2) / 255).detach()
    assert seen.spatial.shape == (5, 2 * 2 * 7)
    for place, (y, x) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        np.testing.assert_allclose(seen.spatial[:, 7 * place : 7 * place + 7], middle[:, :7, y, x], rtol=1e-4)
    np.testing.assert_allclose(seen.probabilities.sum(1), 1, rtol=1e-5)


def test_what_inception_lacks_is_said(library, monkeypatch, tmp_path, capsys):
    samples.write(tmp_path / "real.npz", sources.ImageSet(np.zeros((4, 4, 4, 3), np.uint8)))
    call = f"--floor --reference {tmp_path}/real.npz --judge inception --device cpu --data {tmp_path}".split()

    def offline(url, **settings):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(SystemExit):
        run_command("train.evaluate", call)
    told = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be downloaded" in told and "checkpoints/weights-6726825d.pth" in told
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(SystemExit):
        run_command("train.evaluate", call)
    assert "pip install -r requirements-extra.txt" in capsys.readouterr().err.splitlines()[-1]
