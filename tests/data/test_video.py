import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.data import video, video_file
from vimonet_jax.models import clip_video

av = pytest.importorskip('av', reason='needs the package av')


def _write(
  path, images, *, codec='libx264', pix_fmt='yuv420p', preset=None, **options
):
  """Writes uint8 images [N, H, W, 3] at 10 frames a second."""
  with av.open(str(path), 'w', options=options) as container:
    stream = container.add_stream(codec, rate=10)
    stream.options = {'preset': preset} if preset else {}
    stream.height, stream.width = images.shape[1:3]
    stream.pix_fmt = pix_fmt
    for image in images:
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def _steps(number, height=64, width=64):
  """Images that tell their number by how bright they are."""
  levels = np.linspace(20, 235, number).astype(np.uint8)
  return np.broadcast_to(
    levels[:, None, None, None], (number, height, width, 3)
  ).copy()


def _numbers(clip, images):
  """Which of `images` the frames of a clip are."""
  levels = images[:, 0, 0, 0].astype(float)
  means = clip.mean(axis=(1, 2, 3))
  return np.abs(means[:, None] - levels).argmin(axis=1).tolist()


@pytest.fixture
def clip(tmp_path):
  images = _steps(30)
  return _write(tmp_path / 'clip.mp4', images), images


def _reference(frames_HW3, size):
  """What the reference makes of a frame, but for normalisation, in torch."""
  torch = pytest.importorskip('torch', reason='compares with torch')
  x = torch.from_numpy(frames_HW3).permute(2, 0, 1)[None].float()
  height, width = x.shape[2:]
  if width < height:
    shape = (int(np.floor(float(height) / width * size)), size)
  else:
    shape = (size, int(np.floor(float(width) / height * size)))
  x = torch.nn.functional.interpolate(
    x, size=shape, mode='bilinear', align_corners=False
  )
  top, left = (int(round((side - size) / 2.0)) for side in shape)
  x = x[0, :, top : top + size, left : left + size]
  return x.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
  ('number', 'expected'),
  [
    (30, [0, 4, 8, 12, 16, 20, 24, 29]),
    (100, [0, 14, 28, 42, 56, 70, 84, 99]),
    (3, [0, 0, 0, 0, 1, 1, 1, 2]),
    (1, [0] * 8),
  ],
)
def test_frames_are_chosen_as_the_reference_does(number, expected):
  assert video.choose_frames(number, 8) == expected


@pytest.mark.parametrize(
  ('height', 'width', 'size'),
  [(90, 160, 48), (161, 90, 48), (60, 60, 48), (30, 41, 48), (91, 48, 48)],
)
def test_resize_and_crop_agree_with_torch(height, width, size):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  found = video.square(image, size)
  assert found.shape == (size, size, 3)
  assert found.dtype == np.uint8
  # Half a level is the rounding to uint8.
  difference = found - _reference(image, size)
  assert np.abs(difference).max() <= 0.5 + 1e-3


def _normalised(frames, size):
  return video.normalised(
    frames, size, mean=clip_video.PIXEL_MEAN, std=clip_video.PIXEL_STD
  )


def _as_the_tower_does(frames):
  mean_3 = np.float32(clip_video.PIXEL_MEAN)
  std_3 = np.float32(clip_video.PIXEL_STD)
  return (frames / np.float32(255) - mean_3) / std_3


# What half a level is to a normalised pixel, and float32.
HALF_A_LEVEL = 0.5 / 255 / min(clip_video.PIXEL_STD) + 1e-5


def test_preprocessing_agrees_with_the_reference(shared_data):
  data = np.load(shared_data / 'parity' / 'preprocess_io.npz')
  names = [name for name in data if name.startswith('frames_')]
  assert len(names) == 3
  for name in names:
    # [3, I, H, W]; of these, float16 keeps 3 to 4 digits.
    expected = data[name.replace('frames', 'pixels')].transpose(1, 2, 3, 0)
    found = _normalised(data[name], 224)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    rounded = _as_the_tower_does(video.square(data[name][0], 224))
    error = np.abs(rounded - expected[0]).max()
    assert 2e-3 < error <= HALF_A_LEVEL + 1e-3


