"""What came of annotating: captions and questions that are kept, and the rest.

    captions.jsonl   {"id", "split", "turns": [{"question", "answer", "domain",
    questions.jsonl  "kind", "follows"}], "provenance": {...}}
    rejected.jsonl   {"id", "step", "text", "reason", "contradicted"}

A turn that follows needs the one before it. Provenance tells the model that
answered, the hash of the instructions, the hash under which the reply is kept,
the captions it was made of (`<id>#0` for the first one given, `<id>#video` for
the one in captions.jsonl) and the licence.
"""

import collections
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax import chat_api
from vimonet_jax.annotation import clips as clip_lib
from vimonet_jax.annotation import contradictions, prompts, replies
from vimonet_jax.data import captions as caption_files
from vimonet_jax.data import clips as clip_records
from vimonet_jax.data import records

CAPTIONS, QUESTIONS, REJECTED = FILES = (
  'captions.jsonl',
  'questions.jsonl',
  'rejected.jsonl',
)
STEPS = ('captions', 'questions')
# What a step may have come to, in the order in which it is told.
_HEADER = ('kept', 'rejected', 'contradicted', 'no answer', 'to do', 'USD')


class Known(NamedTuple):
  """A caption that questions may be made of, and its name."""

  name: str
  caption: caption_files.Caption


