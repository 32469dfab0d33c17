"""MVBench (Li et al. 2024): its seven tasks of actions, poses and ways.

Multiple choice about a few frames of a video. The model is shown `prompt` and
goes on after its last bracket; what it writes there is judged by `strict`, the
headline, and by `compat`, as published tables were. The mean of tasks is that
of MotionLLM's table, the mean of all answers that of the published notebook.
"""

import dataclasses
import functools
import os
import pathlib
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, changes, judge, media

NAME = 'mvbench'
# A change of the item and not of its media; the seed says by how many places.
ROTATED = changes.ROTATED


class Task(NamedTuple):
  """One of the tasks.

  Attributes:
    name: of the file without its ending.
    abbreviation: in published tables.
    folder: of its videos, as published.
    is_bounded: whether a question is about a part of its video. For action
      prediction the part ends before the answer happens: all of the video
      would give it away.
  """

  name: str
  abbreviation: str
  folder: str
  is_bounded: bool

  @property
  def file(self) -> str:
    return f'{self.name}.json'


TASKS = (
  Task('action_sequence', 'AS', 'star/Charades_v1_480', True),
  Task('action_prediction', 'AP', 'star/Charades_v1_480', True),
  Task('action_localization', 'AL', 'sta/sta_video', True),
  Task('fine_grained_action', 'FA', 'Moments_in_Time_Raw/videos', False),
  Task('unexpected_action', 'UA', 'FunQA_test/test', False),
  Task('fine_grained_pose', 'FP', 'nturgbd', False),
  Task('egocentric_navigation', 'EN', 'vlnqa', False),
)

_LETTERS = string.ascii_uppercase
# Published as one paragraph of the same advice; these are our words, so numbers
# differ from those of the published prompt by what wording does. Upstream says
# it as the chat's system text, too; ours stays that of training.
_ADVICE = (
  'Watch the video closely. Notice what happens, in which order and why; the '
  'details of objects and how they move; and what people do and how they hold '
  'their bodies. Then choose the option that answers the question.'
)
_REQUEST = 'Only give the best option.'
# What the model's turn starts with; a letter follows.
_ANSWER_START = 'Best option:('


@dataclasses.dataclass(frozen=True)
class Question:
  """One question with its options.

  Attributes:
    id: `<task>/<place in its file>`; the files have no ids of their own.
    task: name of one of `TASKS`.
    video: name of the file in the task's folder.
    question: as it is asked.
    candidates: the options, A first.
    answer: text of one of the candidates.
    bound: start and end in seconds, or None for all of the video.
  """

  id: str
  task: str
  video: str
  question: str
  candidates: tuple[str, ...]
  answer: str
  bound: tuple[float, float] | None = None


# --- Questions ---------------------------------------------------------------


def read(folder: str | os.PathLike) -> list[Question]:
  """The questions of those of the seven task files that are in a folder.

  A file is a list of {video, question, candidates, answer}, with start and end
  in seconds where the task is bounded.
  """
  folder = pathlib.Path(folder)
  there = [task for task in TASKS if (folder / task.file).is_file()]
  if not there:
    raise FileNotFoundError(
      f'{folder}: expected one or more of '
      f'{", ".join(task.file for task in TASKS)}, found none; give the folder '
      'that holds the task files.'
    )
  found = [
    _question(line, task, f'{task.name}/{place}', folder / task.file)
    for task in there
    for place, line in enumerate(records.read_json_list(folder / task.file))
  ]
  if not found:
    raise ValueError(
      f'{folder}: expected questions, found none; give the files as published.'
    )
  return found