@pytest.mark.parametrize(('height', 'width'), [(90, 160), (91, 60)])
def test_normalising_first_is_normalising_last(height, width):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, height, width, 3), np.uint8)
  found = _normalised(frames, 48)
  for pixels, image in zip(found, frames, strict=True):
    expected = _reference(_as_the_tower_does(image), 48)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-4)


def test_only_rounding_is_between_the_two_roads():
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 50, 70, 3), np.uint8)
  squares = np.stack([video.square(image, 48) for image in frames])
  found = _normalised(frames, 48)
  error = np.abs(found - _as_the_tower_does(squares))
  assert 0 < error.max() <= HALF_A_LEVEL
  # Nothing to resize, nothing to round.
  np.testing.assert_array_equal(
    _normalised(squares, 48), _as_the_tower_does(squares)
  )


def test_antialiasing_sees_every_pixel():
  image = np.zeros((480, 480, 3), np.uint8)
  image[:, ::10] = 200  # A tenth of the columns, each one pixel wide.
  assert video.square(image, 48).mean() in (0.0, 100.0, 200.0)
  assert video.square(image, 48, antialias=True).mean() == pytest.approx(
    20, abs=1
  )


def test_a_clip_is_spread_over_the_whole_video(clip):
  path, images = clip
  found = video.read_clip(path, size=32)
  assert found.shape == (8, 32, 32, 3)
  assert found.dtype == np.uint8
  assert _numbers(found, images) == [0, 4, 8, 12, 16, 20, 24, 29]
  assert video.read_clip(path, size=32, frames=3).shape[0] == 3


def test_a_short_video_repeats_frames(tmp_path):
  images = _steps(3)
  found = video.read_clip(_write(tmp_path / 'a.mp4', images), size=32)
  assert _numbers(found, images) == [0, 0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('a.webm', {'codec': 'libvpx'}),
    ('a.gif', {'codec': 'gif', 'pix_fmt': 'rgb8'}),
    ('a.mov', {}),
    ('A.MP4', {}),
    ('fragments.mp4', {'movflags': 'frag_keyframe+empty_moov'}),
  ],
)
def test_other_containers(tmp_path, name, options):
  images = _steps(12)
  path = _write(tmp_path / name, images, **options)
  found = video.read_clip(path, size=32)
  assert _numbers(found, images) == video.choose_frames(12, 8)


def test_seconds_cut_a_clip(clip):
  path, images = clip
  found = video.read_clip(path, size=32, frames=3, start_s=1.0, end_s=2.0)
  assert _numbers(found, images) == [10, 15, 20]
  found = video.read_clip(path, size=32, frames=2, start_s=1.0)
  assert _numbers(found, images) == [10, 29]
  found = video.read_clip(path, size=32, frames=2, end_s=99.0)
  assert _numbers(found, images) == [0, 29]
  message = r'3\.0 seconds.*9\.0 to 10'
  with pytest.raises(video_file.VideoFileError, match=message):
    video.read_clip(path, start_s=9.0, end_s=10.0)


def test_a_rule_chooses_frames_in_any_order(clip, tmp_path):
  path, images = clip
  asked = []

  def choose(number, fps):
    asked.append((number, fps))
    return [29, 0, 7, 7]

  found = video.read_chosen(path, choose, size=32)
  assert asked == [(30, 10.0)]
  assert _numbers(found, images) == [29, 0, 7, 7]
  for i, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f'{i}.png')
  path.unlink()
  found = video.read_chosen(tmp_path, choose, size=32)
  assert asked[1:] == [(30, 0.0)]
  assert _numbers(found, images) == [29, 0, 7, 7]


