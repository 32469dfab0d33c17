"""Folders as users have them, of few clips: of each kind of source one.

HumanML3D's are real clips of CMU's motion capture under their ids; AMASS has
trials with these clips in them. What other sources say of who is tested is
contrary to HumanML3D's splits on purpose.
"""

import csv
import json
import pathlib

import films
import numpy as np

_FRAMES = 81  # of each clip
_SIZES = {'train': 8, 'val': 2, 'test': 3}
TURNS = [
  {'question': 'How does it begin?', 'answer': 'With a step.', 'domain': '',
   'kind': 'free', 'follows': False},
  {'question': 'And then?', 'answer': 'Another one.', 'domain': '',
   'kind': 'free', 'follows': True},
  {'question': 'Does anybody jump?', 'answer': 'No.', 'domain': 'hallucination',
   'kind': 'yes_no', 'follows': False},
]  # fmt: skip


class Folders:
  """Everything below one folder.

  Attributes:
    root: the folder.
    splits: HumanML3D's ids by split.
    changes: of configs/vimos.py, so that it reads them.
  """

  def __init__(self, root: pathlib.Path, shared: pathlib.Path):
    self.root = root
    self.splits: dict[str, list[str]] = {}
    self.changes: dict[str, object] = {}
    with open(shared / 'mocap' / 'clips.csv', newline='') as f:
      rows = [row for row in csv.DictReader(f) if row['humanml3d_id']]
      rows = [row for row in rows if int(row['num_frames']) >= _FRAMES]
    with open(shared / 'humanml3d' / 'index.csv', newline='') as f:
      index = {row['new_name'][:6]: row for row in csv.DictReader(f)}
    self._clips = {}
    with np.load(shared / 'mocap' / 'joints.npz') as joints:
      for split, number in _SIZES.items():
        some = [row for row in rows if row['split'] == split]
        for row in some[:number]:
          name = row['humanml3d_id']
          self.splits.setdefault(split, []).append(name)
          self._clips[name] = joints[row['clip_id']][:_FRAMES]
          text = shared / 'mocap' / 'texts' / f'{row["clip_id"]}.txt'
          _write(root / 'humanml3d' / 'texts' / f'{name}.txt', text.read_text())
    self._index = {name: index[name] for name in self._clips}
    self._write_humanml3d()
    self._write_amass()
    self._write_motionx()
    self._write_babel()
    self._write_videos()

  def _use(self, source: str, **fields) -> None:
    for field, value in fields.items():
      is_path = isinstance(value, pathlib.Path)
      self.changes[f'data__sources__{source}__{field}'] = (
        str(value) if is_path else value
      )

  def _split(self, folder: str, **splits) -> None:
    for split in _SIZES:
      names = splits.get(split, ())
      _write(self.root / folder / f'{split}.txt', '\n'.join(names) + '\n')

  def _write_humanml3d(self) -> None:
    home = self.root / 'humanml3d'
    np.savez(home / 'joints.npz', **self._clips)
    self._split('humanml3d', **self.splits)
    rows = [
      {'id': self.splits['train'][0], 'split': 'train', 'turns': TURNS,
       'provenance': {'generator': 'clever-1', 'licence': 'CC0'}},
      {'id': self.splits['test'][0], 'turns': [['Who walks?', 'A man.']]},
      {'id': 'nobody', 'turns': [['Who?', 'Nobody.']]},
    ]  # fmt: skip
    questions = _lines(self.root / 'questions.jsonl', rows)
    self._use('humanml3d', path=home, qa_files=(str(questions),))
    self.changes['data__index'] = str(self._write_index())

  def _write_index(self) -> pathlib.Path:
    """HumanML3D's own rows, but each with as many frames as here."""
    lines = ['source_path,start_frame,end_frame,new_name']
    for name, row in self._index.items():
      start = int(row['start_frame'])
      lines.append(f'{row["source_path"]},{start},{start + _FRAMES},{name}.npy')
    return _write(self.root / 'amass_home' / 'index.csv', '\n'.join(lines))

  def _write_amass(self) -> None:
    """Trials with all of their clips, and a test clip of HumanML3D in train."""
    trials = {}
    for name, row in self._index.items():
      start = int(row['start_frame'])
      file = row['source_path'].replace('./pose_data/', '')
      trials.setdefault(file, []).append((start, self._clips[name]))
    for file, clips in trials.items():
      last = max(start for start, _ in clips) + _FRAMES
      first = clips[0][1][:1]
      whole = np.repeat(first, last, axis=0)
      for start, clip in clips:
        # As HumanML3D saves it.
        whole[start : start + _FRAMES] = clip * [-1, 1, 1]
      path = self.root / 'amass' / file
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, whole)
    train = [self.splits['test'][1], *self.splits['train'][-2:]]
    for name in (*train, self.splits['val'][1]):
      text = self.root / 'humanml3d' / 'texts' / f'{name}.txt'
      _write(self.root / 'amass_home' / 'texts' / text.name, text.read_text())
    self._split('amass_home', train=train, val=[self.splits['val'][1]])
    home = self.root / 'amass_home'
    self._use('amass', path=self.root / 'amass', humanml3d=home)

  def _write_motionx(self) -> None:
    """Clips with and without videos; a test clip of HumanML3D in train."""
    home = self.root / 'motionx'
    rng = np.random.default_rng(0)
    tested = f'humanml/{self.splits["test"][2]}'
    names = ['idea400/Eat_clip_1', 'idea400/Wave_clip_1', 'music/Sing_clip_1']
    for name in (*names, tested):
      steps = rng.normal(scale=0.01, size=(90, 322))
      path = home / 'motion_data' / 'smplx_322' / f'{name}.npy'
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, steps.cumsum(axis=0).astype(np.float32))
      text = home / 'texts' / 'semantic_labels' / f'{name}.txt'
      _write(text, 'Somebody moves.')
    video = home / 'videos' / f'{names[0]}.mp4'
    video.parent.mkdir(parents=True)
    films.write(video, 7, frames=90)
    self._split('motionx', train=[names[0], tested], val=names[1:2],
                test=names[2:])  # fmt: skip
    self._use('motionx', path=home)

  def _write_babel(self) -> None:
    """A question to train on; one of test about a clip that others train on."""
    home = self.root / 'babel_qa'
    shown = {'7': self.splits['train'][1], '8': self.splits['train'][2]}
    questions, trials = [], {}
    for number, (motion, name) in enumerate(shown.items()):
      questions.append({
        'question_id': f'00000{number}', 'babel_id': motion,
        'query_type': 'query_action', 'relation_type': 'no_relation',
        'question': 'What does the person do?', 'answer': 'walk',
        'program': ['[0]=scene([0])', '[1]=filter_action([0], walk)',
                    '?=query_action([1])'],
      })  # fmt: skip
      path = home / 'motions' / f'{motion}_joints_30fps.npy'
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, np.repeat(self._clips[name], 2, axis=0)[:120])
      subset, *folders, file = (
        self._index[name]['source_path'].replace('./pose_data/', '').split('/')
      )
      trial = '/'.join([subset, subset, *folders, file])
      trials[motion] = {'feat_p': trial.replace('.npy', '.npz')}
    splits = {'train': ['000000'], 'val': [], 'test': ['000001']}
    _write(home / 'babel' / 'train.json', json.dumps(trials))
    self._use(
      'babel_qa',
      questions=_write(home / 'questions.json', json.dumps(questions)),
      split_file=_write(home / 'splits.json', json.dumps(splits)),
      motions=home / 'motions',
      babel=home / 'babel',
    )

  def _write_videos(self) -> None:
    """One is cut off so that it opens and is not whole; one does not open."""
    home = self.root / 'videos'
    home.mkdir()
    rows = []
    for number in range(12):
      films.write(home / f'v{number}.mp4', 300 * number, faststart=True)
      rows.append({'video_id': f'v{number}', 'q': 'What is there to be seen?',
                   'a': f'Somebody moves, number {number}.'})  # fmt: skip
    (home / 'v10.mp4').write_bytes(b'no video')
    whole = (home / 'v11.mp4').read_bytes()
    (home / 'v11.mp4').write_bytes(whole[: len(whole) * 2 // 3])
    rows[0]['split'] = rows[11]['split'] = 'train'
    rows[1]['split'], rows[2]['split'] = 'val', 'test'
    rows.append({'video_id': 'nowhere', 'q': 'Who?', 'a': 'Nobody.'})
    words = _write(self.root / 'words.json', json.dumps(rows))
    self._use(
      'video_chatgpt', path=home, files=(str(words),), licence='CC BY-NC 4.0'
    )


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding='utf-8')
  return path


def _lines(path: pathlib.Path, rows) -> pathlib.Path:
  return _write(path, ''.join(f'{json.dumps(row)}\n' for row in rows))
