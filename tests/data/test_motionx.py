import moving_bodies
import numpy as np
import pytest

from vimonet_jax.data import (
  builder,
  dataset,
  kin,
  motionx,
  sources,
  survey,
  video,
)
from vimonet_jax.motion import features, readers, smpl

WALK = 'idea400/subset_0001/Walk_clip_1'
BALLET = 'aist/Dance_Ballet_clip_2'


def _vectors(num_frames, *, seed=0, poses=None, trans=None):
  """float32 [T, 322] of which hands, face and shape are arbitrary."""
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(num_frames, 322))
  steps = rng.normal(scale=0.01, size=(num_frames, 69)).cumsum(axis=0)
  vectors[:, :66] = steps[:, :66] if poses is None else poses
  vectors[:, 309:312] = steps[:, 66:] if trans is None else trans
  vectors[:, 312:] = vectors[0, 312:]
  return vectors.astype(np.float32)


def _joints(vectors):
  """Joints of HumanML3D's body, still at the rate of the file."""
  arrays = {'poses': vectors[:, :66], 'trans': vectors[:, 309:312]}
  return smpl.from_poses(arrays).joints_TJ3


def _save(root, name, vectors, text='A person walks.\n', *, labels='labels'):
  motion = root / 'motion_data/smplx_322' / f'{name}.npy'
  said = root / f'texts/semantic_{labels}' / f'{name}.txt'
  for path in (motion, said):
    path.parent.mkdir(parents=True, exist_ok=True)
  np.save(motion, vectors)
  said.write_text(text)


def _film(path, frames=60, *, fps=30):
  """A video that gets brighter."""
  av = pytest.importorskip('av', reason='needs the package av')
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=fps)
    stream.height = stream.width = 32
    stream.pix_fmt = 'yuv420p'
    for level in np.linspace(20, 235, frames):
      image = np.full((32, 32, 3), level, np.uint8)
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _split(root, **splits):
  for split, names in splits.items():
    (root / f'{split}.txt').write_text('\n'.join(names) + '\n')


@pytest.fixture
def folder(tmp_path):
  """Motion-X's folders with one of everything."""
  _save(tmp_path, WALK, _vectors(90))
  _save(tmp_path, BALLET, _vectors(121), 'Dance_Ballet_clip_2')
  _save(
    tmp_path, 'humanml/M000820', _vectors(91),
    'a man waves.#x#0.0#0.0\nhe stops.#x#0.5#3.0\n', labels='label',
  )  # fmt: skip
  _save(tmp_path, 'fitness/Jump', _vectors(75), 'He jumps.\n\nUp, down.\n')
  _save(tmp_path, 'music/short', _vectors(50))
  _save(tmp_path, 'music/long', _vectors(400))
  damaged = _vectors(90)
  damaged[5, 10] = np.nan
  _save(tmp_path, 'music/damaged', damaged)
  _save(tmp_path, 'music/narrow', _vectors(90)[:, :321])
  _save(tmp_path, 'music/silent', _vectors(90), '\n')
  _split(
    tmp_path,
    train=[WALK, BALLET, 'music/short', 'music/narrow'],
    val=['humanml/M000820', 'music/long', 'music/damaged'],
    test=['fitness/Jump', 'music/silent', 'music/nowhere'],
  )
  return tmp_path


def _source(folder, **others):
  return motionx.MotionX(str(folder), 'research', image_size=16, **others)


def test_whatever_is_named_is_a_clip_or_left_out_for_a_reason(folder):
  source = _source(folder)
  splits = source.splits()
  ids = {split: [clip.id for clip in clips] for split, clips in splits.items()}
  assert ids == {
    'train': [WALK, BALLET],
    'val': ['humanml/M000820', 'humanml/M000820_10-60'],
    'test': ['fitness/Jump'],
  }
  text = survey.text([source.survey()])
  rows = [' '.join(line.split()) for line in text.splitlines()[:4]]
  assert rows == [
    'source split present missing unreadable left out turns',
    'motionx train 2 0 1 1 2',
    'motionx val 2 0 1 1 2',
    'motionx test 1 2 0 0 2',
  ]
  assert 'videos of these: present: none; missing: 5 (' in text
  assert 'missing: 2 (music/silent music/nowhere; the first: no caption in' in (
    text
  )
  assert 'music/narrow.npy: expected [2 or more, 322]' in text


