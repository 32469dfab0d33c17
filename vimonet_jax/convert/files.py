"""Checkpoint files of the PyTorch world: safetensors and torch pickles.

    weights.safetensors                one file
    pytorch_model.bin  weights.pth     one file
    *.index.json                       names which shard holds which tensor
    a folder                           that has one of these

A checkpoint of many gigabytes is never in memory: tensors are read one at a
time, and what was mapped for some is given back before the next.
"""

import dataclasses
import functools
import json
import os
import pathlib
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

_SAFETENSORS = ('.safetensors',)
_TORCH = ('.bin', '.pth', '.pt', '.ckpt', '.tar', '.lora')  # lit-gpt's last
_TORCH_BEGINS = (b'PK', b'\x80')  # A zip archive, or a pickle before torch 1.6.
# In the order in which a folder is searched: safetensors run no code.
_IN_FOLDER = (
  'model.safetensors.index.json',
  'model.safetensors',
  'adapter_model.safetensors',
  'pytorch_model.bin.index.json',
  'pytorch_model.bin',
  'adapter_model.bin',
  'lit_model.pth',
)
# Where a folder has an adapter beside a decoder.
ADAPTER_FILES = ('adapter_model.safetensors', 'adapter_model.bin')
# model-00001-of-00002.safetensors
_SHARD = re.compile(r'(.+)-\d+-of-\d+(\.\w+)')
_POINTER = b'version https://git-lfs'
# Under which training scripts keep the weights beside other things.
_WRAPPERS = ('net', 'state_dict', 'model')
# Read from a torch file before it is mapped anew: what was mapped counts as
# memory of ours, and its pickle takes 40 ms for a hundred tensors.
_MAPPED_BYTES = 1 << 29
# Of a torch file that cannot be mapped, and is in memory while it is read.
_OLD_BYTES = 1 << 28


class CheckpointFileError(ValueError):
  """A file that is not the checkpoint it should be; says what to do."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Tensors by name, none of them in memory.

  Attributes:
    path: the file, or the index of several.
    shapes: name -> shape.
    read: name -> its array, as stored; bfloat16 is ml_dtypes'.
    size: of all tensors, bytes.
  """

  path: pathlib.Path
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]
  size: int


def open_checkpoint(
  path: str | os.PathLike, *, prefer: Sequence[str] = ()
) -> Checkpoint:
  """Opens a file, the index of several, or the folder that they lie in.

  Torch files are read as data only: one that would run code is refused.

  Args:
    path: the file or folder.
    prefer: names that are looked for first in a folder of several checkpoints.

  Raises:
    CheckpointFileError: nothing there, or nothing that can be read.
  """
  path = _file(pathlib.Path(path), prefer)
  shards = _shards(path)
  owner, shapes, size = {}, {}, 0
  for shard in shards:
    for name, (shape, itemsize) in _headers(shard).items():
      if name in owner:
        raise CheckpointFileError(
          f'{path}: expected each tensor in one shard, found {name} in '
          f'{owner[name].name} and {shard.name}; fetch the checkpoint again.'
        )
      owner[name], shapes[name] = shard, shape
      size += int(np.prod(shape, dtype=np.int64)) * itemsize
  torch_reader = _TorchReader()

  def read(name: str) -> np.ndarray:
    is_safe = owner[name].suffix in _SAFETENSORS
    reader = _read_safetensors if is_safe else torch_reader
    return reader(owner[name], name)

  return Checkpoint(path=path, shapes=shapes, read=read, size=size)


def beside(path: str | os.PathLike, name: str) -> pathlib.Path | None:
  """The file of that name that lies with a checkpoint, if there is one."""
  path = pathlib.Path(path)
  found = (path if path.is_dir() else path.parent) / name
  return found if found.is_file() else None


def begins(path: pathlib.Path) -> str:
  """What a file turns out to be that is not what it should be; for messages."""
  with open(path, 'rb') as f:
    begin = f.read(40)
  if begin.startswith(_POINTER):
    return "a pointer of git-lfs to it; run 'git lfs pull' where it was cloned"
  return f'one that begins with {begin!r}; fetch it again'


