"""Pure geometry and colour, against arithmetic by hand, slow loops and OpenCV's own resize."""

import math

import cv2
import numpy as np
import pytest

from mmyolo_ext.datasets.transforms import colour as C
from mmyolo_ext.datasets.transforms import functional as F
from mmyolo_ext.datasets.transforms import tiles as T


@pytest.mark.parametrize(
    ('image_hw', 'size_hw', 'canvas_hw', 'options', 'resized_hw', 'pad_tblr', 'scale_wh'),
    [
        # 320 / 640 = 0.5: 240 x 320, 80 rows to spare.
        ((480, 640), (320, 320), (320, 320), {}, (240, 320), (0, 80, 0, 0), (0.5, 0.5)),
        ((480, 640), (320, 320), (320, 320), {'centred': True}, (240, 320), (40, 40, 0, 0), (0.5, 0.5)),
        # Tall: 320 / 640 again, 80 columns to spare.
        ((640, 480), (320, 320), (320, 320), {}, (320, 240), (0, 0, 0, 80), (0.5, 0.5)),
        # 320 / 500 = 0.64, 333 * 0.64 = 213.12 -> 213 rows, 107 to spare: 53 above, 54 below.
        ((333, 500), (320, 320), (320, 320), {'centred': True}, (213, 320), (53, 54, 0, 0), (0.64, 213 / 333)),
        # Half a pixel is rounded up: 101 * 0.5 = 50.5 -> 51.
        ((101, 640), (320, 320), (320, 320), {}, (51, 320), (0, 269, 0, 0), (0.5, 51 / 101)),
        # Not square: min(192 / 480, 320 / 640) = 0.4.
        ((480, 640), (192, 320), (192, 320), {}, (192, 256), (0, 0, 0, 64), (0.4, 0.4)),
        # The batch's canvas is larger than the size: the image is fitted into the size all the same.
        ((480, 640), (320, 320), (256, 352), {'centred': True}, (240, 320), (8, 8, 16, 16), (0.5, 0.5)),
        # A canvas lower than the size: min(192, 320) / 480 = 0.4.
        ((480, 640), (320, 320), (192, 320), {}, (192, 256), (0, 0, 0, 64), (0.4, 0.4)),
        ((100, 200), (320, 320), (320, 320), {}, (160, 320), (0, 160, 0, 0), (1.6, 1.6)),
        ((100, 200), (320, 320), (320, 320), {'allow_upscale': False}, (100, 200), (0, 220, 0, 120), (1.0, 1.0)),
        # 1 * 0.32 would round to nothing.
        ((1, 1000), (320, 320), (320, 320), {}, (1, 320), (0, 319, 0, 0), (0.32, 1.0)),
    ],
)
def test_letterbox_numbers(image_hw, size_hw, canvas_hw, options, resized_hw, pad_tblr, scale_wh):
    plan = F.plan_letterbox(image_hw, size_hw, canvas_hw, **options)
    assert plan.resized_hw == resized_hw
    assert plan.pad_tblr == pad_tblr
    assert plan.scale_wh == pytest.approx(scale_wh, abs=1e-12)
    padded = F.letterbox_image(np.zeros((*image_hw, 3), np.uint8), plan, 114)
    assert padded.shape == (*canvas_hw, 3)
    top, bottom, left, right = pad_tblr
    inside = padded[top : canvas_hw[0] - bottom, left : canvas_hw[1] - right]
    assert inside.max(initial=0) == 0
    assert (padded == 114).sum() == padded.size - inside.size


def test_letterbox_boxes_follow_and_are_clipped():
    plan = F.plan_letterbox((480, 640), (320, 320), (320, 320), centred=True)  # halved, 40 rows above
    boxes = np.array([[0, 0, 640, 480], [10, 20, 30, 60], [600, 400, 700, 500]], np.float32)
    expected = [[0, 40, 320, 280], [5, 50, 15, 70], [300, 240, 320, 280]]
    np.testing.assert_array_equal(F.letterbox_boxes(boxes, plan), expected)
    assert F.letterbox_boxes(boxes[:0], plan).shape == (0, 4)


