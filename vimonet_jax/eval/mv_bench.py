"""MVBench (Li et al. 2024): its seven tasks of actions, poses and ways.

Questions, frames, prompt and scores of multiple choice. The model is shown
`prompt` and goes on after its last bracket; `output_line` of what it wrote is
scored by `strict`, the headline, and by `compat`, as published tables were.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, judge, media

NAME = 'mvbench'
# A change of the item and not of its media; the seed says by how many places.
ROTATED = 'rotated'


class Task(NamedTuple):
  """One of the tasks.

  Attributes:
    name: of the file without its ending.
    abbreviation: in tables.
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
# differ from those of the published prompt by what wording does.
_SYSTEM = (
  'Watch the video closely. Notice what happens, in which order and why; the '
  'details of objects and how they move; and what people do and how they hold '
  'their bodies. Then choose the option that answers the question.'
)
_REQUEST = 'Only give the best option.'
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


class Prompt(NamedTuple):
  """What the model is shown.

  Attributes:
    system: what to do; upstream says it as the chat's system text and again at
      the head of the user's turn.
    user: question and options.
    answer_start: what the model's turn starts with; a letter follows.
  """

  system: str
  user: str
  answer_start: str


@dataclasses.dataclass(frozen=True)
class Score:
  """Whether the answer to one question is right.

  Attributes:
    id: the question's.
    is_right: False where the status is not `ok`.
    status: `ok`; `unparsed` where the text names no option.
  """

  id: str
  is_right: bool
  status: str = 'ok'


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """How many of n answers are right.

  Attributes:
    n: questions, at least one.
    n_right: of them.
    n_unparsed: texts that name no option; they are wrong.
    n_failed: questions without a score; they are wrong.
  """

  n: int
  n_right: int
  n_unparsed: int
  n_failed: int

  @property
  def accuracy(self) -> float:
    """0 to 1, over all n."""
    return self.n_right / self.n


@dataclasses.dataclass(frozen=True)
class Accuracies:
  """The columns of a table.

  Attributes:
    by_task: those that were asked, by name, in the order of `TASKS`.
    pooled: over questions, the total of the published notebook.
  """

  by_task: Mapping[str, Accuracy]
  pooled: Accuracy

  @property
  def mean(self) -> float:
    """The plain mean of the tasks, as MotionLLM's table has it."""
    tasks = self.by_task.values()
    return sum(task.accuracy for task in tasks) / len(tasks)


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
  return [
    _question(line, task, f'{task.name}/{place}', folder / task.file)
    for task in there
    for place, line in enumerate(records.read_json_list(folder / task.file))
  ]


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
  The first is the question itself, under an id of its own.
  """
  options = question.candidates
  return [
    dataclasses.replace(
      question, id=f'{question.id}@{k}', candidates=options[k:] + options[:k]
    )
    for k in range(len(options))
  ]


def chance(questions: Sequence[Question]) -> float:
  """What guessing gets, 0 to 1: files differ in how many options they have."""
  _check_some(questions)
  return sum(1 / len(q.candidates) for q in questions) / len(questions)


# --- What the model sees -----------------------------------------------------


def frame_indices(
  num_frames: int,
  fps: float,
  bound: tuple[float, float] | None,
  number: int,
) -> list[int]:
  """Which frames are shown: the middles of equal segments, as upstream.

  They are not those of `video.choose_frames`, which holds the first and last.
  Halves are rounded to even. A clip with fewer frames repeats some.

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
        f'Expected a frame rate to cut by seconds, found {fps}; give the video '
        'itself and not its images.'
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


def prompt(question: Question) -> Prompt:
  """The question, its options with letters, and the start of the answer."""
  options = [
    f'({letter}) {candidate}'
    for letter, candidate in zip(_LETTERS, question.candidates, strict=False)
  ]
  lines = [f'Question: {question.question}', 'Options:', *options, _REQUEST]
  return Prompt(_SYSTEM, '\n'.join(lines), _ANSWER_START)