def test_joints_are_interpolated_to_20_fps(folder):
  source = _source(folder)
  clip = source.splits()['train'][0]
  record = source.make(clip)
  joints = readers.resample(_joints(_vectors(90)), 30.0)
  assert len(joints) == 60
  np.testing.assert_allclose(record.joints, joints[:57], atol=1e-6)
  # Two of three frames at 20 fps lie between frames at 30.
  np.testing.assert_allclose(joints[::2], _joints(_vectors(90))[::3], atol=1e-9)
  motion = features.encode(joints.astype(np.float32))
  np.testing.assert_allclose(record.motion, motion[:56], atol=1e-6)
  assert record.frames is None
  assert record.provenance == {
    'licence': 'research', 'file': clip.file, 'frames': [0, 59]
  }  # fmt: skip


@pytest.mark.parametrize(
  ('column', 'is_damaged'),
  [(0, True), (65, True), (66, False), (308, False), (309, True), (321, True)],
)
def test_only_what_is_used_can_be_damaged(tmp_path, column, is_damaged):
  vectors = _vectors(90)
  vectors[40, column] = np.inf
  _save(tmp_path, WALK, vectors)
  _save(tmp_path, 'music/sound', _vectors(90))
  _split(tmp_path, train=[WALK, 'music/sound'])
  there, _ = motionx.look(tmp_path)
  assert there.of('damaged') == (WALK,) * is_damaged


def test_real_motion_comes_back(tmp_path, shared_data):
  """BABEL's sequence 919, with rotations fitted to HumanML3D's body."""
  seen = np.load(shared_data / 'babel_segments' / '919_joints_30fps.npy')[:150]
  poses = moving_bodies.poses(seen)
  _save(tmp_path, WALK, _vectors(150, poses=poses, trans=seen[:, 0]))
  _split(tmp_path, train=[WALK])
  there, _ = motionx.look(tmp_path)
  record = _source(tmp_path).make(there.splits['train'][0])
  expected = features.encode(readers.resample(seen, 30.0))[: len(record.motion)]
  std = np.load(shared_data / 'humanml3d' / 'Std.npy')
  apart = np.abs(record.motion - expected) / std
  for name, most in (('positions', 0.12), ('rotations', 0.14)):
    mean = apart[:, features.SLICES[name]].mean()
    assert mean < most, (name, mean)
  # He walks along z, y up and not mirrored: the same way as he was seen to.
  path, other = (features.recover(m)[-1, 0] for m in (record.motion, expected))
  np.testing.assert_allclose(path, other, atol=0.15)
  assert np.linalg.norm(path[[0, 2]]) > 0.5


def test_captions_are_sentences_or_humanml3d_s_lines(folder):
  source = _source(folder)
  clips = [clip for clips in source.splits().values() for clip in clips]
  assert {clip.id: clip.captions for clip in clips} == {
    WALK: ('A person walks.',),
    BALLET: ('Dance Ballet',),
    'humanml/M000820': ('a man waves.',),
    'humanml/M000820_10-60': ('he stops.',),
    'fitness/Jump': ('He jumps.', 'Up, down.'),
  }
  mirrored = source.make(clips[2])
  assert mirrored.provenance['mirror_of'] == 'humanml/000820'