def _question(line, task: Task, name: str, path: pathlib.Path) -> Question:
  fields = ['video', 'question', 'candidates', 'answer']
  fields += ['start', 'end'] if task.is_bounded else []
  held = line if isinstance(line, dict) else {}
  absent = [field for field in fields if held.get(field) is None]
  if absent:
    raise ValueError(
      f'{path}: expected {", ".join(absent)} in {name}, found '
      f'{", ".join(held) or "none"}; give the file as published.'
    )
  for field in ('video', 'question'):
    if not isinstance(line[field], str):
      raise ValueError(
        f'{path}: expected text as {field} in {name}, found {line[field]!r}; '
        'correct the file.'
      )
  candidates = line['candidates']
  texts = isinstance(candidates, list) and all(
    isinstance(candidate, str) for candidate in candidates
  )
  if not texts or not 2 <= len(candidates) <= len(_LETTERS):
    raise ValueError(
      f'{path}: expected a list of 2 to {len(_LETTERS)} texts as candidates in '
      f'{name}, found {candidates!r}; correct the file.'
    )
  if line['answer'] not in candidates:
    raise ValueError(
      f'{path}: expected an answer among the candidates in {name}, found '
      f'{line["answer"]!r}; correct the file.'
    )
  # Upstream does not look at bounds of other tasks either.
  bound = (line['start'], line['end']) if task.is_bounded else None
  if bound:
    numbers = all(isinstance(second, int | float) for second in bound)
    if not numbers or not bound[0] <= bound[1]:
      raise ValueError(
        f'{path}: expected a start before the end in {name}, found start '
        f'{bound[0]!r} and end {bound[1]!r}; correct the file.'
      )
  return Question(
    name,
    task.name,
    line['video'],
    line['question'],
    tuple(candidates),
    line['answer'],
    bound,
  )


def rotations(question: Question) -> list[Question]:
  """The question with its options moved round, once for each place.

  The mean over all of them is what a model knows without a taste for a letter.
  The first is the question as it is.
  """
  options = question.candidates
  return [
    dataclasses.replace(question, candidates=options[k:] + options[:k])
    for k in range(len(options))
  ]


# --- What the model sees -----------------------------------------------------


def frame_indices(
  num_frames: int,
  fps: float,
  bound: tuple[float, float] | None,
  number: int,
) -> list[int]:
  """Which frames are shown: the middles of equal segments, as upstream.

  `video.choose_frames` holds the first and the last; this does not. Halves are
  rounded to even. A clip with fewer frames repeats some.

      frame_indices(245, 30, None, 8)  = [15, 45, 76, 107, 137, 167, 198, 229]
      frame_indices(3, 30, None, 8)    = [0, 0, 0, 1, 1, 1, 2, 2]

  Args:
    num_frames: that there are when they are counted; the head of a file may
      say 0. `video.read_chosen` counts and asks.
    fps: on average.
    bound: start and end in seconds; an end past the last frame means the last.
    number: how many frames to choose.
  """
  if num_frames < 1:
    raise ValueError(
      f'Expected one frame or more, found {num_frames}; count what can be '
      'decoded, since the head of a file may not know.'
    )
  first, last = 0, num_frames - 1
  if bound is not None:
    if not fps > 0:
      raise ValueError(
        f'Expected a frame rate to cut by seconds, found {fps}; give a video.'
      )
    first = max(0, round(bound[0] * fps))
    last = min(round(bound[1] * fps), last)
    if first > last:
      raise ValueError(
        f'Expected a part within {num_frames / fps:.1f} seconds, found '
        f'{bound[0]} to {bound[1]}; see whether it is the right video.'
      )
  segment = (last - first) / number
  return [int(first + segment / 2 + round(segment * k)) for k in range(number)]


def prompt(question: Question) -> str:
  """What to do, the question, and its options with letters."""
  options = [
    f'({letter}) {candidate}'
    for letter, candidate in zip(_LETTERS, question.candidates, strict=False)
  ]
  lines = [_ADVICE, f'Question: {question.question}', 'Options:', *options]
  return '\n'.join([*lines, _REQUEST])


# --- Rules -------------------------------------------------------------------


def strict(item: benchmarks.Item, text: str) -> judge.Verdict:
  """Right when the option that a text names is the right one.

  It names the first letter in brackets; without one, a letter that the text
  begins with and that is no word; else the one candidate whose words it holds:

      (B) batting      B. batting      b      He is batting.

  'A toddler reads' begins with a word and no letter. Of candidates that hold
  each other, 'sit' and 'sit down', the longer counts; of several, none.

  Where two candidates have the same text, the letter of the later one is right
  and that of the earlier is not, as upstream; chance stays the same.
  """
  letter = _named_letter(_output(text), item.choices)
  return benchmarks.all_or_nothing(
    item,
    letter == _letter(item.reference, item.choices),
    by='strict',
    status='ok' if letter else judge.UNPARSED,
  )


