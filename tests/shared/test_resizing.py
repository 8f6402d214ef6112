"""The resize rule: what is kept, what is cut, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from shared.wire.contracts import InputSpec, Resize
from shared.wire.image_files import decode_image_file
from shared.wire.images import Images, InvalidImages
from shared.wire.resizing import describe_preprocessing, fit_picture


def noise(height: int, width: int, *, channels: int = 3) -> Image.Image:
    """Smooth noise, so that resizing is not all about its rounding."""
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (9, 9, channels), np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)


def fit(picture: Image.Image, height: int, width: int, resize: Resize, channels: int = 3) -> Images:
    return fit_picture(picture, height=height, width=width, channels=channels, resize=resize)


@pytest.mark.parametrize("resize", ["exact", "crop", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_the_right_size_is_its_own_pixels(resize: Resize, channels: int) -> None:
    picture = noise(20, 30, channels=channels)
    np.testing.assert_array_equal(
        fit(picture, 20, 30, resize, channels), np.asarray(picture).reshape(20, 30, channels)
    )


def test_exact_refuses_another_size_and_names_both() -> None:
    with pytest.raises(InvalidImages, match=r"30 x 20 pixels; this teacher takes 30 x 21 exactly \(width x height\)"):
        fit(noise(20, 30), 21, 30, "exact")


@pytest.mark.parametrize("size", [(100, 100), (300, 200), (200, 300), (65, 64), (64, 1000), (37, 91), (500, 333)])
@pytest.mark.parametrize("side", [32, 64])
def test_crop_is_torchvisions_evaluation_transform(size: tuple[int, int], side: int) -> None:
    """To within the last digit: the coordinates of the cut are kept in single precision."""
    picture = noise(*size)
    published = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])(picture)

    difference = np.abs(fit(picture, side, side, "crop").astype(int) - np.asarray(published).astype(int))

    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize(("size", "wanted"), [((40, 120), (20, 20)), ((120, 40), (20, 20)), ((60, 90), (10, 40))])
def test_crop_keeps_the_middle_and_the_aspect_ratio(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Coordinates painted into the picture show where its pixels went."""
    rows, columns = np.indices(size)
    picture = Image.fromarray(np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8))

    fitted = fit(picture, *wanted, "crop").astype(float)

    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    for axis in (0, 1):
        coordinate = fitted[..., axis]
        assert coordinate.mean() == pytest.approx((size[axis] - 1) / 2, abs=1)
        steps = np.diff(coordinate, axis=axis)
        assert np.median(steps) == pytest.approx(scale, abs=1)


def test_stretch_keeps_every_corner() -> None:
    corners = np.zeros((40, 120), np.uint8)
    corners[:20, :60], corners[20:, 60:] = 50, 200
    fitted = fit(Image.fromarray(corners), 10, 10, "stretch", channels=1)[..., 0]
    assert (fitted[0, 0], fitted[-1, -1], fitted[0, -1], fitted[-1, 0]) == (50, 200, 0, 0)


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (2, 3)])
def test_tiny_and_thin_pictures_are_fitted_without_growing_first(size: tuple[int, int], resize: Resize) -> None:
    fitted = fit(Image.new("RGB", size, (7, 8, 9)), 64, 48, resize)
    assert fitted.shape == (64, 48, 3)
    assert np.unique(fitted.reshape(-1, 3), axis=0).tolist() == [[7, 8, 9]]


@settings(deadline=None, max_examples=150)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    wanted=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    channels=st.sampled_from([1, 3]),
    resize=st.sampled_from(["crop", "stretch"]),
)
def test_every_size_fits_every_input(
    size: tuple[int, int], wanted: tuple[int, int], channels: int, resize: Resize
) -> None:
    """Nothing is invented: no level is outside what the picture holds, whatever is cut or enlarged."""
    levels = np.random.default_rng(size[0]).integers(40, 200, (*size, 3), np.uint8)
    fitted = fit(Image.fromarray(levels), *wanted, resize, channels)
    assert fitted.shape == (*wanted, channels)
    assert 40 - 1 <= fitted.min() <= fitted.max() <= 200


def test_the_cut_is_made_after_the_rotation() -> None:
    """A picture held upright by EXIF alone is cut at its top and bottom, not at its sides."""
    upright = noise(300, 100)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)

    spec = InputSpec(height=32, width=32, channels=3, resize="crop")
    decoded = decode_image_file(buffer.getvalue(), spec, pixels_max=10**6)

    np.testing.assert_array_equal(decoded, fit(upright, 32, 32, "crop"))


def test_every_rule_describes_itself() -> None:
    texts = {resize: describe_preprocessing(resize) for resize in ("exact", "crop", "stretch")}
    assert "another size is refused" in texts["exact"]
    assert "aspect ratio kept" in texts["crop"]
    assert "aspect ratio not kept" in texts["stretch"]
