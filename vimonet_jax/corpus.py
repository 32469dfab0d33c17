"""The data of a work folder: dataset, tokenizer and statistics, made once.

    data/  tokenizer.model  statistics.npz  <file>.digest
    data/vimos/<name>/  the dataset; survey.txt failed.txt card.html card.json
"""

import contextlib
import dataclasses
import fcntl
import filecmp
import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import tqdm

from vimonet_jax import base, card, claim, cluster, named_sources
from vimonet_jax.data import (
  batches,
  builder,
  joined,
  records,
  skipped,
  sources,
  text,
  tokenizer,
)
from vimonet_jax.data import dataset as datasets
from vimonet_jax.models import vimonet
from vimonet_jax.motion import features
from vimonet_jax.synthetic import world
from vimonet_jax.train import stages

_TOKENIZER, _STATISTICS = 'tokenizer.model', 'statistics.npz'


class Corpus(NamedTuple):
  """The data of a work folder, and how it is read.

  Attributes:
    splits: train, val and test, records by number.
    words: (split, number) -> a conversation whose media are words.
    layout: tokenizer, template, and the places that a video takes.
    statistics: of the training motions.
  """

  splits: Mapping[str, Sequence[records.Record]]
  words: Callable[[str, int], records.Record]
  layout: text.Layout
  statistics: features.Statistics


def prepare(config, workdir: str) -> Corpus:
  """Builds the dataset, the tokenizer and the statistics that are missing.

  Processes that share the folder wait for the first one and open what it made.

  Raises:
    ValueError: the data are not what the configuration asks for, or its model
      counts motion tokens in another way than records do, or a process does
      not see what the first one has made.
  """
  reader = model(config, vocab_size=1)
  if reader.motion.frames_per_token != records.FRAMES_PER_TOKEN:
    raise ValueError(
      f'Expected a motion encoder with {records.FRAMES_PER_TOKEN} frames per '
      f'token, as records are cut, found {reader.motion.frames_per_token}; '
      f'set model.motion.down to {records.FRAMES_PER_TOKEN.bit_length() - 1}.'
    )
  if config.text.template not in text.TEMPLATES:
    raise ValueError(
      f'Expected text.template to be one of {", ".join(text.TEMPLATES)}, found '
      f'{config.text.template!r}.'
    )
  work = _make if cluster.is_first() else _find
  return cluster.in_turn('corpus', functools.partial(work, config, workdir))


def _make(config, workdir) -> Corpus:
  """What is missing is made; the folders that it is made of are read."""
  with _locked(workdir):
    build(config, workdir)
    # Only now: a folder must not be spoilt by settings that no data fit. And
    # not later: what follows belongs to these settings.
    claim.check(config, workdir)
    claim.write(config, workdir)
    splits = _splits(config, workdir)
    words = _words(config, splits)
    said = _said(config, words, len(splits['train']))
    tokens = _tokenizer(config, workdir, said)
    statistics = _statistics(config, workdir, splits['train'])
  return Corpus(splits, words, layout(config, tokens), statistics)


def _find(config, workdir) -> Corpus:
  """What the first process has made, without a look at what it is made of.

  That may be thousands of files, and processes hundreds.
  """
  # A shared disk may remember that a file was missing, but lists it anew.
  there = os.listdir(workdir) if os.path.isdir(workdir) else ()
  if missing := sorted({claim.FILE, _TOKENIZER, _STATISTICS} - set(there)):
    raise ValueError(
      f'Expected all processes to see one work folder, found {workdir} without '
      f'{", ".join(missing)} where the first process has made the data; choose '
      'a --workdir on a file system that every host mounts.'
    )
  claim.check(config, workdir)
  splits = _splits(config, workdir)
  return Corpus(
    splits,
    _words(config, splits),
    layout(config, _read_tokenizer(workdir)),
    _read_statistics(workdir),
  )


def _splits(config, workdir: str) -> dict[str, datasets.Source]:
  return {
    split: open_split(config, workdir, split) for split in sources.SPLITS
  }


def _words(config, splits) -> Callable[[str, int], records.Record]:
  data = config.data
  if data.name == 'synthetic':
    drawn = world.World(data.seed, data.image_size, data.max_actions)
    return drawn.text_record
  return functools.partial(_captions_as_words, splits)