def test_a_clip_with_a_video_has_its_frames_and_its_captions_twice(folder):
  _film(folder / 'videos' / f'{WALK}.mp4', 90)
  _film(folder / 'videos' / 'humanml/M000820.mp4', 91)
  (folder / 'videos' / 'fitness').mkdir()
  (folder / 'videos' / 'fitness/Jump.mp4').write_bytes(b'\0' * 4000)
  source = _source(folder, frames=4)
  _, videos = motionx.look(folder)
  present = {s: [c.id for c in clips] for s, clips in videos.splits.items()}
  assert present == {
    'train': [WALK], 'val': ['humanml/M000820', 'humanml/M000820_10-60']
  }  # fmt: skip
  assert videos.of('unreadable') == ('fitness/Jump',)
  assert 'Jump.mp4: expected a whole video' in videos.left_out[-1].why
  splits = source.splits()
  record = source.make(splits['train'][0])
  assert record.frames.shape == (4, 16, 16, 3)
  assert np.all(np.diff(record.frames.mean(axis=(1, 2, 3))) > 30)
  assert [(t.domain, t.answer) for t in record.turns] == [
    ('motion_caption', 'A person walks.'),
    ('video_caption', 'A person walks.'),
  ]
  assert 'video' in record.turns[1].question
  assert record.provenance['video'] == f'videos/{WALK}.mp4'
  # A part of a clip shows that part of its video.
  whole, part = (source.make(clip) for clip in splits['val'])
  assert part.frames[0].mean() > whole.frames[0].mean() + 20
  # Who has no readable video is still a clip.
  assert source.make(splits['test'][0]).frames is None


def test_a_line_that_is_neither_is_named(folder):
  path = folder / 'texts/semantic_label/humanml/M000820.txt'
  path.write_text('a man waves.#x#0.0#0.0\na man walks\n')
  with pytest.raises(ValueError, match=r"M000820\.txt, line 2.*'a man walks'"):
    _source(folder).splits()


@pytest.mark.parametrize(('size', 'antialias'), [(48, True), (224, False)])
def test_small_frames_are_averaged_and_the_reference_s_are_not(
  tmp_path, shared_data, size, antialias
):
  film = shared_data / 'videos' / 'sword_form.mp4'
  _save(tmp_path, WALK, _vectors(150))
  (tmp_path / 'video' / WALK).parent.mkdir(parents=True)
  (tmp_path / 'video' / f'{WALK}.mp4').write_bytes(film.read_bytes())
  _split(tmp_path, train=[WALK])
  there, videos = motionx.look(tmp_path)
  assert videos.splits == there.splits
  source = motionx.MotionX(str(tmp_path), 'l', image_size=size, frames=2)
  record = source.make(there.splits['train'][0])
  expected = video.read_clip(film, size=size, frames=2, antialias=antialias)
  np.testing.assert_array_equal(record.frames, expected)


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('humanml/M000820', ('humanml3d', '000820', 'humanml3d/000820')),
    ('GRAB/s7/cup_drink_1', ('motionx', None, 'GRAB/s7/cup_drink_1')),
    (
      'EgoBody/recording_1/body_idx_0/003',
      ('motionx', None, 'motionx/EgoBody/recording_1'),
    ),
    (
      'music/subset_0002/Play_Bass_clip_58',
      ('motionx', None, 'motionx/music/subset_0002/Play_Bass'),
    ),
    ('idea400/a/Eat_clip1', ('motionx', None, 'motionx/idea400/a/Eat')),
    ('aist/Slide', ('motionx', None, 'motionx/aist/Slide')),
  ],
)
def test_a_name_tells_the_recording(name, expected):
  published, clip, trial = expected
  cut = motionx.cut(name, start=3, stop=9)
  assert cut[:3] == (published, clip or name, trial)
  assert cut[3:5] == (3, 9)


def test_clips_of_one_title_are_kin_but_not_the_same():
  one, other, person = (
    motionx.cut(name, start=0, stop=60)
    for name in (
      'music/a/Play_clip_1', 'music/a/Play_clip_2', 'music/a/Sing_clip_1'
    )
  )  # fmt: skip
  assert kin.relation(one, other) == 'trial'
  assert kin.relation(one, person) == ''


def test_a_mirror_image_in_another_split_is_refused(folder):
  _save(folder, 'humanml/000820', _vectors(90))
  _split(folder, train=[WALK, 'humanml/000820'])
  with pytest.raises(ValueError, match=r'humanml/M000820 in val\.txt and'):
    _source(folder).splits()