def reference(question: Question) -> str:
  """`(B) batting`, as upstream writes the right answer."""
  return f'({_right_letter(question)}) {question.answer}'


def output_line(generated: str) -> str:
  """What is scored of a generated text: its first line, after the bracket."""
  first, *_ = generated.strip().split('\n')
  return f'({first}'


# --- Scores ------------------------------------------------------------------


def strict(output: str, question: Question) -> Score:
  """Right when the option that a text names is the right one.

  It names the first letter in brackets; without one, a letter that the text
  begins with and that is no word; else the one candidate whose words it holds:

      (B) batting      B. batting      b      He is batting.

  'A toddler reads' begins with a word and no letter. Of candidates that hold
  each other, 'sit' and 'sit down', the longer counts; of several, none.

  Where two candidates have the same text, the letter of the later one is right
  and that of the earlier is not, as upstream; chance stays the same.
  """
  letter = _named_letter(output, question)
  if letter is None:
    return Score(question.id, False, 'unparsed')
  return Score(question.id, letter == _right_letter(question))


def compat(output: str, question: Question) -> Score:
  """The published check, with its defects, to compare with published numbers.

  It asks whether the first word, in lower case and without full stops, is a
  part of '(b)', or '(b)' of the word. So no text at all is right whatever was
  asked, and so are '(' and ')', which a model that stops at once writes.
  """
  word = output.lower().partition(' ')[0]
  right = f'({_right_letter(question).lower()})'
  return Score(question.id, word.replace('.', '') in right or right in word)


def likelihood(log_probs: Mapping[str, float], question: Question) -> Score:
  """Right when the right letter is the likeliest after the answer's start.

  Args:
    log_probs: letter -> log-probability as the next token, of every option; of
      equal ones the first letter is taken.
    question: what was asked.
  """
  letters = _LETTERS[: len(question.candidates)]
  found = {letter: log_probs.get(letter, math.nan) for letter in letters}
  absent = [letter for letter in letters if math.isnan(found[letter])]
  if absent:
    raise ValueError(
      f'Expected a log-probability for each of {letters} in {question.id}, '
      f'found none for {", ".join(absent)}; give those of all options.'
    )
  likeliest = max(letters, key=found.__getitem__)
  return Score(question.id, likeliest == _right_letter(question))


def accuracies(
  questions: Sequence[Question], scores: Sequence[Score]
) -> Accuracies:
  """How many are right, by task and together.

  Args:
    questions: all that were asked, one or more.
    scores: in any order, joined by id; a question without one failed.
  """
  _check_some(questions)
  by_id = _by_id(questions, scores)
  by_task = {}
  for task in TASKS:
    asked = [q for q in questions if q.task == task.name]
    if asked:
      by_task[task.name] = _accuracy(asked, by_id)
  return Accuracies(by_task, _accuracy(questions, by_id))


def rotation_accuracy(
  questions: Sequence[Question], scores: Sequence[Score]
) -> float:
  """The mean over questions of the share of their rotations that are right.

  Args:
    questions: before rotation, one or more.
    scores: of all their rotations; one without a score is wrong.
  """
  _check_some(questions)
  turned = [rotations(question) for question in questions]
  by_id = _by_id([q for group in turned for q in group], scores)
  shares = [_accuracy(group, by_id).accuracy for group in turned]
  return sum(shares) / len(shares)


def _right_letter(question: Question) -> str:
  """Of the last candidate that is the answer, as upstream."""
  places = [
    i for i, text in enumerate(question.candidates) if text == question.answer
  ]
  return _LETTERS[places[-1]]


