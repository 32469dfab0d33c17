"""Training batches from disk against a torch DataLoader.

    python tests/benchmarks/input_pipeline.py                # frames of 224
    python tests/benchmarks/input_pipeline.py --videos=npy   # none to decode
    python tests/benchmarks/input_pipeline.py --preset=tiny

The same conversations of VIMOS-Synth about a motion and a video, in batches of
as many rows. Ours: stage `instruct` from the dataset that TFDS wrote, by
threads. PyTorch: from what its projects have, by processes: JSON, .npy motions
and H.264 videos (.mp4), which PyAV decodes; tokens padded to the longest. The
videos are of the 8 frames that a model sees and no more; of real ones a loader
decodes all that are between them, too. Both hand out frames as they were
decoded, to be normalised on the device; with --frames=float32 PyTorch's workers
normalise them for CLIP, as its projects do, and hand out four times the bytes.

What is counted is conversations. Those that wait ready before a turn do not.
"""

import argparse
import json
import pathlib
import runpy
import tempfile

import race

PRESETS = {
  'vimos': {'rows': 8, 'clips': 200, 'batches': 25, 'rounds': 8},
  'tiny': {'rows': 24, 'clips': 2000, 'batches': 60, 'rounds': 8},
}
# Our threads and PyTorch's processes where nobody asks for others. Of short
# work, threads of Python make no less.
_WORKERS = {'vimos': (2, 2), 'tiny': (0, 2)}
# Batches that readers may have made while the others had their turn.
_WAITING = 10
_TURNS = 4
# CLIP's, as LanguageBind takes them.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def main() -> None:
  args = _args()
  if args.side:
    {'ours': _ours, 'torch': _torch}[args.side](args)
    return
  theirs = f'torch, {args.videos}'
  with tempfile.TemporaryDirectory() as folder:
    _write(args, folder)
    found = race.run(
      {
        name: race.side(side, f'--folder={folder}')
        for side, name in (('ours', 'ours'), ('torch', theirs))
      },
      rounds=args.rounds,
      mixed=args.mixed,
    )
  race.show(
    f'Batches of {args.rows} rows, lengths of {args.preset}, '
    f"torch's frames in {args.frames}, workers: {args.threads} threads of ours "
    f"and {args.processes} processes of torch's",
    found,
    unit='conversations',
    ours='ours',
    path=args.json,
    settings=vars(args),
  )
  for name, x in found.items():
    shapes = ', '.join(f'{k} {v}' for k, v in x['about']['shapes'].items())
    print(f'{name}: {shapes}')


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  race.add_flags(parser, PRESETS)
  parser.add_argument(
    '--workers',
    type=int,
    default=None,
    help='threads that make our records and processes that make '
    "torch's batches; 0: ours are made by the thread that keeps batches ready, "
    "torch's where they are taken; default: what the preset has for each",
  )
  parser.add_argument('--videos', default='mp4', choices=('mp4', 'npy'))
  parser.add_argument(
    '--frames',
    default='uint8',
    choices=('uint8', 'float32'),
    help="torch's: as they were decoded, as ours are, or normalised for CLIP",
  )
  parser.add_argument('--folder', default='', help=argparse.SUPPRESS)
  args = race.parse(parser, PRESETS)
  args.threads, args.processes = (
    (args.workers,) * 2 if args.workers is not None else _WORKERS[args.preset]
  )
  return args


def _config(args):
  name = {'vimos': 'vicuna7b', 'tiny': 'tiny'}[args.preset]
  path = race.ROOT / 'configs' / f'{name}.py'
  config = runpy.run_path(str(path))['get_config']()
  config.data.update(
    {
      'train': args.clips, 'val': 16, 'test': 16, 'read_threads': args.threads
    }
  )  # fmt: skip
  config.text.vocab_size = min(config.text.get('vocab_size', 2048), 2048)
  stage = config.instruct
  both = {**stage.mixes['both'], 'caption_share': 0.0, 'max_turns': _TURNS}
  stage.mixes = {'both': {**both, 'rows': args.rows}}
  return config


def _write(args, folder: str) -> None:
  """The dataset, and the same as files for PyTorch: a JSON and its clips."""
  import av
  import numpy as np
  import tqdm

  from vimonet_jax import corpus as corpora

  corpus = corpora.prepare(_config(args), folder)
  root = pathlib.Path(folder) / 'torch'
  root.mkdir()
  np.savez(
    root / 'statistics.npz',
    mean=corpus.statistics.mean,
    std=corpus.statistics.std,
  )
  items = []
  for record in tqdm.tqdm(corpus.splits['train'], desc='files for torch'):
    name = record.id.replace('/', '_')
    np.save(root / f'{name}.motion.npy', record.motion)
    if args.videos == 'npy':
      np.save(root / f'{name}.npy', record.frames)
    else:
      with av.open(root / f'{name}.mp4', 'w') as video:
        stream = video.add_stream('libx264', rate=2)
        _, stream.height, stream.width, _ = record.frames.shape
        stream.pix_fmt = 'yuv420p'
        for frame in record.frames:
          video.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        video.mux(stream.encode())
    asked = [
      (turn.question, turn.answer)
      for turn in record.turns
      if not turn.domain.endswith('_caption')
    ]
    items.append({'name': name, 'turns': asked})
  (root / 'train.json').write_text(json.dumps(items))


