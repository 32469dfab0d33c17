"""Loads a finished model once, then answers questions about records.

Everything that asks the model anything (chat, evaluation, probes during
training) comes through here, so all of it sees a record as training did: the
same layout, the same statistics, the same frames. Turns that follow one another
are in conversation.py.
"""

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vimonet_jax import cluster, sharding, weight_files
from vimonet_jax.data import batches, packing, records, text, tokenizer
from vimonet_jax.infer import generate, model_folder
from vimonet_jax.models import quantize as quantizing
from vimonet_jax.models import vimonet

T = TypeVar('T')

# Prompts and caches are padded to a multiple of this, rows to a power of eight
# or the most there may be: few shapes, so few compilations, each of which takes
# as long as a batch.
_LENGTH_STEP = 64
_ROWS_BASE = 8
# Variables that training changes without a gradient, in a collection of theirs.
_CODEBOOK = 'motion/quantizer/'


class Prompt(NamedTuple):
  """An open question as tokens.

  Attributes:
    example: from text.encode_prompt.
    shape: of the row that it takes.
  """

  example: text.Example
  shape: packing.RowShape


class Engine:
  """A model in memory that answers questions.

  Attributes:
    bundle: what it reads records with.
    media: of `motion` and `video`, what it can read.
  """

  def __init__(self, bundle: model_folder.Bundle, params: Mapping[str, Any]):
    """Takes weights as they are; `load` reads a folder.

    Args:
      bundle: how records are read.
      params: path -> parameter, and the codebook's state where it is used. The
        engine runs on the mesh that they live on, or else on one device.
    """
    params = {path: jnp.asarray(x) for path, x in params.items()}
    self.bundle = bundle
    self.media = model_folder.media_of(params)
    self._mesh = _mesh_of(params)
    self._variables = variables(vimonet.unstack(params, bundle.model))

  @classmethod
  def load(
    cls,
    folder: str,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    quantize: str = '',
  ) -> 'Engine':
    """Reads what model_folder.save wrote, every array straight into its shards.

    No host holds more than what its own devices get. What decoder and video
    tower would cast whenever they use it is cast once; norms and translators,
    which compute in float32, stay as they were written.

    Args:
      folder: that model_folder.save wrote.
      mesh: from sharding.make_mesh; None for one device.
      dtype: one of dtypes.NAMES, what decoder and video tower compute in and
        are kept in; None for what their configurations say.
      quantize: of quantize.KINDS, what the decoder's kernels are rounded to
        while they are read; '' keeps them.

    Raises:
      FileNotFoundError: there is no finished model in the folder.
      ValueError: there is one that this version cannot read, or a dimension
        that does not divide among the devices of the mesh.
    """
    bundle = model_folder.read(folder)
    if dtype is not None:
      model = bundle.model
      llm, video = (
        dataclasses.replace(part, dtype=dtype)
        for part in (model.llm, model.video)
      )
      model = dataclasses.replace(model, llm=llm, video=video)
      bundle = bundle._replace(model=model)
    if quantize:
      llm = dataclasses.replace(bundle.model.llm, quantize=quantize)
      model = dataclasses.replace(bundle.model, llm=llm)
      bundle = bundle._replace(model=model)
    mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    wanted = layout(bundle.model, mesh)
    parts = quantizing.made_of(wanted)

    def keep(name, x):
      if parts[name] != [name]:
        return quantizing.like(name, x, wanted)
      return {name: x.astype(_kept(name, x.dtype, bundle.model))}

    params = weight_files.load(
      model_folder.weights(folder),
      # What the model does not have would have no place, and so is not read.
      ['|'.join(map(re.escape, parts))],
      shardings={name: wanted[x[0]].sharding for name, x in parts.items()},
      change=keep,
    )
    return cls(bundle, params)

  def blind(self) -> 'Engine':
    """The same model with embeddings of media that are exactly zero.

    It shares all weights but the translators', whose last layers have a bias
    and no norm: without any weight nothing comes out of them.
    """
    changed = copy.copy(self)
    params = dict(self._variables['params'])
    if 'translators' in params:
      params['translators'] = jax.tree.map(
        jnp.zeros_like, params['translators']
      )
    changed._variables = {**self._variables, 'params': params}
    return changed

  def answer(
    self,
    asked: Sequence[records.Record],
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int | None = None,
    max_rows: int | None = None,
    seed: int = 0,
  ) -> list[str]:
    """One answer for each record's last turn, in order.

    Records with the same media and about as long prompts are answered together.
    With a temperature an answer depends on the seed and on the record's place
    among those asked, not on whom it is answered with.

    Args:
      asked: open questions; earlier turns are history. The last turn's answer
        is empty, or begun, and then goes on behind its last word.
      sampling: how a token is chosen, as in generate.PRESETS.
      max_new_tokens: longest answer; None for that of `sampling`.
      max_rows: of a batch, rows left over and all devices included; None for
        as many as there are records. Every device has one in any case.
      seed: of the sampling.

    Returns:
      What the model has added, without what an answer was begun with.

    Raises:
      ValueError: a record has media that the model was not trained on.
    """
    answers = [''] * len(asked)
    for places, batch in self.in_batches(asked, max_rows=max_rows):
      places_B = np.zeros(len(batch['tokens']), np.int32)
      places_B[: len(places)] = places
      output = self.run(
        batch,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        key=_keys(seed, places_B),
      )
      # The rows left over are empty, and so are their answers.
      for i, answer in zip(places, self.decode(output), strict=False):
        answers[i] = answer
    return answers

  def in_batches(
    self, asked: Sequence[records.Record], *, max_rows: int | None = None
  ) -> Iterator[tuple[list[int], packing.Batch]]:
    """Host batches of open questions, and which of `asked` their rows are.

    Those with the same media and about as long prompts are together; rows left
    over are empty. The arguments are those of `answer`.
    """
    groups: dict[packing.RowShape, list[int]] = {}
    for i, record in enumerate(asked):
      self.check(record)
      groups.setdefault(self.row_shape(record), []).append(i)
    for shape, places in groups.items():
      size = self.rows(len(places), max_rows)
      for start in range(0, len(places), size):
        some = places[start : start + size]
        rows = self.rows(len(some), max_rows)
        yield some, self.prompts([asked[i] for i in some], shape, rows=rows)

  def check(self, record: records.Record) -> None:
    """Raises a ValueError if the model cannot read a record's media."""
    shown = record.clips
    if unread := [medium for medium in shown if medium not in self.media]:
      raise ValueError(
        f'Record {record.id}: expected only media that this model was trained '
        f'on ({" and ".join(self.media) or "none"}), found '
        f'{" and ".join(unread)}; leave it out or use another --workdir.'
      )
    if 'motion' in shown and self.bundle.statistics is None:
      raise ValueError(
        f'Record {record.id}: expected statistics to normalise its motion, '
        f'found no {model_folder.STATISTICS} beside the weights; copy the '
        'folder again.'
      )
    if 'video' in shown:
      tower = self.bundle.model.video
      frames = (tower.frames, tower.image_size, tower.image_size, 3)
      if record.frames.shape != frames:
        raise ValueError(
          f'Record {record.id}: expected frames {frames}, found '
          f'{record.frames.shape}; cut and scale them as data.video does.'
        )

  @property
  def row_shards(self) -> int:
    """Every batch has a multiple of so many rows."""
    return self._mesh.shape['data'] * self._mesh.shape['fsdp']

  def rows(self, number: int, most: int | None = None) -> int:
    """Of a batch for so many records, as `max_rows` of `answer` wants it."""
    shards, power = -(-number // self.row_shards), 1
    while power < shards:
      power *= _ROWS_BASE
    if most is not None:
      power = min(power, max(1, most // self.row_shards))
    return self.row_shards * power

  def share(self, number: int, most: int) -> int:
    """How many of so many records fill a batch at least by half.

    Where devices compute as fast as they can, an empty row costs as much as one
    with a prompt; the others go into a batch of their own.
    """
    number = min(number, most)
    while 2 * number <= (rows := self.rows(number, most)) > self.row_shards:
      number = rows // _ROWS_BASE
    return number

  def run(
    self,
    batch: packing.Batch,
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int | None = None,
    key: jax.Array | None = None,
    cache_length: int | None = None,
    previous: generate.Output | None = None,
    logits_fn: generate.LogitsFn | None = None,
  ) -> generate.Output:
    """generate.generate on a host batch, on the engine's mesh."""
    answer = functools.partial(
      _compiled(self.bundle.model),
      max_new_tokens=max_new_tokens,
      sampling=sampling,
      cache_length=cache_length,
      previous=previous,
    )
    return self.apply(
      lambda variables, batch, key, logits_fn: answer(
        variables, batch, key=key, logits_fn=logits_fn
      ),
      batch,
      key,
      generate.as_argument(logits_fn),
    )

  def apply(
    self, function: Callable[..., T], batch: packing.Batch, *arrays: Any
  ) -> T:
    """function(variables, batch, *arrays), compiled, on the engine's mesh.

    Args:
      function: from jax.jit.
      batch: of the host, from `prompts` or batches.words.
      *arrays: trees of more arrays, alike in all processes.
    """
    vimonet.check_batch(self.bundle.model, batch)
    return self.call(function, batch, *arrays)

  def call(self, function: Callable[..., T], *arrays: Any) -> T:
    """`apply` of what has no batch: function(variables, *arrays)."""
    arrays = cluster.everywhere(arrays, sharding.replicated(self._mesh))
    with sharding.use(self._mesh):
      return function(self._variables, *arrays)

  def row_shape(self, record: records.Record) -> packing.RowShape:
    """Of a row for an open question; records of one shape share a batch."""
    return self.prompt(record).shape

  def prompt(self, record: records.Record) -> Prompt:
    """An open question as tokens."""
    example = text.encode_prompt(record, self.bundle.layout)
    shape = packing.RowShape(
      length=round_up(len(example['tokens'])),
      motion_clips=int(record.motion is not None),
      video_clips=int(record.frames is not None),
      has_words='more_tokens' in example,
    )
    return Prompt(example, shape)

  def prompts(
    self,
    asked: Sequence[records.Record],
    shape: packing.RowShape,
    *,
    rows: int,
  ) -> packing.Batch:
    """A host batch of open questions of one shape; rows left over are empty."""
    return batches.prompts(
      asked,
      layout=self.bundle.layout,
      statistics=self.bundle.statistics,
      rows=rows,
      **dataclasses.asdict(shape),
    )

  def decode(self, output: generate.Output) -> list[str]:
    """Each row's new words; none of a row that had nothing to answer."""
    tokens_BL, lengths_B = cluster.fetch((output.tokens, output.lengths))
    decode = self.bundle.layout.tokenizer.decode
    return [
      decode(ids[:length]).strip()
      for ids, length in zip(tokens_BL, lengths_B, strict=True)
    ]


def variables(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters by path, and the codebook's state, as the network takes them."""
  codebook = {p: x for p, x in params.items() if p.startswith(_CODEBOOK)}
  params = {p: x for p, x in params.items() if p not in codebook}
  return {
    'params': traverse_util.unflatten_dict(params, sep='/'),
    'codebook': traverse_util.unflatten_dict(codebook, sep='/'),
  }


def round_up(length: int) -> int:
  """The length of rows and caches that hold so many tokens."""
  return -(-length // _LENGTH_STEP) * _LENGTH_STEP


def _mesh_of(params: Mapping[str, jax.Array]) -> jax.sharding.Mesh:
  for x in params.values():
    if isinstance(x.sharding, jax.sharding.NamedSharding):
      return x.sharding.mesh
  return sharding.make_mesh(devices=jax.devices()[:1])


@functools.cache
def layout(
  model: vimonet.Config, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape, dtype and place of everything that a model with both media has.

  The dtypes are those that `Engine.load` makes of weights in float32.
  """
  video, rows = model.video, jax.ShapeDtypeStruct((1, 1), jnp.int32)
  batch = dict.fromkeys(
    ('tokens', 'positions', 'segment_ids', 'media_index', 'motion_length'), rows
  )
  batch['motion'] = jax.ShapeDtypeStruct(
    (1, 1, model.max_motion_frames, 263), jnp.float32
  )
  batch['frames'] = jax.ShapeDtypeStruct(
    (1, 1, video.frames, video.image_size, video.image_size, 3), jnp.uint8
  )
  init = functools.partial(
    vimonet.Vimonet(model).init, method=lambda m, batch: m.logits(m(batch))
  )
  abstract = jax.eval_shape(init, jax.random.key(0), batch)
  # The codebook's state has no logical names: it is small.
  state = sharding.flatten(abstract.get('codebook', {}))
  places = {
    **sharding.state_shardings(abstract['params'], mesh),
    **dict.fromkeys(state, sharding.replicated(mesh)),
  }
  return {
    path: jax.ShapeDtypeStruct(
      x.shape, _kept(path, x.dtype, model), sharding=places[path]
    )
    for path, x in {**sharding.unbox(abstract['params']), **state}.items()
  }


def _kept(path: str, dtype: Any, model: vimonet.Config) -> Any:
  """Decoder and video tower as they compute, but for norms and biases."""
  if path.endswith(('/scale', '/bias')) or jnp.issubdtype(dtype, jnp.integer):
    return dtype
  computing = {'llm': model.llm.dtype, 'video': model.video.dtype}
  return jnp.dtype(computing.get(path.partition('/')[0], dtype))


@jax.jit
def _keys(seed: int, places_B: np.ndarray) -> jax.Array:
  """A key for each place."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), places_B)


@functools.cache
def _compiled(model: vimonet.Config) -> Callable[..., generate.Output]:
  """Engines of one model share what was compiled; weights are arguments."""
  run = functools.partial(
    generate.generate, vimonet.Vimonet(model), eos_id=tokenizer.EOS
  )
  fixed = ('sampling', 'max_new_tokens', 'cache_length')
  return jax.jit(run, static_argnames=fixed)