def _named_letter(output: str, question: Question) -> str | None:
  letters = _LETTERS[: len(question.candidates)]
  if found := re.search(rf'\(\s*([{letters}])\s*\)', output, re.IGNORECASE):
    return found[1].upper()
  # 'A' and 'I' before a blank are words.
  lone = rf'\W*([{letters}])(?:[).:,\]]+(?=\s|$)|\s*$|(?<![AI])(?=\s))'
  if found := re.match(lone, output, re.IGNORECASE):
    return found[1].upper()
  held = judge.named(output, question.candidates)
  texts = {
    text for text in question.candidates if tuple(judge.normalise(text)) in held
  }
  if len(texts) != 1:
    return None
  return _right_letter(dataclasses.replace(question, answer=texts.pop()))


def _by_id(questions, scores: Sequence[Score]) -> dict[str, Score]:
  asked = {question.id for question in questions}
  by_id = {}
  for score in scores:
    if score.id not in asked:
      raise ValueError(
        f'Expected scores of the {len(asked)} questions, found one of '
        f'{score.id}; give those of the same questions.'
      )
    if score.id in by_id:
      raise ValueError(
        f'Expected one score for each question, found two for {score.id}; give '
        'those of one run.'
      )
    by_id[score.id] = score
  return by_id


def _accuracy(questions, by_id: Mapping[str, Score]) -> Accuracy:
  held = [by_id[q.id] for q in questions if q.id in by_id]
  return Accuracy(
    n=len(questions),
    n_right=sum(score.is_right for score in held),
    n_unparsed=sum(score.status == 'unparsed' for score in held),
    n_failed=len(questions) - len(held),
  )


def _check_some(questions: Sequence[Question]) -> None:
  if not questions:
    raise ValueError(
      'Expected one question or more, found none; read a folder with task '
      'files.'
    )


# --- As a benchmark ----------------------------------------------------------


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
    rotate: ask all rotations of the options, too. Their row is the mean over
      answers: a question with more options has more of them.
    choose: ask which letter is likeliest, too.
  """
  media.check_folder(videos, 'videos')
  shown = {(question.task, question.video, question.bound): question
           for question in questions}  # fmt: skip
  positions = {clip: position for position, clip in enumerate(shown)}
  readers, missing = [], {}
  for position, question in enumerate(shown.values()):
    file = find_video(videos, question)
    if file is None:
      missing[position] = f'{videos}: no {question.video} ({question.task})'
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
    position = positions[question.task, question.video, question.bound]
    items.append(_item(question, position))
    if choose:
      letters = _LETTERS[: len(question.candidates)]
      items += benchmarks.by_likelihood(items[-1:], lambda _, x=letters: x)
    if rotate:
      items += [
        dataclasses.replace(
          _item(turned, position),
          id=question.id,
          corruption=ROTATED,
          seed=places,
        )
        for places, turned in enumerate(rotations(question))
      ]
  return benchmarks.Benchmark(
    items,
    benchmarks.Readers(readers),
    {'strict': _strict, 'compat': _compat},
    missing,
  )


def _item(question: Question, position: int) -> benchmarks.Item:
  system, user, answer_start = prompt(question)
  return benchmarks.Item(
    id=question.id,
    benchmark=NAME,
    split='test',
    input='video',
    corruption=benchmarks.CLEAN,
    domain=question.task,
    kind=question.task,
    # The chat keeps the system text that the model was trained with.
    question=f'{system}\n{user}',
    references=(question.answer,),
    position=position,
    media_position=position,
    choices=question.candidates,
    answer_start=answer_start,
  )


def _strict(item: benchmarks.Item, text: str) -> judge.Verdict:
  return _verdict(item, text, strict, 'strict')


def _compat(item: benchmarks.Item, text: str) -> judge.Verdict:
  return _verdict(item, text, compat, 'compat')


def _verdict(item: benchmarks.Item, text: str, rule, name: str):
  question = Question(
    item.id, item.domain, '', item.question, item.choices, item.reference
  )
  found = rule(output_line(text), question)
  return judge.Verdict(
    item.id, found.is_right, 5.0 if found.is_right else 0.0, found.status, name
  )
