"""Files that nobody can do harm with, made when they are asked for.

Small ones, of which each is refused with one sentence.
"""

import functools
import io
import os
import pickle
import struct
import zipfile
from fractions import Fraction
from typing import NamedTuple

import av
import films
import numpy as np

from vimonet_jax.apps import uploads
from vimonet_jax.models import clip_video
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import actions

TOWER = clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8)
LIMITS = uploads.Limits(
  max_motion_bytes=4 << 20,
  max_video_bytes=1 << 20,
  max_seconds=60,
  max_frames=100,
  wait_s=60,
  timeout_s=30,
  memory_bytes=1 << 30,
  at_once=1,
)
MARK = 'opened by a pickle'


@functools.cache
def joints():
  return films.joints(
    actions.Action('walk', direction='forward', speed='slowly')
  )


def npy(array):
  kept = io.BytesIO()
  np.save(kept, array, allow_pickle=True)
  return kept.getvalue()


def npz(**arrays):
  kept = io.BytesIO()
  np.savez_compressed(kept, allow_pickle=True, **arrays)
  return kept.getvalue()


def head(**changes):
  """An .npy of no data that claims to have some."""
  kept = io.BytesIO()
  head = {'descr': '<f8', 'fortran_order': False, 'shape': (9, 22, 3)}
  np.lib.format.write_array_header_1_0(kept, head | changes)
  return kept.getvalue()


def zipped(**members):
  kept = io.BytesIO()
  with zipfile.ZipFile(kept, 'w', zipfile.ZIP_DEFLATED) as packed:
    for name, data in members.items():
      packed.writestr(name, data)
  return kept.getvalue()


def declared(data, size):
  """A zip file whose only member is said to unpack to this many bytes."""
  entry = data.index(b'PK\x01\x02')
  return data[: entry + 24] + struct.pack('<I', size) + data[entry + 28 :]


@functools.cache
def film(name='a.mp4', *, codec='mpeg4', frames=31, sides=(32, 32), step=40):
  """Pictures that change; one each `step` ms."""
  kept = io.BytesIO()
  kind = {'.mp4': 'mp4', '.mkv': 'matroska'}[os.path.splitext(name)[1]]
  with av.open(kept, 'w', format=kind) as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height = sides
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.time_base = Fraction(1, 1000)
    for i in range(frames):
      image = np.full((sides[1], sides[0], 3), 8 * i % 256, np.uint8)
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      frame.pts, frame.time_base = step * i, Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return kept.getvalue()


def gif(width, height):
  """Two pictures of a size that nothing has to be painted for."""
  picture = b'\x2c' + struct.pack('<HHHHB', 0, 0, 1, 1, 0) + b'\x02\x02\x4c\1\0'
  return (
    b'GIF89a'
    + struct.pack('<HHBBB', width, height, 0x80, 0, 0)
    + bytes(6)
    + (b'\x21\xf9\x04\0\x0a\0\0\0' + picture) * 2
    + b';'
  )


