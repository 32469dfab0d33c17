"""Shows a record: the body as an animation, the frames, and what is said.

Motion and frames are also written as files that `--task=chat` reads.

    python -m vimonet_jax.main --config=configs/tiny.py --task=show \\
        --record=test:7 --output=/tmp/shown
"""

import os
import shutil

import numpy as np
import PIL.Image

from vimonet_jax.data import records
from vimonet_jax.motion import draw, features


def run(record: records.Record, output: str) -> list[str]:
  """Writes what a record holds into a folder, which is made if need be.

  Returns:
    the paths written: `<id>.gif` and, as features, `<id>.npy` where the record
    has a motion; `<id>.png` and the folder `<id>/` where it has frames; and
    `<id>.txt`.
  """
  os.makedirs(output, exist_ok=True)
  stem = os.path.join(output, record.id.replace('/', '_'))
  paths = []
  joints = record.joints
  if joints is None and record.motion is not None:
    joints = features.recover(record.motion)
  if joints is not None:
    paths.append(f'{stem}.gif')
    draw.skeleton_gif(joints, paths[-1], fps=records.FPS)
  if record.motion is not None:
    paths.append(f'{stem}.npy')
    np.save(paths[-1], record.motion)
  if record.frames is not None:
    paths.append(f'{stem}.png')
    draw.frames_png(record.frames, paths[-1])
    paths.append(os.path.join(stem, ''))
    # Frames that another record left would be taken for more of this one.
    shutil.rmtree(stem, ignore_errors=True)
    os.makedirs(stem)
    for i, frame in enumerate(record.frames):
      PIL.Image.fromarray(frame).save(os.path.join(stem, f'{i}.png'))
  paths.append(f'{stem}.txt')
  with open(paths[-1], 'w', encoding='utf-8') as f:
    f.write(describe(record))
  return paths


def describe(record: records.Record) -> str:
  """A record in words: what it holds, its turns, and where it is from."""
  lines = [f'{record.id}  ({record.source}, {record.split})']
  if record.motion is not None:
    seconds = len(record.motion) / records.FPS
    lines.append(f'motion: {len(record.motion)} frames, {seconds:.1f} s')
  if record.frames is not None:
    count, height, width, _ = record.frames.shape
    lines.append(f'video: {count} frames of {width} x {height} pixels')
  for name, words in (
    ('motion', record.motion_text),
    ('video', record.video_text),
  ):
    if words is not None:
      lines.append(f'words in place of the {name}: {words}')
  for turn in record.turns:
    about = f'[{turn.domain}/{turn.kind}]  ' if turn.domain else ''
    fact = f'  ({turn.fact})' if turn.fact else ''
    lines += ['', f'{about}{turn.question}', f'  {turn.answer}{fact}']
  lines.append('')
  lines += [f'{key}: {value}' for key, value in record.provenance.items()]
  return '\n'.join(lines).rstrip() + '\n'