def layout(config, tokens: tokenizer.Tokenizer) -> text.Layout:
  """How conversations with the model that reads this data are laid out."""
  reader = model(config, vocab_size=1)
  return text.Layout(
    tokens,
    text.TEMPLATES[config.text.template],
    video_tokens=reader.video_tokens,
    motion_slots=reader.motion_tokens,
  )


@contextlib.contextmanager
def _locked(workdir: str) -> Iterator[None]:
  """One process at a time, of all that see the folder."""
  os.makedirs(workdir, exist_ok=True)
  with open(os.path.join(workdir, '.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def build(config, workdir: str) -> None:
  """Makes the dataset unless it is there, and its card; see builder.build."""
  data, made = config.data, dataset(config.data)
  if data.name == 'joined':
    named_sources.check_paths(data)
  is_new = builder.build(
    made,
    _folder(workdir),
    processes=data.processes,
    max_failed=data.get('max_failed', 0),
    beam=data.get('beam', ''),
    beam_options=data.get('beam_options', ()),
  )
  if data.name != 'synthetic':
    _write_card(_folder(workdir), made.name, is_new=is_new)


def _write_card(data_dir: str, name: str, *, is_new: bool) -> None:
  """card.html and card.json beside the dataset, unless they are its own."""
  folder = os.fspath(datasets.folder(data_dir, name).parent)
  if not is_new and os.path.exists(os.path.join(folder, 'card.html')):
    return
  told = {}
  for file in (builder.SURVEY, builder.FAILED):
    path = pathlib.Path(folder, file)
    told[file] = path.read_text(encoding='utf-8') if path.exists() else ''
  before = told[builder.SURVEY]
  if told[builder.FAILED]:
    before += f'\nRecords that could not be made:\n{told[builder.FAILED]}'
  print(card.write(data_dir, name, folder, survey=before), file=sys.stderr)


def open_split(
  config, workdir: str, split: str, hidden: Sequence[str] = ()
) -> datasets.Source:
  """The records of a split, which `build` made, whatever became of its sources.

  A dataset is called as config.data.name is; for `hidden` see datasets.Source.
  """
  return datasets.open(
    _folder(workdir), split, name=config.data.name, hidden=hidden
  )


def _folder(workdir: str) -> str:
  return os.path.join(workdir, 'data')


def dataset(data) -> builder.Synthetic | sources.Folder | joined.Joined:
  """What `data` of a configuration asks builder.build for."""
  if data.name == 'synthetic':
    return builder.Synthetic(
      seed=data.seed,
      image_size=data.image_size,
      max_actions=data.max_actions,
      noisy_share=data.noisy_share,
      num_train=data.train,
      num_val=data.val,
      num_test=data.test,
    )
  if data.name == 'folder':
    if not data.path:
      raise ValueError(
        "Expected --config.data.path=DIR, a folder in HumanML3D's layout, "
        'found none.'
      )
    return sources.Folder(
      path=data.path,
      source=data.source,
      licence=data.licence,
      min_frames=data.min_frames,
    )
  if data.name == 'joined':
    return named_sources.join(data)
  raise ValueError(
    'Expected data.name to be synthetic, folder or joined, found '
    f'{data.name!r}.'
  )


def _captions_as_words(splits, split: str, index: int) -> records.Record:
  """A record of captions only: one of them stands where the clip would.

  Without captions it is a record of words, which no batch of those takes.
  """
  record = splits[split][index % len(splits[split])]
  number = index // len(splits[split])
  bare = dataclasses.replace(
    record,
    id=f'{record.id}-words-{number}',
    motion=None,
    joints=None,
    frames=None,
  )
  captions = [t for t in record.turns if t.domain.endswith('_caption')]
  if not captions:
    return bare
  shown = captions[number % len(captions)]
  medium = 'video' if shown.domain == 'video_caption' else 'motion'
  words = shown.answer.rstrip('.').replace('+', ' ')
  return dataclasses.replace(bare, turns=(shown,), **{f'{medium}_text': words})


def _said(config, words, number: int) -> batches.FunctionSource:
  """The training conversations that a tokenizer is trained on.

  Drawn ones are all alike. Of `number` records, which follow one another by
  source, they are spread over all.
  """
  most = config.text.corpus
  is_spread = config.data.name != 'synthetic' and number > most
  return batches.FunctionSource(
    lambda i: words('train', i * number // most if is_spread else i), most
  )


def _tokenizer(config, workdir: str, said) -> tokenizer.Tokenizer:
  path = os.path.join(workdir, _TOKENIZER)
  _keep(base.file(config, 'llm', 'tokenizer.model'), path)
  if not os.path.exists(path):
    template = text.TEMPLATES[config.text.template]
    proto = tokenizer.train_tokenizer(
      (
        line
        for record in passing_over(config, workdir).sound(said)
        for line in text.texts(record, template)
      ),
      config.text.vocab_size,
    )
    _write(path, tokenizer.Tokenizer(proto).save)
  return _read_tokenizer(workdir)


def _read_tokenizer(workdir: str) -> tokenizer.Tokenizer:
  path = os.path.join(workdir, _TOKENIZER)
  _check_digest(path)
  return tokenizer.Tokenizer.load(path)


def _statistics(config, workdir: str, train) -> features.Statistics:
  path = os.path.join(workdir, _STATISTICS)
  _keep(base.file(config, 'motion', 'statistics.npz'), path)
  if not os.path.exists(path):
    bar = tqdm.tqdm(
      passing_over(config, workdir).sound(train),
      total=len(train),
      desc='statistics',
      dynamic_ncols=True,
    )
    motions = (x.motion for x in bar if x.motion is not None)
    found = features.Statistics.of(motions, config.data.root_gain)
    _write(path, found.save)
  return _read_statistics(workdir)


def _read_statistics(workdir: str) -> features.Statistics:
  path = os.path.join(workdir, _STATISTICS)
  _check_digest(path)
  return features.Statistics.load(path)


def _keep(given: str | None, path: str) -> None:
  """Copies a file that came with the weights of config.base, if there is one.

  Raises:
    ValueError: the folder has another one already.
  """
  if given is None:
    return
  if os.path.exists(path) and not filecmp.cmp(given, path, shallow=False):
    raise ValueError(
      f'Expected {path} to be that of config.base, {given}, found another; the '
      'folder was begun with other weights, so choose another --workdir.'
    )
  _write(path, functools.partial(shutil.copyfile, given))


def _write(path: str, save: Callable[[str], None]) -> None:
  """All of a file or nothing, also where a shared disk knows no locks."""
  part = f'{path}.{platform.node()}.{os.getpid()}.part'
  save(part)
  os.replace(part, path)


def _check_digest(path: str) -> None:
  """Refuses a file that changed since it was first read here.

  A tokenizer with a flipped bit still is one, and would read other words.
  """
  with open(path, 'rb') as f:
    found = hashlib.blake2s(f.read(), digest_size=8).hexdigest()
  try:
    with open(f'{path}.digest', encoding='utf-8') as f:
      known = f.read()
  except FileNotFoundError:
    _write(
      f'{path}.digest',
      lambda part: pathlib.Path(part).write_text(found, encoding='utf-8'),
    )
    return
  if known != found:
    raise ValueError(
      f'Expected {path} as the run began with it (digest {known}), found it '
      f'changed ({found}); bring the old one back, or begin anew in another '
      '--workdir.'
    )


def passing_over(config, folder: str | None) -> skipped.Skipped:
  """Counts damaged records, as many as data.max_corrupt lets pass.

  Args:
    config: of the run.
    folder: where this process names them; None for nowhere.
  """
  return skipped.Skipped(
    config.data.max_corrupt,
    folder and os.path.join(folder, f'skipped-{jax.process_index()}.jsonl'),
  )


def damaged(
  source: Sequence[records.Record], passing_over: skipped.Skipped
) -> set[int]:
  """Numbers of the records that any process cannot read.

  All find the same ones, since they ask the same questions.
  """
  here = json.dumps(passing_over.damaged(source))
  told = cluster.tell('damaged records', here)
  return set().union(*map(json.loads, told))


def stage_model(config, name: str, *, vocab_size: int) -> vimonet.Config:
  """The model as a stage trains it: with its adapters, and in its bits."""
  return model(
    config,
    vocab_size=vocab_size,
    adapters=config[name].get('lora'),
    quantize=config[name].get('quantize', ''),
  )


def model(
  config, *, vocab_size: int, adapters=None, quantize: str = ''
) -> vimonet.Config:
  """The model that reads this data; see stages.model_config."""
  return stages.model_config(
    config.model,
    vocab_size=vocab_size,
    image_size=config.data.image_size,
    adapters=adapters,
    quantize=quantize,
  )