def test_bodies_with_z_up_are_refused(folder):
  for name in (WALK, 'fitness/Jump', BALLET):
    path = folder / 'motion_data/smplx_322' / f'{name}.npy'
    vectors = np.load(path)
    vectors[:, :3] = [np.pi / 2, 0, 0]
    np.save(path, vectors)
  with pytest.raises(ValueError, match='3 of 4 clips standing along z'):
    _source(folder).splits()


def test_a_subset_with_z_up_is_refused_unless_it_is_a_few_who_lie(tmp_path):
  names = [f'fitness/{i}' for i in range(20)]
  standing = [f'music/{i}' for i in range(30)]
  for name in names:
    vectors = _vectors(70)
    vectors[:, :3] = [np.pi / 2, 0, 0]
    _save(tmp_path, name, vectors)
  for name in standing:
    _save(tmp_path, name, _vectors(70))
  _split(tmp_path, train=[*names, *standing])
  with pytest.raises(ValueError, match='fitness: .*20 of 20 clips standing'):
    motionx.look(tmp_path)
  _split(tmp_path, train=[*names[1:], *standing])
  there, _ = motionx.look(tmp_path)
  assert len(there.splits['train']) == 49


def test_a_body_model_is_used_with_the_shape_in_the_file(folder, tmp_path):
  rng = np.random.default_rng(5)
  mean, shapes = rng.normal(size=(22, 3)), rng.normal(size=(22, 3, 300))
  np.savez(
    tmp_path / 'SMPLX_NEUTRAL.npz',
    v_template=mean, shapedirs=shapes, J_regressor=np.eye(22),
  )  # fmt: skip
  source = _source(folder, body_models=str(tmp_path))
  record = source.make(source.splits()['train'][0])
  vectors = _vectors(90)
  rest = mean + shapes[..., :10] @ vectors[0, 312:].astype(np.float64)
  np.testing.assert_allclose(
    record.joints[::2, 0], (vectors[:, 309:312] + rest[0])[:86:3], atol=1e-5
  )
  assert source.identity() != _source(folder).identity()
  with pytest.raises(ValueError, match=r'neutral/model\.npz or SMPLX_NEUTRAL'):
    _source(folder, body_models=str(folder / 'texts')).survey()


def test_content_follows_motions_videos_and_captions(folder):
  seen = [_source(folder).identity()]
  assert _source(folder).identity() == seen[0]

  def changed():
    seen.append(_source(folder).identity())
    return seen[-1] not in seen[:-1]

  np.save(
    folder / 'motion_data/smplx_322' / f'{WALK}.npy', _vectors(90, seed=1)
  )
  assert changed()
  (folder / 'texts/semantic_labels/fitness/Jump.txt').write_text('He leaps.')
  assert changed()
  _film(folder / 'videos' / 'fitness/Jump.mp4')
  assert changed()
  _film(folder / 'videos' / 'fitness/Jump.mp4', 50)
  assert changed()


def test_a_folder_becomes_a_dataset(folder, tmp_path):
  _film(folder / 'videos' / f'{WALK}.mp4', 90)
  source = _source(folder)
  builder.build(source, tmp_path / 'data', processes=1, progress=False)
  train = dataset.open(tmp_path / 'data', 'train')
  expected = source.make(source.splits()['train'][0])
  np.testing.assert_array_equal(train[0].motion, expected.motion)
  np.testing.assert_array_equal(train[0].frames, expected.frames)
  assert train[0].frames.shape == (8, 16, 16, 3)
  assert train[0].turns == expected.turns
  assert train[1].frames is None


def test_folders_without_a_clip_are_refused(tmp_path):
  with pytest.raises(ValueError, match='no such folder'):
    motionx.look(tmp_path / 'nothing')
  _split(tmp_path, train=['a/b'])
  with pytest.raises(ValueError, match=r"Motion-X's folder"):
    motionx.look(tmp_path)
  assert sources.SPLITS == ('train', 'val', 'test')