def test_identity_and_whole_pixel_shifts_are_exact():
    image = np.random.RandomState(0).randint(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(F.warp_image(image, np.eye(3), (20, 30), 114), image)
    shift = np.array([[1.0, 0, 7], [0, 1, -3], [0, 0, 1]])
    warped = F.warp_image(image, shift, (20, 30), 114)
    np.testing.assert_array_equal(warped[:17, 7:], image[3:, :23])
    assert (warped[17:] == 114).all() and (warped[:, :7] == 114).all()


@pytest.mark.parametrize('factor', [2, 0.5])
def test_warp_shares_the_convention_of_resize(factor):
    """Were one of them to count from pixel centres, the images would be half a source pixel apart."""
    image = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 256, (40, 60, 3), dtype=np.uint8), (5, 5), 0)
    size_hw = (int(40 * factor), int(60 * factor))
    warped = F.warp_image(image, np.diag([factor, factor, 1.0]), size_hw, 114)
    resized = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    difference = np.abs(warped.astype(int) - resized)[2:-2, 2:-2]  # the border blends with the padding
    assert difference.max() <= 2


def test_positive_angle_turns_clockwise_about_the_centre():
    image = np.random.RandomState(0).randint(0, 256, (20, 30, 3), dtype=np.uint8)
    matrix = F.affine_about_centre((20, 30), (30, 20), degrees=90)
    np.testing.assert_array_equal(F.warp_image(image, matrix, (30, 20), 114), np.rot90(image, -1))


def test_affine_by_hand():
    # Centre (30, 20) -> (50 + 0.1 * 100, 25 - 0.2 * 50) = (60, 15); the point (34, 22) lies at (4, 2) from it.
    # Doubled (8, 4); shear x by 45 degrees adds y to x: (12, 4); shear y none. So (72, 19).
    matrix = F.affine_about_centre((40, 60), (50, 100), scale=2, shear_xy=(45, 0), shift_xy=(0.1, -0.2))
    np.testing.assert_allclose(matrix @ [30, 20, 1], [60, 15, 1], atol=1e-9)
    np.testing.assert_allclose(matrix @ [34, 22, 1], [72, 19, 1], atol=1e-9)
    # Shear y by 45 degrees adds x to y: (4, 2) -> (4, 6).
    matrix = F.affine_about_centre((40, 60), (40, 60), shear_xy=(0, 45))
    np.testing.assert_allclose(matrix @ [34, 22, 1], [34, 26, 1], atol=1e-9)


def test_warped_boxes_against_a_loop_over_corners():
    rng = np.random.RandomState(0)
    low = rng.uniform(0, 50, (40, 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 30, (40, 2))), axis=1)
    matrix = F.affine_about_centre((60, 80), (64, 64), scale=0.7, degrees=33, shear_xy=(8, -5), shift_xy=(0.1, 0))
    expected = []
    for x1, y1, x2, y2 in boxes:
        xs, ys = [], []
        for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
            xs.append(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2])
            ys.append(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2])
        expected.append([min(xs), min(ys), max(xs), max(ys)])
    np.testing.assert_allclose(F.warp_boxes(boxes, matrix), expected, atol=1e-9)
    assert F.warp_boxes(boxes[:0], matrix).shape == (0, 4)


@pytest.mark.parametrize(
    ('whole', 'seen', 'kept'),
    [
        # Both sides over 2 px.
        ((0, 0, 2, 9), (0, 0, 2, 9), False),
        ((0, 0, 9, 2), (0, 0, 9, 2), False),
        ((0, 0, 2.01, 9), (0, 0, 2.01, 9), True),
        ((0, 0, 9, 2.01), (0, 0, 9, 2.01), True),
        # 100 x 10 of which 10 columns are a tenth, 10.1 are more.
        ((-90, 0, 10, 10), (0, 0, 10, 10), False),
        ((-89.9, 0, 10.1, 10), (0, 0, 10.1, 10), True),
        # 300 / 3 = 100 is no longer under 100; either way round.
        ((0, 0, 300, 3), (0, 0, 300, 3), False),
        ((0, 0, 3, 300), (0, 0, 3, 300), False),
        ((0, 0, 299, 3), (0, 0, 299, 3), True),
        # Outside, clipped to nothing.
        ((-20, 0, -5, 10), (0, 0, 0, 10), False),
        ((5, 5, 5, 5), (5, 5, 5, 5), False),
    ],
)
def test_box_filter(whole, seen, kept):
    sides = [F.box_sides(np.array([box], np.float32)) for box in (whole, seen)]
    assert F.keep_boxes(*sides).tolist() == [kept]