def compat(item: benchmarks.Item, text: str) -> judge.Verdict:
  """The published check, with its defects, to compare with published numbers.

  It asks whether the first word, in lower case and without full stops, is a
  part of '(b)', or '(b)' of the word. A model that stops at once leaves a '(',
  so no text at all is right whatever was asked.
  """
  word = _output(text).lower().partition(' ')[0]
  right = f'({_letter(item.reference, item.choices).lower()})'
  is_right = word.replace('.', '') in right or right in word
  return benchmarks.all_or_nothing(item, is_right, by='compat')


def _output(text: str) -> str:
  """What is judged of a text: its first line, after the bracket."""
  first, *_ = text.strip().split('\n')
  return f'({first}'


def _letter(candidate: str, candidates: Sequence[str]) -> str:
  """Of the last candidate of this text, as upstream."""
  return _LETTERS[max(i for i, c in enumerate(candidates) if c == candidate)]


def _named_letter(output: str, candidates: Sequence[str]) -> str | None:
  letters = _LETTERS[: len(candidates)]
  if found := re.search(rf'\(\s*([{letters}])\s*\)', output, re.IGNORECASE):
    return found[1].upper()
  # 'A' and 'I' before a blank are words.
  lone = rf'\W*([{letters}])(?:[).:,\]]+(?=\s|$)|\s*$|(?<![AI])(?=\s))'
  if found := re.match(lone, output, re.IGNORECASE):
    return found[1].upper()
  held = judge.named(output, candidates)
  texts = {text for text in candidates if tuple(judge.normalise(text)) in held}
  return _letter(texts.pop(), candidates) if len(texts) == 1 else None


# --- Benchmark ---------------------------------------------------------------


def find_video(
  videos: str | os.PathLike, question: Question
) -> pathlib.Path | None:
  """The question's video, in its task's folder as published or in `videos`."""
  folder = next(task.folder for task in TASKS if task.name == question.task)
  return media.first_file(
    videos, (f'{folder}/{question.video}', question.video)
  )


def benchmark(
  questions: Sequence[Question],
  videos: str | os.PathLike,
  frames: media.Frames,
  *,
  rotate: bool = False,
  choose: bool = False,
) -> benchmarks.Benchmark:
  """The questions, each about a few frames of its part of a video.

  Args:
    questions: of `read`.
    videos: the folder that has their videos, or some of them.
    frames: how the model looks at videos.
    rotate: ask all rotations of the options, too; those of a question count as
      one answer.
    choose: ask which letter is likeliest, too.
  """
  media.check_folder(videos, 'videos')
  shown = {_clip(question): question for question in questions}
  positions = {clip: position for position, clip in enumerate(shown)}
  readers, missing, clips = [], {}, []
  for position, question in enumerate(shown.values()):
    file = find_video(videos, question)
    if file is None:
      missing[position] = f'{videos}: no {question.video} ({question.task})'
    clips.append(media.described(file, question.bound, frames))
    readers.append(
      functools.partial(
        media.video_record,
        file or pathlib.Path(videos) / question.video,
        frames,
        id=question.id,
        source=NAME,
        split='test',
        choose=functools.partial(
          frame_indices, bound=question.bound, number=frames.number
        ),
      )
    )
  items = []
  for question in questions:
    position = positions[_clip(question)]
    items.append(_item(question, position))
    if choose:
      items += benchmarks.by_likelihood(
        items[-1:], lambda item: _LETTERS[: len(item.choices)]
      )
    if rotate:
      items += [
        dataclasses.replace(
          _item(turned, position), corruption=ROTATED, seed=places
        )
        for places, turned in enumerate(rotations(question))
      ]
  return benchmarks.Benchmark(
    benchmarks.with_clips(items, clips),
    benchmarks.Readers(readers),
    {'strict': strict, 'compat': compat},
    missing,
  )


def _clip(question: Question) -> tuple:
  return question.task, question.video, question.bound


def _item(question: Question, position: int) -> benchmarks.Item:
  return benchmarks.Item(
    id=question.id,
    benchmark=NAME,
    split='test',
    input='video',
    corruption=benchmarks.CLEAN,
    domain=question.task,
    kind=question.task,
    question=prompt(question),
    references=(question.answer,),
    position=position,
    media_position=position,
    choices=question.candidates,
    answer_start=_ANSWER_START,
    chance=1 / len(question.candidates),
  )