def sound():
  kept = io.BytesIO()
  with av.open(kept, 'w', format='mp4') as container:
    stream = container.add_stream('aac', rate=8000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 8000
    for _ in range(8):
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return kept.getvalue()


def bvh(*, frames='2', time='0.05', numbers=None, joints=None):
  """A body without legs or, where `joints` are told, one of so many."""
  tree = (
    'ROOT hips\n{\nOFFSET 0 0 0\nCHANNELS 3 Xrotation Yrotation Zrotation\n'
  )
  if joints:
    tree += 'JOINT a\n{\nOFFSET 0 1 0\nCHANNELS 0\n' * joints + '}\n' * joints
  numbers = '0 0 0\n0 0 0\n' if numbers is None else numbers
  text = f'MOTION\nFrames: {frames}\nFrame Time: {time}\n{numbers}'
  return f'HIERARCHY\n{tree}}}\n{text}'.encode()


def body(**said):
  """A body of position channels, whose frames are those that are given."""
  lines = []

  def add(j):
    kind = 'JOINT' if j else 'ROOT'
    lines.append(f'{kind} {skeleton.NAMES[j]}\n{{\nOFFSET 0 1 0')
    lines.append('CHANNELS 3 Xposition Yposition Zposition')
    for child in np.flatnonzero(np.equal(skeleton.PARENTS, j)):
      add(child)
    lines.append('}')

  add(0)
  return (
    bvh(**said)
    .replace(
      b'CHANNELS 3 Xrotation Yrotation Zrotation\n}',
      b'}',
    )
    .replace(b'ROOT hips\n{\nOFFSET 0 0 0\n}', '\n'.join(lines).encode())
  )


def slow():
  """Seconds of work for whoever reads it."""
  frames = 240_000
  return body(frames=str(frames), numbers='1 ' * 66 * frames)


class Bomb:
  """Leaves a mark where a pickle of it is loaded."""

  def __reduce__(self):
    return os.system, (f'touch "{MARK}"',)


class Hostile(NamedTuple):
  """What somebody sends.

  Attributes:
    medium: it is said to be.
    name: it has.
    data: function that makes it.
    gist: of the sentence that refuses it.
    said: more about it.
  """

  medium: str
  name: str
  data: object
  gist: str
  said: dict = {}


def damaged_joints(value):
  damaged = joints().copy()
  damaged[7, 3, 1] = value
  return npy(damaged)


def damaged_features():
  made = features.encode(joints())
  made[7, 200] = 1e38
  return made


FILES = {
  # Paths
  'up the tree': Hostile(
    'motion', '../../../etc/passwd', lambda: b'x', 'without an ending'
  ),
  'a program at the end of a path': Hostile(
    'motion', 'a.bvh/../../../b.exe', lambda: b'x', 'found .exe'
  ),
  'a path cut by a zero byte': Hostile(
    'motion', '/etc/passwd\0.bvh', lambda: b'root', 'begins with HIERARCHY'
  ),
  'an endless ending': Hostile(
    'video', 'a.' + '\u202e\n' * 9999, lambda: b'x', 'called .mp4'
  ),
  'members that would be unpacked elsewhere': Hostile(
    'motion', 'a.npz',
    lambda: zipped(**{'../../evil.npy': npy(np.ones(3))}),
    'expected joints [T, 22, 3]',
  ),
  # Much in little
  'gigabytes by the list of a zip': Hostile(
    'motion', 'a.npz',
    lambda: declared(zipped(**{'joints.npy': npy(joints())}), 2**32 - 2),
    'found 1 of 4096 MiB',
  ),
  'more in a zip than its list says': Hostile(
    'motion', 'a.npz',
    lambda: declared(zipped(**{'joints.npy': npy(joints())}), 999),
    'damaged or truncated',
  ),
  'many zeros': Hostile(
    'motion', 'a.npz',
    lambda: npz(joints=np.zeros((2**20, 22, 3), np.uint8)),
    'read in 1024 MiB of memory',
    {'fps': 20},
  ),
  'many arrays': Hostile(
    'motion', 'a.npz',
    lambda: zipped(**{f'{i}.npy': b'' for i in range(5000)}),
    'found 5000 of',
  ),
  'a zip in a zip': Hostile(
    'motion', 'a.npz',
    lambda: zipped(**{'a.zip': zipped(b='c')}),
    'no array at all',
  ),
  'more than may be sent': Hostile(
    'motion', 'a.npy', lambda: bytes((4 << 20) + 1), 'at most 4194304 bytes'
  ),
  'nothing': Hostile('video', 'a.mp4', lambda: b'', 'found an empty file'),
  # Other than they are called
  'a video as a motion': Hostile('motion', 'a.bvh', film, 'HIERARCHY'),
  'a motion as another': Hostile('motion', 'a.npz', bvh, 'begins with'),
  'a text as a video': Hostile(
    'video', 'a.mp4', lambda: b'hello\n' * 99, 'something else by another name'
  ),
  'a zip as a video': Hostile(
    'video', 'a.avi', lambda: zipped(a='b'), 'something else by another name'
  ),
  'an .amc without its .asf': Hostile(
    'motion', 'a.amc', lambda: b'x', 'found .amc'
  ),
  # Videos
  'one picture': Hostile(
    'video', 'a.mp4', lambda: film(frames=1),
    'found 1; a picture does not move',
  ),
  'ten hours by their head': Hostile(
    'video', 'a.mkv', lambda: film('a.mkv', frames=3, step=18_000_000),
    'found 36000 s by its head',
  ),
  'too many frames': Hostile(
    'video', 'a.mp4', lambda: film(frames=101), '2 to 100 frames, found 101'
  ),
  'a picture of gigabytes': Hostile(
    'video', 'a.gif', lambda: gif(65535, 65535), 'size that there can be'
  ),
  'a picture larger than any screen': Hostile(
    'video', 'a.gif', lambda: gif(8000, 8000), 'found 8000 x 8000'
  ),
  'a picture that is a line': Hostile(
    'video', 'a.gif', lambda: gif(9000, 1), 'found 9000 x 1'
  ),
  'half a video': Hostile(
    'video', 'a.mp4', lambda: film()[: len(film()) // 2], 'whole video'
  ),
  'a video of noise': Hostile(
    'video', 'a.mp4',
    lambda: film()[:40] + np.random.default_rng(0).bytes(9999),
    'whole video',
  ),
  'sound alone': Hostile('video', 'a.mp4', sound, 'found only audio'),
  'a list that names a file of ours': Hostile(
    'video', 'a.mp4', lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    'something else by another name',
  ),
  'a list that names an address': Hostile(
    'video', 'a.mp4', lambda: b'#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n',
    'something else by another name',
  ),
  # Arrays
  'NaN': Hostile(
    'motion', 'a.npy', lambda: damaged_joints(np.nan),
    'found NaN or infinity in 1 of', {'fps': 20},
  ),
  'infinity': Hostile(
    'motion', 'a.npy', lambda: damaged_joints(np.inf),
    'found NaN or infinity in 1 of', {'fps': 20},
  ),
  'features without end': Hostile(
    'motion', 'a.npy', lambda: npy(np.full((60, 263), 1e300)),
    'expected features in metres',
  ),
  'a feature without end': Hostile(
    'motion',
    'a.npy',
    lambda: npy(damaged_features()),
    'found 1e+38',
  ),
  'a pickle in an array': Hostile(
    'motion', 'a.npy', lambda: npy(np.array([Bomb()])),
    'pickled Python objects, which are never loaded',
  ),
  'a pickle in a zip': Hostile(
    'motion', 'a.npz', lambda: npz(poses=np.array([Bomb()])),
    'pickled Python objects, which are never loaded',
  ),
  'a pickle by another name': Hostile(
    'motion', 'a.npy', lambda: pickle.dumps(Bomb()), 'begins with'
  ),
  'a shape that no memory has': Hostile(
    'motion', 'a.npy', lambda: head(shape=(10**13, 22, 3)), 'fit into memory'
  ),
  'a shape of less than nothing': Hostile(
    'motion', 'a.npy', lambda: head(shape=(-1, 22, 3)), 'damaged or truncated'
  ),
  'elements of gigabytes': Hostile(
    'motion', 'a.npy', lambda: head(descr='|V2147483647'), 'expected'
  ),
  'a head that is a program': Hostile(
    'motion', 'a.npy',
    lambda: b'\x93NUMPY\1\0' + struct.pack('<H', 99) + b'(' * 99, 'damaged'
  ),
  'poses of no frames': Hostile(
    'motion', 'a.npz',
    lambda: npz(poses=np.zeros((0, 66)), trans=np.zeros((0, 3)), fps=60),
    'found 0 frames',
  ),
  # BVH
  'a body of 30,000 joints': Hostile(
    'motion', 'a.bvh', lambda: bvh(joints=30_000), 'at most 1000 joints'
  ),
  'brackets all the way': Hostile(
    'motion', 'a.bvh', lambda: b'HIERARCHY\n' + b'{' * 2**21 + b'\nMOTION\n',
    "found '{'",
  ),
  'a million million frames': Hostile(
    'motion', 'a.bvh', lambda: bvh(frames='9' * 12),
    'expected 999999999999 frames of 3 numbers, found 2.0',
  ),
  'frames of ten thousand digits': Hostile(
    'motion', 'a.bvh', lambda: bvh(frames='9' * 9999), 'below MOTION'
  ),
  'a million blank lines': Hostile(
    'motion', 'a.bvh', lambda: b'HIERARCHY' + b'\n' * 2**20, 'MOTION section'
  ),
  'numbers that are none': Hostile(
    'motion', 'a.bvh', lambda: body(frames='30', numbers='nan ' * 66 * 30),
    'found NaN or infinity',
  ),
  'no joint of a body': Hostile(
    'motion', 'a.bvh', bvh, 'among hips; name the joints'
  ),
  'a setting that is a text': Hostile(
    'motion', 'a.bvh', lambda: body(frames='30', numbers='1 ' * 66 * 30),
    'expected up to be', {'up': '\x1b[31m' + 'x' * 99999},
  ),
}  # fmt: skip