def test_box_filter_of_nothing():
    assert F.box_sides(np.zeros((0, 4))).shape == (2, 0)
    assert F.keep_boxes(np.zeros((2, 0)), np.zeros((2, 0))).shape == (0,)
    # A box of no area is not seen, even whole.
    assert not F.mostly_seen(np.array([[0.0], [6]]), np.array([[0.0], [6]])).any()


def test_tiles_by_hand():
    # Canvas 8 x 8, point (x, y) = (3, 5), images 4 x 4, the last 2 rows x 6 columns.
    tiles = T.place_tiles([(4, 4), (4, 4), (4, 4), (2, 6)], (3, 5), (8, 8))
    assert tiles[0] == ((0, 1, 3, 5), (-1, 1))
    assert tiles[1] == ((3, 1, 7, 5), (3, 1))
    assert tiles[2] == ((0, 5, 3, 8), (-1, 5))
    assert tiles[3] == ((3, 5, 8, 7), (3, 5))
    canvas = T.compose_tiles([np.full((*hw, 3), k, np.uint8) for k, hw in enumerate([(4, 4)] * 3 + [(2, 6)])], tiles,
                             (0, 0, 8, 8), 9)  # fmt: skip
    expected = [
        [9, 9, 9, 9, 9, 9, 9, 9],
        *[[0, 0, 0, 1, 1, 1, 1, 9]] * 4,
        *[[2, 2, 2, 3, 3, 3, 3, 3]] * 2,
        [2, 2, 2, 9, 9, 9, 9, 9],
    ]
    np.testing.assert_array_equal(canvas[..., 0], expected)


@pytest.mark.parametrize(
    'gain', [(1, 1, 1), (1039 / 1024, 307 / 1024, 1.375), (1009 / 1024, 1.75, 0.625), (1.5, 1.25, 1.25), (2, 1, 1)]
)
def test_colour_against_the_formula(gain):
    image = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    hue, saturation, value = (
        channel.astype(np.float64) for channel in cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    )
    hue = np.round(hue * gain[0])
    hue = hue % 180 if hue.max() > 255 else hue  # OpenCV reads 181 as 1
    saturation, value = (np.minimum(np.round(c * g), 255) for c, g in ((saturation, gain[1]), (value, gain[2])))
    expected = cv2.cvtColor(cv2.merge((hue, saturation, value)).astype(np.uint8), cv2.COLOR_HSV2BGR)
    np.testing.assert_array_equal(C.scale_hsv(image, gain), expected)


def test_hues_go_round():
    """181 is the colour of 1, up to the rounding of OpenCV: what products of hues rely on."""
    colours = np.stack(np.meshgrid(np.arange(76), np.arange(0, 256, 5), np.arange(0, 256, 5)), -1).astype(np.uint8)
    first = cv2.cvtColor(colours.reshape(76, -1, 3), cv2.COLOR_HSV2BGR).astype(int)
    again = cv2.cvtColor((colours + np.array([180, 0, 0], np.uint8)).reshape(76, -1, 3), cv2.COLOR_HSV2BGR)
    assert np.abs(first - again).max() <= 1


def test_determinant():
    """det(Sh R) = scale^2 (1 - tan a tan b)."""
    matrix = F.affine_about_centre((50, 50), (50, 50), scale=1.5, degrees=20, shear_xy=(10, 7))
    expected = 1.5**2 * (1 - math.tan(math.radians(10)) * math.tan(math.radians(7)))
    assert np.linalg.det(matrix) == pytest.approx(expected, abs=1e-12)


def test_gains_are_exact_in_float32():
    """Saturation and value are multiplied by OpenCV in float32: every byte times every gain, as in float64."""
    every_byte = np.zeros((1, 256, 3), np.uint8)
    every_byte[..., 2] = np.arange(256)  # red of that value; its hue is 0, its saturation 255
    for gain in range(2 * C.GAIN_STEPS + 1):
        gain /= C.GAIN_STEPS
        out = C.scale_hsv(every_byte, (1, 1, gain))
        np.testing.assert_array_equal(out[0, :, 2], np.minimum(np.rint(np.arange(256) * gain), 255))
    drawn = C.round_gains(np.random.RandomState(0).uniform(0, 2, 100))
    assert (drawn * 1024 == np.rint(drawn * 1024)).all()
    assert C.round_gains(np.array([1.4, 0.6, 1.0])).tolist() == [1433 / 1024, 615 / 1024, 1]  # 1433.6, 614.4
