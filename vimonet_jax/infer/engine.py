"""Loads a finished model once, then answers questions about records.

Everything that asks the model anything (chat, evaluation, probes during
training) comes through here, so all of it sees a record as training did: the
same layout, the same statistics, the same frames.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vimonet_jax import checkpoint, sharding
from vimonet_jax.data import batches, packing, records, text
from vimonet_jax.infer import generate
from vimonet_jax.models import (
  clip_video,
  llama,
  lora,
  motion_vqvae,
  vimonet,
)
from vimonet_jax.motion import features

Flat = dict[str, Any]

# Prompts are padded to a multiple of this, rows to a power of two: few shapes,
# so few compilations.
_LENGTH_STEP = 64
_CONFIG, _TOKENIZER = 'config.json', 'tokenizer.model'
_STATISTICS, _WEIGHTS = 'statistics.npz', 'weights'


class Bundle(NamedTuple):
  """What a model needs besides its weights to read a record.

  Attributes:
    model: sizes; adapters included where the weights have them.
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
    params: path -> parameter.
  """
  os.makedirs(folder, exist_ok=True)
  adapters = bundle.model.llm.lora
  model = bundle.model
  if adapters.rank:
    params = lora.merge(params, adapters)
    llm = dataclasses.replace(model.llm, lora=lora.LoraConfig())
    model = dataclasses.replace(model, llm=llm)
  checkpoint.save_weights(os.path.join(folder, _WEIGHTS), params)
  bundle.layout.tokenizer.save(os.path.join(folder, _TOKENIZER))
  if bundle.statistics is not None:
    bundle.statistics.save(os.path.join(folder, _STATISTICS))
  fields = {
    'model': dataclasses.asdict(model),
    'template': dataclasses.asdict(bundle.layout.template),
  }
  path = os.path.join(folder, _CONFIG)
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
  os.replace(f'{path}.part', path)  # Last: a folder with it is complete.


class Engine:
  """A model in memory that answers questions.

  Attributes:
    bundle: what it reads records with.
    media: of `motion` and `video`, what it can read.
  """

  def __init__(
    self,
    bundle: Bundle,
    params: Mapping[str, Any],
    *,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Takes weights as they are; `load` reads a folder.

    Args:
      bundle: how records are read.
      params: path -> parameter; adapters may be merged or beside their kernels.
      mesh: where the parameters live; None is one device.
    """
    self.bundle = bundle
    self.media = tuple(
      medium
      for medium in ('motion', 'video')
      if any(path.startswith(f'translators/{medium}/') for path in params)
    )
    self._model = vimonet.Vimonet(bundle.model)
    self._variables = {
      'params': traverse_util.unflatten_dict(dict(params), sep='/')
    }
    self._mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    self._generate = jax.jit(
      functools.partial(generate.generate, self._model, eos_id=text.EOS),
      static_argnames=('sampling', 'max_new_tokens', 'cache_length'),
    )

  @classmethod
  def load(cls, folder: str) -> 'Engine':
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: there is no finished model in the folder.
    """
    path = os.path.join(folder, _CONFIG)
    if not os.path.exists(path):
      raise FileNotFoundError(
        f'Expected a finished model in {folder}, found no {_CONFIG}; run '
        '--task=pipeline to its end or correct --workdir.'
      )
    with open(path, encoding='utf-8') as f:
      fields = json.load(f)
    model = _model_from_json(fields['model'])
    layout = text.Layout(
      text.Tokenizer.load(os.path.join(folder, _TOKENIZER)),
      text.Template(**fields['template']),
      video_tokens=model.video_tokens,
    )
    statistics = os.path.join(folder, _STATISTICS)
    bundle = Bundle(
      model,
      layout,
      features.Statistics.load(statistics)
      if os.path.exists(statistics)
      else None,
    )
    params = checkpoint.load_weights(os.path.join(folder, _WEIGHTS))
    return cls(bundle, {path: jnp.asarray(x) for path, x in params.items()})

  def answer(
    self,
    asked: Sequence[records.Record],
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int = 64,
    seed: int = 0,
  ) -> list[str]:
    """One answer for each record's last turn, in order.

    Records with the same media are answered together. With a temperature the
    answers depend on the seed and on who is asked together.

    Args:
      asked: open questions; earlier turns are history.
      sampling: how a token is chosen.
      max_new_tokens: longest answer.
      seed: of the sampling.
    """
    groups: dict[tuple, list[int]] = {}
    for i, record in enumerate(asked):
      self._check(record)
      length = len(text.encode_prompt(record, self.bundle.layout)['tokens'])
      bucket = -(-length // _LENGTH_STEP) * _LENGTH_STEP
      clips = (
        record.motion is not None,
        record.frames is not None,
        record.motion_text is not None or record.video_text is not None,
      )
      groups.setdefault((bucket, *clips), []).append(i)
    answers = [''] * len(asked)
    for (length, has_motion, has_video, has_words), places in groups.items():
      batch = batches.prompts(
        [asked[i] for i in places],
        layout=self.bundle.layout,
        statistics=self.bundle.statistics,
        rows=1 << (len(places) - 1).bit_length(),
        length=length,
        motion_clips=int(has_motion),
        video_clips=int(has_video),
        has_words=has_words,
      )
      output = self.run(
        batch,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        key=jax.random.key(seed),
      )
      for i, answer in zip(places, self._decode(output), strict=False):
        answers[i] = answer
    return answers

  def run(self, batch: packing.Batch, **settings) -> generate.Output:
    """Runs generate.generate on a host batch, on the engine's mesh."""
    vimonet.check_batch(self.bundle.model, batch)
    with sharding.use(self._mesh):
      return self._generate(self._variables, batch, **settings)

  def start(
    self,
    record: records.Record,
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int = 64,
    cache_length: int = 1024,
  ) -> 'Conversation':
    """A conversation of several turns about one record's media."""
    self._check(record)
    return Conversation(
      self,
      record,
      {
        'sampling': sampling,
        'max_new_tokens': max_new_tokens,
      },
      cache_length,
    )

  def _check(self, record: records.Record) -> None:
    has = {'motion': record.motion, 'video': record.frames}
    shown = [medium for medium, x in has.items() if x is not None]
    if unread := sorted(set(shown) - set(self.media)):
      raise ValueError(
        f'Record {record.id}: expected only media that this model was trained '
        f'on ({" and ".join(self.media) or "none"}), found '
        f'{" and ".join(unread)}; leave it out or use another --workdir.'
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
  words only.
  """

  def __init__(self, engine, record, settings, cache_length):
    self._engine = engine
    self._record = record
    self._settings = settings
    self._cache_length = cache_length
    self._output = None

  def ask(self, question: str) -> str:
    """The answer to the next question.

    Raises:
      ValueError: the conversation has become too long to go on.
    """
    layout = self._engine.bundle.layout
    if self._output is None:
      turn = records.Turn(question, '')
      record = dataclasses.replace(self._record, turns=(turn,))
      ids = text.encode_prompt(record, layout)['tokens']
    else:
      record = records.Record('turn', 'chat', 'test')
      ids = text.encode_turn(question, layout)
      if self._last != text.EOS:  # The answer was cut short; now it is over.
        ids = np.concatenate([[text.EOS], ids])
    length = -(-len(ids) // _LENGTH_STEP) * _LENGTH_STEP
    needed = len(ids) + self._settings['max_new_tokens'] + 1
    if self._used + needed > self._cache_length:
      raise ValueError(
        f'Expected a conversation of at most {self._cache_length} tokens, '
        f'found {self._used} and {needed} more to come; start a new one.'
      )
    if self._output is None:
      batch = batches.prompts(
        [record],
        layout=layout,
        statistics=self._engine.bundle.statistics,
        rows=1,
        length=length,
        motion_clips=int(record.motion is not None),
        video_clips=int(record.frames is not None),
      )
    else:
      batch = batches.words(ids, length=length)
    self._output = self._engine.run(
      batch,
      previous=self._output,
      cache_length=self._cache_length if self._used == 0 else None,
      **self._settings,
    )
    return self._engine._decode(self._output)[0]

  @property
  def _used(self) -> int:
    return 0 if self._output is None else int(self._output.cache.length[0])

  @property
  def _last(self) -> int:
    return int(self._output.last[0])


def _model_from_json(fields: Mapping[str, Any]) -> vimonet.Config:
  """The inverse of dataclasses.asdict."""
  adapters = {**fields['llm']['lora']}
  adapters['targets'] = tuple(adapters['targets'])
  llm = {**fields['llm'], 'lora': lora.LoraConfig(**adapters)}
  return vimonet.Config(
    **{
      **fields,
      'llm': llama.Config(**llm),
      'motion': motion_vqvae.Config(**fields['motion']),
      'video': clip_video.Config(**fields['video']),
    }
  )