def _serve(args, batches, conversations) -> None:
  """Takes batches whenever asked.

  Args:
    args: flags.
    batches: endless.
    conversations: how many a batch has.
  """

  def repeat():
    for _ in range(_WAITING):
      next(batches)
    numbers = []

    def take():
      for _ in range(args.batches):
        numbers.append(conversations(next(batches)))

    return {'seconds': race.timed(take), 'work': sum(numbers)}

  first = next(batches)
  shapes = {
    name: f'{str(x.dtype).removeprefix("torch.")}{list(x.shape)}'
    for name, x in first.items()
    if name in ('tokens', 'motion', 'frames')
  }
  race.serve(repeat, on=race.host(), warm_up=1, shapes=shapes)


def _ours(args) -> None:
  import jax

  from vimonet_jax import allocator, pipeline, sharding
  from vimonet_jax import corpus as corpora

  allocator.keep_freed()  # As main does.
  config = _config(args)
  corpus = corpora.prepare(config, args.folder)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  stream = pipeline.stage_batches(config, 'instruct', corpus, mesh)

  # In a row they are numbered from 1.
  _serve(args, iter(stream), lambda x: int(x['segment_ids'].max(1).sum()))


def _torch(args) -> None:
  import torch
  from torch.nn.utils import rnn

  pad = rnn.pad_sequence

  def collate(found):
    return {
      'tokens': pad([x['tokens'] for x in found], True, 0),
      'labels': pad([x['labels'] for x in found], True, -100),
      'motion': pad([x['motion'] for x in found], True, 0.0),
      'frames': torch.stack([x['frames'] for x in found]),
    }

  conversations = _Conversations(args.folder, args.frames)
  loader = torch.utils.data.DataLoader(
    conversations,
    batch_size=args.rows,
    sampler=_Endless(len(conversations)),
    num_workers=args.processes,
    collate_fn=collate,
  )
  _serve(args, iter(loader), lambda batch: len(batch['tokens']))


class _Endless:
  """Numbers in ever new orders: workers do not run dry where a pass ends."""

  def __init__(self, size: int):
    self._size = size

  def __iter__(self):
    import torch

    while True:
      yield from torch.randperm(self._size).tolist()


class _Conversations:
  """Items by number, as the data sets of LLaVA's kin make them."""

  def __init__(self, folder: str, frames: str):
    import numpy as np
    import sentencepiece

    self._root = pathlib.Path(folder) / 'torch'
    self._dtype = frames
    self._items = json.loads((self._root / 'train.json').read_text())
    statistics = np.load(self._root / 'statistics.npz')
    self._mean, self._std = statistics['mean'], statistics['std']
    self._words = sentencepiece.SentencePieceProcessor(
      model_file=str(pathlib.Path(folder) / 'tokenizer.model')
    )

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, index: int):
    import random

    import numpy as np
    import torch

    item = self._items[index]
    tokens, labels = [1], [-100]
    turns = random.sample(item['turns'], min(_TURNS, len(item['turns'])))
    for question, answer in turns:
      asked = self._words.encode(f'USER: {question} ASSISTANT: ')
      told = [*self._words.encode(answer), 2]
      tokens += asked + told
      labels += [-100] * len(asked) + told
    motion = np.load(self._root / f'{item["name"]}.motion.npy')
    motion = (motion - self._mean) / self._std
    return {
      'tokens': torch.tensor(tokens),
      'labels': torch.tensor(labels),
      'motion': torch.from_numpy(motion.astype(np.float32)),
      'frames': self._frames(item['name']),
    }

  def _frames(self, name: str):
    """[I, H, W, 3] of uint8, or [3, I, H, W] as LanguageBind takes them."""
    import av
    import numpy as np
    import torch

    if (path := self._root / f'{name}.npy').exists():
      frames = np.load(path)
    else:
      with av.open(self._root / f'{name}.mp4') as video:
        frames = np.stack(
          [x.to_ndarray(format='rgb24') for x in video.decode(video=0)]
        )
    if self._dtype == 'uint8':
      return torch.from_numpy(frames)
    x = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
    mean, std = torch.tensor(_MEAN), torch.tensor(_STD)
    return (x - mean[:, None, None, None]) / std[:, None, None, None]


if __name__ == '__main__':
  main()
