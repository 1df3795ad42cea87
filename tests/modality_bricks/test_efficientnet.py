"""The conversion of EfficientNet-Lite2's weights: the same network, in a folder that open_clip loads."""

import mattoni.torchvision_ops  # noqa: F401

import pytest
import timm
import torch
from PIL import Image

from mattoni.errors import MattoniError
from modality_bricks.efficientnet import ARCHITECTURE, SIZE, WIDTH, convert_lite2, principal_directions
from modality_bricks.encoder import CLASSES, load_classes, load_encoder


def published(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A network's weights under names of somebody else's, as they are published."""
    return {f"_weight.{n}": value for n, value in enumerate(network.state_dict().values())}


def test_the_folder_holds_the_same_network_and_its_classifiers_directions(tmp_path):
    network = timm.create_model(ARCHITECTURE, pretrained=False).eval()
    torch.save(published(network), tmp_path / "weights.pth")
    folder = tmp_path / "encoder"
    folder.mkdir()
    convert_lite2(tmp_path / "weights.pth", folder)
    encoder = load_encoder(folder)
    assert (encoder.tokens, encoder.width, encoder.grid) == (37, WIDTH, (6, 6))
    picture = Image.effect_noise((100, 80), 90).convert("RGB")
    batch = encoder.preprocess(picture).unsqueeze(0)
    assert batch.shape == (1, 3, SIZE, SIZE)
    with torch.inference_mode():
        pooled = network.forward_head(network.forward_features(batch), pre_logits=True)
    expected = pooled @ principal_directions(network.classifier.weight.detach(), WIDTH).T
    torch.testing.assert_close(encoder.features(batch)[:, -1], expected, rtol=1e-4, atol=1e-5)
    # Its classifier, on what the projection leaves of the pooled feature.
    classes = load_classes(f"local-dir:{folder}")
    assert (len(classes.names), classes.names[1], classes.names[950]) == (1000, "goldfish", "orange")
    weight = network.classifier.weight.detach()
    projection = principal_directions(weight, WIDTH)
    wanted = expected @ projection @ weight.T + network.classifier.bias
    found = encoder.features(batch)[:, -1] @ classes.weight.T + classes.bias
    torch.testing.assert_close(found.softmax(-1), wanted.softmax(-1), rtol=1e-3, atol=1e-6)
    (folder / CLASSES).unlink()
    with pytest.raises(MattoniError, match="brings no names of things .*: pull or copy the encoder again"):
        load_classes(f"local-dir:{folder}")


def test_directions_are_orthonormal_and_their_signs_settled():
    weight = torch.randn(30, 12)
    directions = principal_directions(weight, 5)
    torch.testing.assert_close(directions @ directions.T, torch.eye(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(principal_directions(-weight, 5), directions, rtol=0, atol=1e-5)


def test_weights_of_another_network_and_pickles_that_run_code_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(MattoniError, match=f"other.pth does not hold the weights of {ARCHITECTURE}: pull it again"):
        convert_lite2(tmp_path / "other.pth", tmp_path)
    torch.save({"a": print}, tmp_path / "code.pth")
    with pytest.raises(MattoniError, match="code.pth holds no weights that can be read without running code"):
        convert_lite2(tmp_path / "code.pth", tmp_path)