@pytest.mark.parametrize('chosen', [[0, 30], [-1, 3], []])
def test_frames_that_a_clip_does_not_have_are_refused(clip, chosen):
  message = f'indices of 0 to 29, found {re.escape(str(chosen or "none"))}'
  with pytest.raises(video_file.VideoFileError, match=message):
    video.read_chosen(clip[0], lambda number, fps: chosen)


def test_decoded_frames_count_and_not_packets(clip, monkeypatch):
  path, images = clip
  expected = video.read_clip(path, size=32)
  for wrong in (50, 20):
    packets = (video_file.Packet(None, True, True),) * wrong
    found = video_file.Packets(packets, fps=10.0, are_frames=False)
    monkeypatch.setattr(video_file, 'scan', lambda path, found=found: found)
    np.testing.assert_array_equal(video.read_clip(path, size=32), expected)


def test_a_turned_phone_gives_an_upright_picture(tmp_path):
  images = _steps(4, 64, 96)
  images[:, :, :48] = [220, 20, 20]
  path = _write(tmp_path / 'a.mp4', images)
  data = path.read_bytes()
  one, minus = b'\0\1\0\0', b'\xff\xff\0\0'
  zero = bytes(4)
  upright = one + zero * 3 + one
  turned = zero + one + zero + minus + zero  # A quarter turn clockwise.
  track = data.index(b'tkhd')
  at = data.index(upright, track)
  path.write_bytes(data[:at] + turned + data[at + len(turned) :])
  found = video.read_clip(path, size=32)
  red = found[0, :, :, 0].astype(int) - found[0, :, :, 1]
  assert red[:12].min() > 100  # What was left is up.
  assert red[20:].max() < 50


def test_a_folder_of_images_is_in_the_order_of_its_numbers(tmp_path):
  images = _steps(12, 40, 60)
  for i, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f'frame{i}.png')
  (tmp_path / 'notes.txt').write_text('not an image')
  (tmp_path / '._frame3.png').write_text('what macOS leaves behind')
  found = video.read_clip(tmp_path, size=32)
  assert found.shape == (8, 32, 32, 3)
  assert _numbers(found, images) == video.choose_frames(12, 8)
  with pytest.raises(video_file.VideoFileError, match='no clock|by seconds'):
    video.read_clip(tmp_path, start_s=1.0)


@pytest.mark.parametrize('order', ['<u2', '>u2'])
def test_images_of_16_bits_are_as_bright_as_they_should_be(tmp_path, order):
  levels = np.array([0, 100, 200, 255], np.uint16).repeat(8)
  image = np.broadcast_to(levels * 257, (32, 32)).astype(order)
  suffix = {'<u2': 'png', '>u2': 'tiff'}[order]
  Image.fromarray(image).save(tmp_path / f'0.{suffix}')
  (tmp_path / f'0.{suffix}').rename(tmp_path / '0.png')
  found = video.read_clip(tmp_path, size=32, frames=1)
  np.testing.assert_array_equal(found[0, 0, :, 0], levels)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
  Image.fromarray(_steps(1)[0]).save(tmp_path / '0.png')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 64 * 64 // 2 - 1)
  message = r'0\.png: expected an image of at most 4094 pixels, found a larger'
  with pytest.raises(video_file.VideoFileError, match=message):
    video.read_clip(tmp_path)


