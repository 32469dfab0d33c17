"""ActivityNet-QA (Yu et al. 2019): short answers about videos, of nine types.

Zero-shot answers are sentences, which a judge compares with the reference.
`exact` suits models that were trained on its answers of one to five words;
`contains` finds them in a sentence, and is no published number.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

from vimonet_jax.data import records, video
from vimonet_jax.eval import benchmarks, judge, media

NAME = 'activitynet-qa'

TYPES = (
  'motion',
  'spatial relation',
  'temporal relation',
  'yes/no',
  'colour',
  'object',
  'location',
  'number',
  'other',
)
# The types whose answers are free; the first three have templates. For these
# together the published script prints another number: it divides while types
# are still being added, so their order counts. With its example predictions for
# validation it prints .7583, where 6369 of 12600, or .5055, are right.
FREE = range(3, 9)


@dataclasses.dataclass(frozen=True)
class Question:
  """One question about one video.

  Attributes:
    id: `v_<video>_<number>`.
    video: name of the video, without the `v_` of its file.
    question: in lower case, without a question mark.
    answer: one to five words.
    type: index of `TYPES`.
  """

  id: str
  video: str
  question: str
  answer: str
  type: int

  @property
  def type_name(self) -> str:
    return TYPES[self.type]


def read(
  questions_json: str | os.PathLike, answers_json: str | os.PathLike
) -> list[Question]:
  """The questions of a split with their answers, in the questions' order.

  Args:
    questions_json: a list of {video_name, question, question_id}.
    answers_json: a list of {answer, type, question_id}. The two are joined by
      id: where one of them was sorted or cut, place would pair strangers.
  """
  asked = _by_id(questions_json, ('video_name', 'question'))
  answers = _by_id(answers_json, ('answer', 'type'))
  for path, ids in (
    (answers_json, asked.keys() - answers.keys()),
    (questions_json, answers.keys() - asked.keys()),
  ):
    if ids:
      raise ValueError(
        f'{path}: expected the same ids as in the file beside it, found '
        f'{len(ids)} missing, such as {min(ids)}; give both files of one split.'
      )
  found = []
  for name, line in asked.items():
    kind = answers[name]['type']
    if kind not in range(len(TYPES)):
      raise ValueError(
        f'{answers_json}: expected a type of 0 to {len(TYPES) - 1}, found '
        f'{kind!r} for {name}; correct the file.'
      )
    if not name.startswith(f'v_{line["video_name"]}_'):
      raise ValueError(
        f'{questions_json}: expected an id v_{line["video_name"]}_<number> for '
        f'that video, found {name}; correct the file.'
      )
    found.append(
      Question(
        name,
        line['video_name'],
        line['question'],
        answers[name]['answer'],
        kind,
      )
    )
  return found


def find_video(folder: str | os.PathLike, name: str) -> pathlib.Path | None:
  """The file `v_<name>` of any usual ending; None where there is none."""
  for suffix in video.VIDEOS:
    for ending in (suffix, suffix.upper()):
      path = pathlib.Path(folder) / f'v_{name}{ending}'
      if path.is_file():
        return path
  return None


def benchmark(
  questions: Sequence[Question],
  videos: str | os.PathLike,
  frames: media.Frames,
  *,
  split: str = 'test',
) -> benchmarks.Benchmark:
  """The questions, each about a few frames of all of its video.

  Args:
    questions: of `read`.
    videos: the folder that has their videos, or some of them.
    frames: how the model looks at videos.
    split: in tables.
  """
  media.check_folder(videos, 'videos')
  names = sorted({question.video for question in questions})
  positions = {name: position for position, name in enumerate(names)}
  files = [find_video(videos, name) for name in names]
  absent = [pathlib.Path(videos) / f'v_{name}.mp4' for name in names]
  readers = [
    functools.partial(
      media.video_record,
      file or missing,
      frames,
      id=name,
      source=NAME,
      split=split,
    )
    for name, file, missing in zip(names, files, absent, strict=True)
  ]
  items = [
    benchmarks.Item(
      id=question.id,
      benchmark=NAME,
      split=split,
      input='video',
      corruption=benchmarks.CLEAN,
      domain=question.type_name,
      kind=question.type_name,
      question=question.question,
      references=(question.answer,),
      position=positions[question.video],
      media_position=positions[question.video],
      slices=('free',) if question.type in FREE else (),
    )
    for question in questions
  ]
  return benchmarks.Benchmark(
    benchmarks.with_clips(
      items, [media.described(file, frames) for file in files]
    ),
    benchmarks.Readers(readers),
    {
      judge.JUDGE: benchmarks.by_rules,
      'exact': exact,
      'contains': contains,
    },
    {
      position: f'{videos}: no v_{name}, of any ending of videos'
      for position, (name, file) in enumerate(zip(names, files, strict=True))
      if file is None
    },
    needs_judge=True,
  )


def exact(item: benchmarks.Item, text: str) -> judge.Verdict:
  """Whether a text is the answer, letter by letter, as upstream."""
  return benchmarks.all_or_nothing(item, text == item.reference, by='exact')


def contains(item: benchmarks.Item, text: str) -> judge.Verdict:
  """Whether the answer stands in a text, as whole words in a row.

      answer  red   right   'He wears a red shirt.'   'It is not red.'
              no    right   'No, he sits.'    wrong   'Yes, with no hat.'

  Case, articles and punctuation do not matter, numbers may be words; of yes and
  no the first in the text counts. A text that names much is right often.
  """
  target = judge.normalise(item.reference)
  if target in (['yes'], ['no']):
    said = judge.judge(item.id, text, item.reference, answer_format='yes_no')
    is_right = bool(said.correct)
  else:
    is_right = bool(judge.named(text, (item.reference,)))
  return benchmarks.all_or_nothing(item, is_right, by='contains')


def _by_id(path, fields: Sequence[str]) -> dict[str, dict]:
  """Id -> line, in the order of the file."""
  found = {}
  for place, line in enumerate(records.read_json_list(path)):
    held = line if isinstance(line, dict) else {}
    absent = [name for name in ('question_id', *fields) if name not in held]
    if absent:
      raise ValueError(
        f'{path}: expected {", ".join(absent)} in line {place} of the list, '
        f'found {", ".join(held) or "none"}; give the file as published.'
      )
    for name in ('question_id', *fields):
      if name != 'type' and not isinstance(line[name], str):
        raise ValueError(
          f'{path}: expected text as {name} in line {place} of the list, found '
          f'{line[name]!r}; give the file as published.'
        )
    if found.setdefault(line['question_id'], line) is not line:
      raise ValueError(
        f'{path}: expected each id once, found {line["question_id"]} twice; '
        'remove one.'
      )
  if not found:
    raise ValueError(
      f'{path}: expected questions or answers, found an empty list; give the '
      'file as published.'
    )
  return found