def _file(path: pathlib.Path, prefer: Sequence[str]) -> pathlib.Path:
  """What to open: the path, or a file of the folder that it is."""
  if path.is_file():
    return path
  if not path.is_dir():
    raise CheckpointFileError(
      f'{path}: expected a checkpoint, found no such file or folder; correct '
      "the path, or fetch it first ('hf download NAME --local-dir FOLDER' for "
      'one of the Hugging Face Hub), for nothing is downloaded here.'
    )
  names = [name for name in (*prefer, *_IN_FOLDER) if (path / name).is_file()]
  others = sorted(
    file for file in path.iterdir() if file.suffix in _SAFETENSORS + _TORCH
  )
  if names:
    return path / names[0]
  found = ', '.join(file.name for file in others[:5]) or 'none'
  shard = next(filter(None, (_SHARD.fullmatch(x.name) for x in others)), None)
  if shard:
    raise CheckpointFileError(
      f'{path}: expected an index that says which shard has which tensor, '
      f'found {found} without one; fetch {shard[1]}{shard[2]}.index.json too, '
      'or name the shard itself where it has all that is wanted.'
    )
  if len(others) == 1:
    return others[0]
  raise CheckpointFileError(
    f'{path}: expected a folder with {", ".join(_IN_FOLDER)} or one single '
    f'checkpoint file, found {found}; name the file itself.'
  )