def test_files_that_are_no_video_say_so(tmp_path, clip):
  def message(name, content=None):
    path = tmp_path / name
    if content is not None:
      path.write_bytes(content)
    with pytest.raises(video_file.VideoFileError) as error:
      video.read_clip(path)
    text = str(error.value)
    assert name in text
    assert '\n' not in text
    return text

  data = clip[0].read_bytes()
  assert 'no such file' in message('missing.mp4')
  assert 'Invalid data' in message('renamed.mp4', b'just a text file\n' * 99)
  assert 'found a name with .txt' in message('a.txt', b'just text\n' * 99)
  assert 'no ending' in message('noending', data)
  assert 'Invalid data' in message('cut.mp4', data[: len(data) // 2])
  assert '(0 bytes)' in message('empty.mp4', b'')
  assert '(0 bytes)' in message('empty.gif', b'')
  assert 'one image; give the folder' in message('one.png', b'')
  (tmp_path / 'folder').mkdir()
  assert 'an empty folder' in message('folder')
  (tmp_path / 'folder' / 'clip.mp4').write_bytes(data)
  assert 'found clip.mp4' in message('folder')
  (tmp_path / 'folder' / 'a.png').write_bytes(b'not an image')
  message = r'a\.png: expected an image'
  with pytest.raises(video_file.VideoFileError, match=message):
    video.read_clip(tmp_path / 'folder')


def test_a_video_cut_off_after_its_head_is_damaged(tmp_path):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (40, 64, 64, 3), np.uint8)  # Much to store.
  path = _write(tmp_path / 'a.mp4', noise, movflags='faststart')
  path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
  with pytest.raises(video_file.VideoFileError, match='inside frame 24'):
    video.read_clip(path)


def test_sound_alone_is_no_video(tmp_path):
  path = tmp_path / 'a.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=44100, layout='mono')
    silence = np.zeros((1, 1024), np.float32)
    frame = av.AudioFrame.from_ndarray(silence, format='fltp', layout='mono')
    frame.sample_rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with pytest.raises(video_file.VideoFileError, match='found only audio'):
    video.read_clip(path)


def test_the_head_tells_duration_and_rate_without_a_frame(clip, tmp_path):
  path, _ = clip
  assert video.read_head(path) == pytest.approx((3.0, 10.0))
  path.write_bytes(b'no video')
  with pytest.raises(video_file.VideoFileError, match='expected a whole video'):
    video.read_head(path)
  with pytest.raises(video_file.VideoFileError, match='found no such file'):
    video.read_head(tmp_path / 'nowhere.mp4')
  with pytest.raises(video_file.VideoFileError, match='expected images'):
    video.read_head(tmp_path)
  Image.new('RGB', (2, 2)).save(tmp_path / '0.png')
  assert video.read_head(tmp_path) == (0.0, 0.0)


# In a process of its own: the most that this one ever took is that of any test.
_MEMORY = """
import resource, sys
from vimonet_jax.data import video
for path in sys.argv[1:]:
  video.read_clip(path)
  print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_video(tmp_path):
  images = np.broadcast_to(_steps(1, 720, 1280), (100, 720, 1280, 3))
  paths = [
    _write(tmp_path / f'{number}.mp4', images[:number], preset='ultrafast')
    for number in (10, 100)
  ]
  run = [sys.executable, '-c', _MEMORY, *map(str, paths)]
  short, long = map(int, subprocess.check_output(run, text=True).split())
  # 90 more frames would be 240 MiB as RGB, 120 MiB as decoded.
  assert long - short < 40 * 1024


def test_real_videos(shared_data):
  for path in sorted((shared_data / 'videos').glob('*.mp4')):
    found = video.read_clip(path, size=48)
    assert found.shape == (8, 48, 48, 3)
    assert found.std() > 5


def test_a_container_that_claims_no_frames_is_decoded_to_its_last(shared_data):
  path = shared_data / 'videos' / 'languagebind_0.mp4'
  with av.open(str(path)) as container:
    assert container.streams.video[0].frames == 0
    frames = [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
  assert len(frames) == 245
  found = video.read_clip(path)
  chosen = [frames[i] for i in video.choose_frames(245, 8)]
  for ours, image in zip(found, chosen, strict=True):
    np.testing.assert_array_equal(ours, video.square(image, 224))
  # What the docstring of `square` says of rounding.
  error = _normalised(chosen, 224) - _as_the_tower_does(found)
  assert np.abs(error).max() <= HALF_A_LEVEL < 0.0076
  assert 0.0007 < np.sqrt(np.mean(error**2)) < 0.0040
