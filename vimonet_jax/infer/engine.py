"""Loads a finished model once, then answers questions about records.

Everything that asks the model anything (chat, evaluation, probes during
training) comes through here, so all of it sees a record as training did: the
same layout, the same statistics, the same frames.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vimonet_jax import checkpoint, sharding
from vimonet_jax.data import batches, packing, records, text, tokenizer
from vimonet_jax.infer import generate
from vimonet_jax.models import lora, vimonet
from vimonet_jax.motion import features

# Prompts and caches are padded to a multiple of this, rows to a power of eight:
# few shapes, so few compilations, each of which takes as long as a batch.
_LENGTH_STEP = 64
_ROWS_BASE = 8
_CONFIG, _TOKENIZER = 'config.json', 'tokenizer.model'
_STATISTICS, _WEIGHTS = 'statistics.npz', 'weights'
# Variables that training changes without a gradient, in a collection of theirs.
_CODEBOOK = 'motion/quantizer/'


class ConversationTooLongError(ValueError):
  """The next turn would not fit; says what would."""


class Bundle(NamedTuple):
  """What a model needs besides its weights to read a record.

  Attributes:
    model: sizes; with adapters where the weights have them.
    layout: tokenizer, template, and the places that clips take.
    statistics: of the motion encoder's training data; None without one.
  """

  model: vimonet.Config
  layout: text.Layout
  statistics: features.Statistics | None


def save(folder: str, bundle: Bundle, params: Mapping[str, Any]) -> None:
  """Writes a folder that `Engine.load` needs nothing besides.

  Adapters are merged into their kernels in float32.

  Args:
    folder: is made where it is missing.
    bundle: goes into config.json, tokenizer.model and statistics.npz.
    params: path -> parameter, and the codebook's state where it is used.
  """
  model = bundle.model
  if model.llm.lora.rank:
    params = lora.merge(params, model.llm.lora)
    llm = dataclasses.replace(model.llm, lora=lora.LoraConfig())
    model = dataclasses.replace(model, llm=llm)
  path = os.path.join(folder, _CONFIG)
  is_writer = jax.process_index() == 0
  if is_writer:
    os.makedirs(folder, exist_ok=True)
    # First it goes and last it comes: a folder that has it is complete.
    if os.path.exists(path):
      os.remove(path)
  checkpoint.save_weights(os.path.join(folder, _WEIGHTS), params)
  if not is_writer:
    return
  bundle.layout.tokenizer.save(os.path.join(folder, _TOKENIZER))
  if bundle.statistics is not None:
    bundle.statistics.save(os.path.join(folder, _STATISTICS))
  fields = {
    'model': model.to_json(),
    'template': dataclasses.asdict(bundle.layout.template),
  }
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
  os.replace(f'{path}.part', path)


def load_bundle(folder: str) -> Bundle:
  """Reads what `save` wrote, but for the weights.

  Raises:
    FileNotFoundError: there is no finished model in the folder.
    ValueError: there is one that this version cannot read.
  """
  path = os.path.join(folder, _CONFIG)
  if not os.path.exists(path):
    found = f'no {_CONFIG} in it' if os.path.isdir(folder) else 'no such folder'
    raise FileNotFoundError(
      f'Expected a finished model in {folder}, found {found}; run '
      '--task=pipeline to its end or correct --workdir.'
    )
  try:
    with open(path, encoding='utf-8') as f:
      fields = json.load(f)
    model = vimonet.Config.from_json(fields['model'])
    template = text.Template(**fields['template'])
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'{path}: expected what engine.save writes, found {e!r}; export the '
      'model again.'
    ) from e
  layout = text.Layout(
    tokenizer.Tokenizer.load(os.path.join(folder, _TOKENIZER)),
    template,
    video_tokens=model.video_tokens,
    motion_slots=model.motion_tokens,
  )
  path = os.path.join(folder, _STATISTICS)
  statistics = None
  if os.path.exists(path):
    try:
      statistics = features.Statistics.load(path)
    except Exception as e:  # NumPy and zipfile raise a dozen kinds.
      raise ValueError(
        f'{path}: expected what engine.save writes, found {_short(e)}; copy '
        'the folder again.'
      ) from e
  return Bundle(model, layout, statistics)


def _short(error: Exception) -> str:
  """What somebody else's error says, in a part of a line."""
  said = str(error).strip().partition('\n')[0] or type(error).__name__
  return repr(said[:100])