def _shards(path: pathlib.Path) -> list[pathlib.Path]:
  if path.name.endswith('.index.json'):
    shards = [path.parent / file for file in _in_index(path)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
      raise CheckpointFileError(
        f'{path}: expected its {len(shards)} shards beside it, found no '
        f'{", ".join(missing)}; fetch them too.'
      )
    return shards
  if path.suffix not in _SAFETENSORS + _TORCH:
    raise CheckpointFileError(
      f'{path}: expected a checkpoint ({" ".join(_SAFETENSORS + _TORCH)}, or '
      f'an .index.json), found a name with {path.suffix or "no ending"}; name '
      'the file or the folder with the weights.'
    )
  return [path]


def _in_index(path: pathlib.Path) -> list[str]:
  """Names of the shards."""
  with open(path, encoding='utf-8') as f:
    try:
      return sorted(set(json.load(f)['weight_map'].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
      raise CheckpointFileError(
        f'{path}: expected a weight_map that names the shard of each tensor, '
        f'found none or a part of one ({e}); fetch it again.'
      ) from e


def _headers(shard: pathlib.Path) -> dict[str, tuple[tuple[int, ...], int]]:
  """name -> (shape, bytes per number)."""
  if shard.suffix in _SAFETENSORS:
    with _safetensors(shard) as file:
      return {
        name: (tuple(part.get_shape()), _bytes(part.get_dtype()))
        for name in file.keys()  # noqa: SIM118 - it is no dict
        for part in [file.get_slice(name)]
      }
  return {
    name: (tuple(tensor.shape), tensor.element_size())
    for name, tensor in _torch(shard).items()
  }


def _bytes(safetensors_dtype: str) -> int:
  """F32 -> 4, BF16 -> 2, F8_E4M3 -> 1, BOOL -> 1."""
  digits = ''.join(filter(str.isdigit, safetensors_dtype.split('_')[0]))
  return max(1, int(digits or 8) // 8)


def _read_safetensors(shard: pathlib.Path, name: str) -> np.ndarray:
  # Opened anew, which takes no time: see _MAPPED_BYTES.
  with _safetensors(shard) as file:
    return file.get_tensor(name)


class _TorchReader:
  """Keeps one file open, for `_MAPPED_BYTES`; for any thread."""

  def __init__(self):
    self._lock = threading.Lock()
    self._shard, self._tensors, self._left = None, {}, 0

  def __call__(self, shard: pathlib.Path, name: str) -> np.ndarray:
    with self._lock:
      if shard != self._shard or self._left <= 0:
        self._tensors = {}  # What others still use of them stays mapped.
        self._tensors = _torch(shard)
        self._shard, self._left = shard, _MAPPED_BYTES
      tensor = self._tensors[name]
      self._left -= tensor.nbytes
    return to_numpy(tensor)


def _safetensors(shard: pathlib.Path) -> Any:
  safetensors = _import('safetensors')
  try:
    return safetensors.safe_open(os.fspath(shard), 'np')
  except safetensors.SafetensorError as e:
    with open(shard, 'rb') as f:
      is_part = f.read(9)[8:] == b'{'  # After eight bytes that are a length.
    found = f'a part of one ({e}); fetch it again' if is_part else begins(shard)
    raise CheckpointFileError(
      f'{shard}: expected a safetensors file, found {found}.'
    ) from e


def _torch(shard: pathlib.Path) -> dict[str, Any]:
  """The tensors of a torch file, mapped where its format allows it."""
  torch = _import('torch')
  with open(shard, 'rb') as f:
    begin = f.read(40)
  if not begin.startswith(_TORCH_BEGINS):
    # torch would take an error page or a pointer of git-lfs for a bad pickle.
    raise CheckpointFileError(
      f'{shard}: expected a torch file, found {begins(shard)}.'
    )
  if not begin.startswith(b'PK') and shard.stat().st_size > _OLD_BYTES:
    raise CheckpointFileError(
      f'{shard}: expected a file in the format of torch 1.6 or later, found an '
      'older one, which can only be read as a whole; load it with torch and '
      'save it again.'
    )
  load = functools.partial(torch.load, shard, 'cpu', weights_only=True)
  try:
    try:
      found = load(mmap=True)
    except RuntimeError as e:  # Written before torch 1.6: no zip archive.
      if 'mmap' not in str(e):
        raise
      found = load()
  except pickle.UnpicklingError as e:
    # Of what else torch says the first is how to run the code all the same.
    named = re.search(r'GLOBAL (\S+)', str(e))
    raise CheckpointFileError(
      f'{shard}: expected a file of tensors only, found '
      f'{named[1] if named else "Python objects"} in it, which could run any '
      'code when it is read; get it as safetensors or, if you trust it, save '
      "its state_dict alone (README.md, 'From PyTorch and back', has the line)."
    ) from e
  except (RuntimeError, EOFError, OSError) as e:
    reason = next(iter(str(e).splitlines()), type(e).__name__)
    raise CheckpointFileError(
      f'{shard}: expected a torch file, found something else or a part of one '
      f'({reason[:200]}); fetch it again.'
    ) from e
  return _tensors(shard, found)


def _tensors(shard: pathlib.Path, found: Any) -> dict[str, Any]:
  """The state dict of what was saved, under whichever of the usual names."""
  for wrapper in _WRAPPERS:
    if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
      found = found[wrapper]
  if isinstance(found, Mapping):
    tensors = {k: x for k, x in found.items() if hasattr(x, 'element_size')}
    others = [
      repr(key)
      for key, x in found.items()
      if isinstance(x, Mapping)
      and any(hasattr(y, 'element_size') for y in x.values())
    ]
    if others:
      raise CheckpointFileError(
        f'{shard}: expected tensors by name, at the top or under '
        f'{", ".join(_WRAPPERS)}, found some under {", ".join(others)}; save '
        'the one that you mean as a state_dict of its own.'
      )
    if tensors:
      return tensors
  raise CheckpointFileError(
    f'{shard}: expected tensors by name, at the top or under '
    f'{", ".join(_WRAPPERS)}, found {type(found).__name__}; save a state_dict.'
  )


def to_numpy(tensor: Any) -> np.ndarray:
  """A torch tensor's numbers without a copy, bfloat16 included."""
  torch = _import('torch')
  tensor = tensor.detach().cpu()
  if tensor.dtype == torch.bfloat16:
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return tensor.numpy()


def to_torch(array: np.ndarray) -> Any:
  """The inverse of `to_numpy`; copies where torch could not share."""
  torch = _import('torch')
  array = np.asarray(array, order='C')
  if array.dtype == ml_dtypes.bfloat16:
    return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
  return torch.from_numpy(array.copy())


def write_torch(path: str, tensors: Mapping[str, Any]) -> None:
  """Writes arrays by name, in nested dicts or a flat one, as torch does."""
  torch = _import('torch')

  def convert(x):
    if isinstance(x, Mapping):
      return {name: convert(part) for name, part in x.items()}
    return to_torch(x)

  torch.save(convert(tensors), path)


def write_safetensors(
  folder: str,
  stem: str,
  shards: Sequence[Callable[[], Iterator[tuple[str, np.ndarray]]]],
) -> None:
  """Writes shards one after the other, one in memory, and their index.

  Args:
    folder: exists.
    stem: `model` gives model-00001-of-00012.safetensors, and
      model.safetensors alone where there is one shard.
    shards: each gives its tensors when it is called.
  """
  _import('safetensors')
  from safetensors import numpy as safetensors_numpy

  for left in pathlib.Path(folder).glob(f'{stem}*.safetensors*'):
    left.unlink()  # Of an earlier export, with another number of shards.
  weight_map, size = {}, 0
  for number, tensors_of in enumerate(shards, 1):
    part = f'-{number:05d}-of-{len(shards):05d}' if len(shards) > 1 else ''
    file = f'{stem}{part}.safetensors'
    # Of a transposed view it would write the numbers in the other order.
    tensors = {name: np.asarray(x, order='C') for name, x in tensors_of()}
    path = os.path.join(folder, file)
    safetensors_numpy.save_file(tensors, path, metadata={'format': 'pt'})
    os.chmod(path, 0o644)  # It would be for its owner's eyes only.
    weight_map |= dict.fromkeys(tensors, file)
    size += sum(x.nbytes for x in tensors.values())
    del tensors
  if len(shards) > 1:
    index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
    path = os.path.join(folder, f'{stem}.safetensors.index.json')
    with open(path, 'w', encoding='utf-8') as f:
      json.dump(index, f, indent=2)


def _import(name: str) -> Any:
  try:
    return __import__(name)
  except ImportError as e:
    raise CheckpointFileError(
      f'Expected the package {name} for weights of PyTorch, found none; '
      "install it with pip install -e '.[parity]'."
    ) from e
