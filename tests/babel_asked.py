"""Questions of BABEL-QA, made up and of the shared data, and a motion."""

import pathlib

import numpy as np

from vimonet_jax.data import babel_questions
from vimonet_jax.motion import skeleton

RELATIONS = ('before', 'after', 'no_relation', 'in_between')
# Questions, motions, by query type, by relation type.
COUNTS = {
  'train': (1800, 771, (1201, 376, 223), (588, 569, 514, 129)),
  'val': (384, 167, (271, 64, 49), (134, 124, 101, 25)),
  'test': (393, 171, (261, 72, 60), (124, 124, 113, 32)),
}


def question(
  number: int, query='action', relation='before', answer='walk', motion='7'
) -> babel_questions.Question:
  steps = (
    babel_questions.Step('scene'),
    babel_questions.Step(f'query_{query}', (0,)),
  )
  return babel_questions.Question(
    f'{number:06d}', motion, query, relation, '?', steps, answer
  )


def slide(num_frames: int) -> np.ndarray:
  """A body that stands, faces -z and slides there at 1 m/s, at 30 fps."""
  body_J3 = np.zeros((skeleton.NUM_JOINTS, 3))
  for joint, parent in list(enumerate(skeleton.PARENTS))[1:]:
    body_J3[joint] = body_J3[parent] + skeleton.STANDING_OFFSETS_J3[joint]
  body_J3 *= [-1, 1, -1]
  body_J3[:, 1] -= body_J3[:, 1].min()
  path_T3 = np.arange(num_frames)[:, None] / babel_questions.FPS * [0, 0, -1]
  return (body_J3 + path_T3[:, None]).astype(np.float32)


def splits(shared_data: pathlib.Path):
  """Split -> questions; 100 of the test questions are not there."""
  folder = shared_data / 'babelqa'
  vocabulary = babel_questions.read_vocabulary(folder / 'answer_vocab.json')
  files = {'train': 'train', 'val': 'val', 'test': 'test_public'}
  return {
    split: babel_questions.read(folder / f'{name}.jsonl', vocabulary)
    for split, name in files.items()
  }
