import dataclasses
import fractions
import socket

import numpy as np
import pytest

from vimonet_jax.data import video, video_file

av = pytest.importorskip('av', reason='needs the package av')

FRAMES = 60
# A key frame every 12 frames, three B-frames between any two others.
H264 = {'codec': 'libx264', 'options': {'g': '12', 'bf': '3'}}
OPEN = {'options': {
  'x264-params': 'open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0'
}}  # fmt: skip
HEVC = 'keyint=12:bframes=3:open-gop=1:log-level=none'
MS = fractions.Fraction(1, 1000)


def _write(
  path,
  *,
  codec='libx264',
  options=None,
  rate=25,
  unit=None,
  time=None,
  kind=None,
  **container,
):
  """Noise that moves; `time` gives a frame's, in `unit`s."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (48, 64 + 3 * FRAMES, 3), np.uint8)
  with av.open(str(path), 'w', format=kind, options=container) as out:
    stream = out.add_stream(codec, rate=rate)
    stream.options = options or {}
    stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
    if unit:
      stream.codec_context.time_base = unit
    for i in range(FRAMES):
      image = np.ascontiguousarray(noise[:, 3 * i : 3 * i + 64])
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      if time:
        frame.pts, frame.time_base = time(i), unit
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return path


def _copy(path, to, change, **container):
  """The packets of a video in another file; `change` says which, and how."""
  with (
    av.open(str(path)) as given,
    av.open(str(to), 'w', options=container) as out,
  ):
    stream = out.add_stream_from_template(given.streams.video[0])
    for number, packet in enumerate(given.demux(video=0)):
      if packet.size and change(packet, number):
        packet.stream = stream
        out.mux(packet)
  return to


def _all(path):
  with av.open(str(path)) as container:
    return [
      frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)
    ]


def _choices(number):
  yield video.choose_frames(number, 8)
  yield from ([i] for i in range(0, number, 5))
  yield [number - 1, number // 2, number // 2, number // 2 + 1]


def _check(path, *, seeks: bool):
  """Both roads give the frames of a video; the one from key frames, if sure."""
  frames, packets = _all(path), video_file.scan(path)
  taken = 0
  for chosen in _choices(len(frames)):
    read = video_file.decode_in_order(path, chosen, len(frames), np.copy)[0]
    if seeks:
      assert packets.number == len(frames)
      found = video_file.decode_from_key_frames(path, packets, chosen, np.copy)
      taken += found is not None
      read |= found or {}
    assert set(read) == set(chosen)
    for number, image in read.items():
      np.testing.assert_array_equal(image, frames[number])

    def choose(number, fps, chosen=chosen):
      del fps
      assert number in (packets.number, len(frames))
      return np.minimum(chosen, number - 1).tolist()

    made = video.read_images(path, choose, np.copy)
    for number, image in zip(chosen, made, strict=True):
      np.testing.assert_array_equal(image, frames[number])
  assert taken >= 8 if seeks else not taken
  return frames


@pytest.mark.parametrize(
  ('name', 'made'),
  [
    ('plain.mp4', {'options': {'g': '12', 'bf': '0'}}),
    ('b.mp4', H264),
    ('b.mkv', H264),
    ('open.mp4', OPEN),
    ('open.mkv', OPEN),
    ('hevc.mkv', {'codec': 'libx265', 'options': {'x265-params': HEVC}}),
    ('vp9.webm', {
      'codec': 'libvpx-vp9',
      'options': {
        'g': '12', 'deadline': 'realtime', 'cpu-used': '8',
        'auto-alt-ref': '1', 'lag-in-frames': '10',
      },
    }),
    ('keys.mp4', {'options': {'g': '1'}}),
    ('fragments.mp4', {**H264, 'movflags': 'frag_keyframe+empty_moov'}),
    ('ticks.mp4', {
      **H264,
      'unit': fractions.Fraction(1, 90000),
      'time': lambda i: 7777 + 3003 * i,
    }),
    ('gaps.mp4', {
      **H264,
      'unit': MS,
      'time': lambda i: 40 * i + i % 7 * 3 + 1000 * (i > 30),
    }),
    ('gaps.mkv', {
      **H264,
      'unit': MS,
      'time': lambda i: 40 * i + i % 7 * 3 + 1000 * (i > 30),
    }),
  ],
)  # fmt: skip
def test_frames_are_those_of_decoding_everything(tmp_path, name, made):
  frames = _check(_write(tmp_path / name, **made), seeks=True)
  assert len(frames) == FRAMES
  # Each looks different, so that another one would be seen.
  assert len({image.tobytes() for image in frames}) == FRAMES


def test_a_clip_that_was_cut_behind_a_key_frame_begins_where_it_is_shown(
  tmp_path,
):
  def earlier(packet, number):
    del number
    step = int(fractions.Fraction(1, 25) / packet.time_base)
    packet.pts, packet.dts = packet.pts - 5 * step, packet.dts - 5 * step
    return True

  path = _write(tmp_path / 'a.mp4', **H264)
  cut = _copy(path, tmp_path / 'cut.mp4', earlier, avoid_negative_ts='disabled')
  packets = video_file.scan(cut)
  assert len(packets.packets) == FRAMES
  assert packets.number == FRAMES - 5
  for ours, image in zip(_check(cut, seeks=True), _all(path)[5:], strict=True):
    np.testing.assert_array_equal(ours, image)


def _times_of_decoding(packet, number):
  del number
  packet.pts = packet.dts
  return True


class _FromKey:
  """Keeps what is from the nth key frame on."""

  def __init__(self, number):
    self.left = number

  def __call__(self, packet, number):
    del number
    self.left -= packet.is_keyframe
    return self.left <= 0


@pytest.mark.parametrize(
  ('name', 'made', 'change'),
  [
    # Times are those of decoding, or may be.
    ('b.avi', H264, None),
    ('plain.avi', {'options': {'g': '12', 'bf': '0'}}, None),
    ('dts.mp4', H264, _times_of_decoding),
    # Others do not find a key frame, or say no time.
    ('stream.mp4', {**H264, 'kind': 'mpegts'}, None),
    ('raw.mp4', {**H264, 'kind': 'h264'}, None),
    ('old.mp4', {'codec': 'mpeg2video', 'kind': 'mpeg'}, None),
    ('xvid.avi', {'codec': 'mpeg4', 'options': {'bf': '2'}}, None),
    ('hidden.webm', {
      'codec': 'libvpx',
      'options': {'g': '12', 'auto-alt-ref': '1', 'lag-in-frames': '10'},
    }, None),
    # Matroska counts milliseconds, and some frames have the same.
    ('dense.mkv', {
      'options': {'g': '12', 'bf': '0'},
      'unit': fractions.Fraction(1, 4000),
      'time': lambda i: 2 * i,
    }, None),
    # Frames before the first key frame that need what was cut off.
    ('cut.mkv', OPEN, _FromKey(2)),
    # Key frames that are none: of each frame only a strip.
    ('strips.mp4', {
      'options': {'g': '30', 'x264-params': 'intra-refresh=1'}
    }, None),
  ],
)  # fmt: skip
def test_files_that_are_not_sure_are_decoded_in_order(
  tmp_path, name, made, change
):
  path = _write(tmp_path / (name if change is None else f'a{name}'), **made)
  if change is not None:
    path = _copy(path, tmp_path / name, change)
  frames, packets = _all(path), video_file.scan(path)
  for chosen in _choices(min(len(frames), packets.number)):
    found = video_file.decode_from_key_frames(path, packets, chosen, np.copy)
    assert found is None
  _check(path, seeks=False)


def test_real_videos(shared_data):
  paths = sorted((shared_data / 'videos').glob('*.mp4'))
  assert len(paths) == 8
  parted = set()
  for path in paths:
    packets = video_file.scan(path)
    chosen = video.choose_frames(packets.number, 8)
    found = video_file.decode_from_key_frames(path, packets, chosen, np.copy)
    if found is None:
      continue
    parted.add(path.stem)
    read, decoded = video_file.decode_in_order(
      path, chosen, packets.number, np.copy
    )
    assert decoded == packets.number
    for number, image in read.items():
      np.testing.assert_array_equal(image, found[number])
  # The others have one key frame, and so nothing to go to.
  assert parted == {'hitting_baseball', 'languagebind_0', 'yoga'}


def test_what_contradicts_the_packets_is_decoded_in_order(tmp_path):
  path = _write(tmp_path / 'a.mp4', **H264)
  packets = video_file.scan(path)
  shown = sorted(packet.time for packet in packets.packets)

  def read(some):
    last = [some.number - 1]
    return video_file.decode_from_key_frames(path, some, last, np.copy)

  assert read(packets) is not None
  # Another time than the file has, then a frame more than it has.
  for index, time in ((-1, shown[-1] + 1), (-2, shown[-2] - 1)):
    known = list(packets.packets)
    place = known.index(next(p for p in known if p.time == shown[index]))
    known[place] = known[place]._replace(time=time)
    assert read(dataclasses.replace(packets, packets=tuple(known))) is None
  hidden = [p._replace(is_shown=p.time != shown[-3]) for p in packets.packets]
  assert read(dataclasses.replace(packets, packets=tuple(hidden))) is None


def test_only_what_is_needed_is_decoded(tmp_path):
  path = _write(tmp_path / 'a.mp4', **H264)
  packets = video_file.scan(path)
  parts = video_file._parts(packets, [0, 13, 14, 49])
  assert [part.first for part in parts] == [0, 12, 48]
  assert sum(part.last + 1 - part.first for part in parts) < 18
  # From one key frame there is nothing to pass over.
  assert video_file._parts(packets, [0, 3, 11]) == []


def _playlist(name):
  return f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{name}\n#EXT-X-ENDLIST'


def test_a_file_that_names_others_opens_none_of_them(tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as server:
    server.settimeout(0.2)
    address = f'http://127.0.0.1:{server.getsockname()[1]}/a.ts'
    other = _write(tmp_path / 'other.ts', kind='mpegts')
    for text in (
      f"ffconcat version 1.0\nfile '{other.name}'\n",
      "ffconcat version 1.0\nfile '/etc/passwd'\n",
      f"ffconcat version 1.0\nfile '{address}'\n",
      _playlist(other.name),
      _playlist('/etc/passwd'),
      _playlist(address),
      f'v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\n'
      f't=0 0\nm=video 5004 RTP/AVP 96\na=control:{address}\n',
    ):
      path = tmp_path / 'a.mp4'
      path.write_text(text)
      with pytest.raises(video_file.VideoFileError, match='something else by'):
        video_file.scan(path)
    with pytest.raises(TimeoutError):
      server.accept()


def test_a_picture_larger_than_any_video_has_is_not_made_room_for(
  tmp_path, monkeypatch
):
  path = _write(tmp_path / 'a.mp4', **H264)
  monkeypatch.setattr(video_file, '_MOST_PIXELS', 64 * 48 - 1)
  with pytest.raises(video_file.VideoFileError, match='expected a whole video'):
    video_file.decode_in_order(path, [0], FRAMES, np.copy)