class Results:
  """What is known of each clip, as replies come in."""

  def __init__(self, services: Mapping[str, chat_api.Service]):
    self._services = services
    self._clips: dict[str, clip_lib.Clip] = {}
    self._evidence: dict[str, contradictions.Evidence | None] = {}
    self._known: dict[str, list[Known]] = {}
    self._rows = {step: {} for step in STEPS}
    self._rejected: list[dict[str, Any]] = []
    self._settled = {step: set() for step in STEPS}
    self._counts = {step: collections.Counter() for step in STEPS}
    self.lost: list[str] = []  # Whom nobody can be asked about, and why.

  # --- Clips -----------------------------------------------------------------

  def lose(self, clip: clip_lib.Clip, reason: str) -> None:
    """Nothing can be asked about a clip."""
    self.lost.append(f'{clip.id}: {reason}')
    self._reject(clip.id, 'clip', replies.Refused('', reason))

  def add(
    self, clip: clip_lib.Clip, evidence: contradictions.Evidence | None
  ) -> None:
    """A clip, whose captions are checked if it has a motion, too."""
    self._clips[clip.id] = clip
    self._evidence[clip.id] = evidence
    self._known[clip.id] = []
    for number, caption in enumerate(clip.captions):
      # What is said of a part need not be so of the whole.
      is_whole = not (caption.start_s or caption.end_s)
      if is_whole and (
        wrong := replies.check_motion(caption.text, evidence)
      ):  # fmt: skip
        self._reject(clip.id, 'given', wrong)
      else:
        self._known[clip.id].append(Known(f'{clip.id}#{number}', caption))

  def known(self, clip: clip_lib.Clip) -> list[caption_files.Caption]:
    """The captions that questions may be made of, so far."""
    return [known.caption for known in self._known[clip.id]]

  def is_settled(self, step: str, name: str) -> bool:
    """Whether there is a reply that stays."""
    return name in self._settled[step]

  # --- Replies ---------------------------------------------------------------

  def take(self, step: str, reply: chat_api.Reply, key: str) -> None:
    """Sorts what a service said about a clip.

    Args:
      step: what it was asked.
      reply: of which the id is the clip's.
      key: the hash under which the reply is kept.
    """
    counts = self._counts[step]
    counts['USD'] += reply.usd
    if reply.status == 'failed':
      counts['no answer'] += 1
      reason = f'Expected an answer, found none ({reply.problem}).'
      self._reject(reply.id, step, replies.Refused(reply.text, reason))
      return
    self._settled[step].add(reply.id)
    if reply.status != 'ok':
      counts['rejected'] += 1
      said = ' | '.join((*reply.rejected, reply.text))
      reason = (
        f'Expected a valid answer, found it {reply.status} ({reply.problem}) '
        f'in {len(reply.rejected) + 1} tries.'
      )
      self._reject(reply.id, step, replies.Refused(said, reason))
    elif step == 'captions':
      self._take_caption(reply, key)
    else:
      self._take_turns(reply, key)

  def _take_caption(self, reply: chat_api.Reply, key: str) -> None:
    clip, text = self._clips[reply.id], reply.parsed['caption'].strip()
    parents = [f'{clip.id}#{n}' for n in range(len(clip.captions))]
    wrong = replies.check_caption(text, self._evidence[clip.id])
    if wrong:
      self._count_refused('captions', wrong)
      self._reject(clip.id, 'captions', wrong)
      return
    self._counts['captions']['kept'] += 1
    # Any question goes with any caption, and always the same one.
    questions = clip_records.QUESTIONS['motion_caption']
    turn = {
      'question': questions[zlib.crc32(clip.id.encode()) % len(questions)],
      'answer': text,
      'domain': 'motion_caption',
      'kind': 'caption',
      'follows': False,
    }
    self._rows['captions'][clip.id] = self._row(
      'captions', clip, [turn], reply, key, parents
    )
    self._known[clip.id].append(
      Known(f'{clip.id}#video', caption_files.Caption(text))
    )

  def _take_turns(self, reply: chat_api.Reply, key: str) -> None:
    clip = self._clips[reply.id]
    parents = [known.name for known in self._known[clip.id]]
    found = replies.check_turns(
      reply.parsed['turns'], self._evidence[clip.id]
    )  # fmt: skip
    for wrong in found.refused:
      self._count_refused('questions', wrong)
      self._reject(clip.id, 'questions', wrong)
    self._counts['questions']['kept'] += len(found.turns)
    if found.turns:
      self._rows['questions'][clip.id] = self._row(
        'questions', clip, found.turns, reply, key, parents
      )
    elif not found.refused:
      self._counts['questions']['rejected'] += 1
      reason = 'Expected about seven questions, found none.'
      self._reject(clip.id, 'questions', replies.Refused(reply.text, reason))

  def _row(self, step, clip, turns, reply, key, parents) -> dict[str, Any]:
    return {
      'id': clip.id,
      'split': clip.split,
      'turns': [dict(turn) for turn in turns],
      'provenance': {
        'generator': reply.model,
        'service': self._services[step].base_url,
        'prompt': prompts.digest(step),
        'request': key,
        'parents': parents,
        'licence': clip.licence,
      },
    }

  def _count_refused(self, step: str, wrong: replies.Refused) -> None:
    what = 'contradicted' if wrong.is_contradicted else 'rejected'
    self._counts[step][what] += 1

  def _reject(self, name: str, step: str, wrong: replies.Refused) -> None:
    self._rejected.append({
      'id': name,
      'step': step,
      'text': wrong.text,
      'reason': wrong.reason,
      'contradicted': wrong.is_contradicted,
    })  # fmt: skip

  # --- In the end ------------------------------------------------------------

  @property
  def is_whole(self) -> bool:
    """Whether every clip has its questions, and every video its caption."""
    return not self.lost and all(
      name in self._rows['questions']
      and (name in self._rows['captions'] or not clip.video)
      for name, clip in self._clips.items()
    )

  def _to_do(self, step: str) -> int:
    """Clips that a step is still for, as far as that is known."""
    if step == 'captions':
      wanted = [name for name, clip in self._clips.items() if clip.video]
    else:
      wanted = [
        name
        for name, clip in self._clips.items()
        if self._known[name]
        or (clip.video and not self.is_settled('captions', name))
      ]
    return sum(not self.is_settled(step, name) for name in wanted)

  def write(self, folder: str) -> None:
    """All three files, each of which takes its place whole."""
    os.makedirs(folder, exist_ok=True)
    in_order = {name: place for place, name in enumerate(self._clips)}
    rows = {
      CAPTIONS: self._in_order(self._rows['captions']),
      QUESTIONS: self._in_order(self._rows['questions']),
      REJECTED: sorted(
        self._rejected, key=lambda row: in_order.get(row['id'], -1)
      ),
    }
    for name, lines in rows.items():
      path = os.path.join(folder, name)
      records.write_json_lines(f'{path}.part', lines)
      os.replace(f'{path}.part', path)

  def _in_order(self, rows: Mapping[str, Any]) -> Sequence[Any]:
    return [rows[name] for name in self._clips if name in rows]

  def table(self) -> str:
    """A line for each step; captions and turns are counted, clips are not."""
    width = max(map(len, ('captions given', *STEPS)))
    lines = [f'{"":{width}}' + ''.join(f'{name:>14}' for name in _HEADER)]
    given = [row for row in self._rejected if row['step'] == 'given']
    named = sum(len(clip.captions) for clip in self._clips.values())
    counts = {
      'captions given': {
        'kept': named - len(given), 'contradicted': len(given)
      },
      **{
        step: self._counts[step]
        | {'to do': self._to_do(step)}
        for step in STEPS
      },
    }  # fmt: skip
    for step, found in counts.items():
      cells = [found.get(name, 0) for name in _HEADER]
      shown = [*map(str, cells[:-1]), f'{cells[-1]:.4f}']
      lines.append(f'{step:{width}}' + ''.join(f'{x:>14}' for x in shown))
    lines.append(
      f'{len(self._clips)} clips'
      + f', {len(self.lost)} more that could not be asked about'
      * bool(self.lost)
    )
    return '\n'.join(lines)
