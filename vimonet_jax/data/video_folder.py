"""The videos of a folder: which there are, which is meant, which open."""

import collections
import concurrent.futures
import dataclasses
import functools
import operator
import os
import pathlib
from collections.abc import Mapping, Sequence

from vimonet_jax.data import conversations, video, video_file

_PROBES = 8  # at a time; they wait for the disk


@dataclasses.dataclass(frozen=True)
class Clips:
  """Videos of a folder by their paths in it, with slashes.

  Attributes:
    sizes: bytes by path; that of a folder of images is the sum.
    by_name: paths by the file's name without ending.
  """

  sizes: Mapping[str, int]
  by_name: Mapping[str, Sequence[str]]

  def find(self, conversation: conversations.Conversation) -> Sequence[str]:
    """The videos that a conversation can mean, none, one or several.

    Of two paths the shorter has to be the end of the longer: a list may begin
    above the folder that somebody has, or below. Endings decide nothing but
    between files that differ in them only, for sets that were prepared for one
    program name files of features (.pkl) in place of videos.
    """
    given = conversation.media.replace('\\', '/')
    if given in self.sizes:
      return (given,)
    parts = conversations.path_of(given)
    candidates = self.by_name.get(conversation.clip, ())
    wanted = [parts]
    if conversation.collection:
      wanted.insert(0, (conversation.collection, *parts))
    for path in wanted:
      paths = {file: conversations.path_of(file) for file in candidates}
      for fits in (operator.eq, conversations.is_end):
        if same := [file for file in candidates if fits(paths[file], path)]:
          return same
    return ()


def look(path: str | os.PathLike) -> Clips:
  """The videos of a folder and of those below it.

  Raises:
    ValueError: there is no such folder.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise ValueError(
      f'Expected a folder of videos in {path}, found none; correct the path.'
    )
  sizes: dict[str, int] = {}
  for folder, _, names in os.walk(root):
    place = pathlib.Path(folder)
    for name in names:
      ending = os.path.splitext(name)[1].lower()
      if ending in video.VIDEOS and not name.startswith('.'):
        file = (place / name).relative_to(root).as_posix()
        sizes[file] = size(place / name)
    if place != root and any(map(_is_image, names)):
      sizes[place.relative_to(root).as_posix()] = size(place)
  by_name = collections.defaultdict(list)
  for file in sorted(sizes):
    by_name[conversations.stem(file)].append(file)
  return Clips(sizes, by_name)


def size(path: str | os.PathLike) -> int:
  """Bytes of a video, or of all images of a folder."""
  path = pathlib.Path(path)
  if not path.is_dir():
    return path.stat().st_size
  images = (p for p in path.iterdir() if _is_image(p.name))
  return sum(image.stat().st_size for image in images)


def without_ending(file: str) -> str:
  """'a/b.mp4' -> 'a/b'."""
  folder, slash, _ = file.rstrip('/').rpartition('/')
  return f'{folder}{slash}{conversations.stem(file)}'


def unreadable(root: str | os.PathLike, files: Sequence[str]) -> dict[str, str]:
  """What is wrong with each video that does not open.

  This process opens each once and remembers it.
  """

  def what(file):
    path = pathlib.Path(root) / file
    # With the time, so that a file that was replaced is opened anew.
    return _fault(path, os.stat(path).st_mtime_ns)

  with concurrent.futures.ThreadPoolExecutor(_PROBES) as pool:
    found = dict(zip(files, pool.map(what, files), strict=True))
  return {file: fault for file, fault in found.items() if fault}


@functools.cache
def _fault(path: pathlib.Path, changed_ns: int) -> str:
  del changed_ns
  try:
    video.read_head(path)
  except video_file.VideoFileError as e:
    return str(e)
  return ''


def _is_image(name: str) -> bool:
  ending = os.path.splitext(name)[1].lower()
  return ending in video.IMAGES and not name.startswith('.')