class Engine:
  """A model in memory that answers questions.

  Attributes:
    bundle: what it reads records with.
    media: of `motion` and `video`, what it can read.
  """

  def __init__(self, bundle: Bundle, params: Mapping[str, Any]):
    """Takes weights as they are; `load` reads a folder.

    Args:
      bundle: how records are read.
      params: path -> parameter, and the codebook's state where it is used. The
        engine runs on the mesh that they live on, or else on one device.
    """
    params = {path: jnp.asarray(x) for path, x in params.items()}
    self.bundle = bundle
    self.media = tuple(
      medium
      for medium in ('motion', 'video')
      if any(path.startswith(f'translators/{medium}/') for path in params)
    )
    self._mesh = _mesh_of(params)
    codebook = {p: params.pop(p) for p in [*params] if p.startswith(_CODEBOOK)}
    self._variables = {
      'params': traverse_util.unflatten_dict(params, sep='/'),
      'codebook': traverse_util.unflatten_dict(codebook, sep='/'),
    }

  @classmethod
  def load(cls, folder: str) -> 'Engine':
    """Reads what `save` wrote, on one device; raises what load_bundle does."""
    bundle = load_bundle(folder)
    path = os.path.join(folder, _WEIGHTS)
    try:
      params = checkpoint.load_weights(path)
    except FileNotFoundError:
      raise
    except Exception as e:  # Whatever a broken file makes Orbax raise.
      raise ValueError(
        f'{path}: expected weights that can be read, found {_short(e)}; copy '
        'the folder again.'
      ) from e
    return cls(bundle, params)

  def answer(
    self,
    asked: Sequence[records.Record],
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int = 64,
    seed: int = 0,
  ) -> list[str]:
    """One answer for each record's last turn, in order.

    Records with the same media and about as long prompts are answered together,
    however many they are: who has more than fit into memory asks in parts. With
    a temperature the answers depend on the seed and on who is asked together.

    Args:
      asked: open questions; earlier turns are history.
      sampling: how a token is chosen.
      max_new_tokens: longest answer.
      seed: of the sampling.

    Raises:
      ValueError: a record has media that the model was not trained on.
    """
    groups: dict[packing.RowShape, list[int]] = {}
    for i, record in enumerate(asked):
      self.check(record)
      groups.setdefault(self._row_shape(record), []).append(i)
    answers = [''] * len(asked)
    for shape, places in groups.items():
      shards = -(-len(places) // self.row_shards)
      batch = self._prompts(
        [asked[i] for i in places],
        shape,
        rows=self.row_shards * _next_power(shards, _ROWS_BASE),
      )
      output = self.run(
        batch,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        key=jax.random.key(seed),
      )
      # The rows left over are empty, and so are their answers.
      for i, answer in zip(places, self._decode(output), strict=False):
        answers[i] = answer
    return answers

  def start(
    self,
    record: records.Record,
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int = 64,
    seed: int = 0,
    room: int = 1024,
  ) -> 'Conversation':
    """A conversation of several turns about one record's media.

    Args:
      record: the media; what it has for turns does not count.
      sampling: how a token is chosen.
      max_new_tokens: longest answer.
      seed: of the sampling.
      room: tokens that all turns together can have, besides those of clips.

    Raises:
      ValueError: the record has media that the model was not trained on.
    """
    self.check(record)
    layout = self.bundle.layout
    motion = 0 if record.motion is None else layout.motion_slots
    video = 0 if record.frames is None else layout.video_tokens
    return Conversation(
      self,
      record,
      sampling=sampling,
      max_new_tokens=max_new_tokens,
      seed=seed,
      cache_length=_round_up(room + motion + video),
    )

  def check(self, record: records.Record) -> None:
    """Raises a ValueError if the model cannot read a record's media."""
    has = {'motion': record.motion, 'video': record.frames}
    shown = [medium for medium, x in has.items() if x is not None]
    if unread := [medium for medium in shown if medium not in self.media]:
      raise ValueError(
        f'Record {record.id}: expected only media that this model was trained '
        f'on ({" and ".join(self.media) or "none"}), found '
        f'{" and ".join(unread)}; leave it out or use another --workdir.'
      )
    if 'motion' in shown and self.bundle.statistics is None:
      raise ValueError(
        f'Record {record.id}: expected statistics to normalise its motion, '
        f'found no {_STATISTICS} beside the weights; copy the folder again.'
      )

  @property
  def row_shards(self) -> int:
    """Every batch has a multiple of so many rows."""
    return self._mesh.shape['data'] * self._mesh.shape['fsdp']

  def run(
    self,
    batch: packing.Batch,
    *,
    max_new_tokens: int,
    sampling: generate.Sampling = generate.GREEDY,
    key: jax.Array | None = None,
    cache_length: int | None = None,
    previous: generate.Output | None = None,
  ) -> generate.Output:
    """generate.generate on a host batch, on the engine's mesh."""
    vimonet.check_batch(self.bundle.model, batch)
    with sharding.use(self._mesh):
      return _compiled(self.bundle.model)(
        self._variables,
        batch,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        key=key,
        cache_length=cache_length,
        previous=previous,
      )

  def _row_shape(self, record: records.Record) -> packing.RowShape:
    """Of a row for an open question; records of one shape share a batch."""
    prompt = text.encode_prompt(record, self.bundle.layout)
    return packing.RowShape(
      length=_round_up(len(prompt['tokens'])),
      motion_clips=int(record.motion is not None),
      video_clips=int(record.frames is not None),
      has_words='more_tokens' in prompt,
    )

  def _prompts(self, asked, shape, *, rows: int) -> packing.Batch:
    return batches.prompts(
      asked,
      layout=self.bundle.layout,
      statistics=self.bundle.statistics,
      rows=rows,
      **dataclasses.asdict(shape),
    )

  def _decode(self, output: generate.Output) -> list[str]:
    """Each row's new words."""
    tokens_BL, lengths_B = jax.device_get((output.tokens, output.lengths))
    decode = self.bundle.layout.tokenizer.decode
    return [
      decode(ids[:length]).strip()
      for ids, length in zip(tokens_BL, lengths_B, strict=True)
    ]


class Conversation:
  """Turns about the same media, which are encoded once.

  What was said stays in the decoder's cache, so a later turn costs its own
  words only. `Engine.start` makes one.

  Attributes:
    turns: how many questions have been answered.
  """

  def __init__(
    self,
    engine: Engine,
    record: records.Record,
    *,
    sampling: generate.Sampling,
    max_new_tokens: int,
    seed: int,
    cache_length: int,
  ):
    self._engine = engine
    self._record = record
    self._sampling = sampling
    self._max_new_tokens = max_new_tokens
    self._key = jax.random.key(seed)
    self._cache_length = cache_length
    self.turns = 0
    self._output: generate.Output | None = None

  def ask(self, question: str) -> str:
    """The answer to the next question.

    Raises:
      ConversationTooLongError: the turn may not fit into the cache; the
        conversation is as it was before.
    """
    is_first = self._output is None
    batch = self._first(question) if is_first else self._next(question)
    self._check_room(np.sum(batch['segment_ids'] > 0))
    # A mesh takes no fewer rows than it has shards for: all ask the same.
    batch = {
      name: np.repeat(x, self._engine.row_shards, axis=0)
      for name, x in batch.items()
    }
    self._output = self._engine.run(
      batch,
      max_new_tokens=self._max_new_tokens,
      sampling=self._sampling,
      key=jax.random.fold_in(self._key, self.turns),
      cache_length=self._cache_length if is_first else None,
      previous=self._output,
    )
    self.turns += 1
    return self._engine._decode(self._output)[0]

  def _first(self, question: str) -> packing.Batch:
    turn = records.Turn(question, '')
    record = dataclasses.replace(self._record, turns=(turn,))
    shape = self._engine._row_shape(record)
    return self._engine._prompts([record], shape, rows=1)

  def _next(self, question: str) -> packing.Batch:
    ids = text.encode_turn(question, self._engine.bundle.layout)
    if self._output.last[0] != tokenizer.EOS:
      # The answer was cut short. It ends here for whoever reads it.
      ids = np.concatenate([[tokenizer.EOS], ids])
    return batches.words(ids, length=_round_up(len(ids)))

  def _check_room(self, num_tokens: int) -> None:
    # The newest token is not in the cache yet.
    used = 0 if self._output is None else self._output.cache.length[0] + 1
    more = num_tokens + self._max_new_tokens
    if used + more > self._cache_length:
      raise ConversationTooLongError(
        f'Expected a conversation of at most {self._cache_length} tokens, '
        f'clips included, found {used} so far and {more} for another question '
        'and its answer; start a new one or ask in fewer words.'
      )


def _round_up(length: int) -> int:
  return -(-length // _LENGTH_STEP) * _LENGTH_STEP


def _next_power(number: int, base: int) -> int:
  power = 1
  while power < number:
    power *= base
  return power


def _mesh_of(params: Mapping[str, jax.Array]) -> jax.sharding.Mesh:
  for x in params.values():
    if isinstance(x.sharding, jax.sharding.NamedSharding):
      return x.sharding.mesh
  return sharding.make_mesh(devices=jax.devices()[:1])


@functools.cache
def _compiled(model: vimonet.Config) -> Callable[..., generate.Output]:
  """Engines of one model share what was compiled; weights are arguments."""
  run = functools.partial(
    generate.generate, vimonet.Vimonet(model), eos_id=tokenizer.EOS
  )
  fixed = ('sampling', 'max_new_tokens', 'cache_length')
  return jax.jit(run, static_argnames=fixed)
