"""Motion-X's folders as records: motion, captions, and videos where they are.

    train.txt val.txt test.txt           e.g. idea400/subset_0001/Eat_clip_1
    motion_data/smplx_322/<name>.npy     float [T, 322] at 30 fps, y up
    texts/semantic_labels/<name>.txt     one caption a line
    videos/<name>.mp4                    which its authors do not hand out

See `motionx_files` for what is in them. `humanml/` are HumanML3D's clips by its
ids, in its splits (63 of 63 that were compared). EgoBody, GRAB and humanml are
not handed out: Motion-X's scripts make them of data that users get elsewhere,
and have to be run for 30 fps.
"""

import collections
import dataclasses
import os
import pathlib
from typing import Any, ClassVar

from vimonet_jax.data import (
  clips,
  found,
  kin,
  motion_files,
  motionx_files,
  records,
  sources,
  survey,
  video,
)
from vimonet_jax.motion import body_model

PUBLISHED = 'motionx'
# So many clips of a subset do not happen to show people who lie.
_MANY = 20


@dataclasses.dataclass(frozen=True)
class MotionX:
  """A dataset for `builder.build`, from Motion-X's folders.

  Attributes:
    path: the folder.
    licence: under which it may be used; goes into every record.
    source: what records call it.
    image_size: width and height of frames, pixels.
    frames: how many are taken of a video.
    body_models: folder of `SMPLX_NEUTRAL.npz`; empty to move HumanML3D's body.
    min_frames: see `sources.humanml3d`.
  """

  name: ClassVar[str] = 'motionx'
  path: str
  licence: str
  source: str = PUBLISHED
  image_size: int = 224
  frames: int = 8
  body_models: str = ''
  min_frames: int = records.MIN_MOTION_FRAMES

  def splits(self) -> dict[str, list[clips.Clip]]:
    """What `make` is called with, for each split.

    Raises:
      ValueError: as `look`, or there is a split without clips.
    """
    there = self.find()
    sources.check_splits(there, path=self.path, min_frames=self.min_frames)
    return there.splits

  def make(self, item: clips.Clip) -> records.Record:
    """The record of a clip; its frames are those of the video, if it has one.

    Raises:
      ValueError: a file changed since, or there is no model of the body.
    """
    joints_TJ3 = motionx_files.read(
      pathlib.Path(item.root) / item.file, body_models=self.body_models
    )
    motion_TF = clips.encode(item, joints_TJ3)
    frames = None
    if item.video:
      is_part = item.stop - item.start < len(motion_TF)
      frames = video.read_clip(
        pathlib.Path(item.root) / item.video,
        size=self.image_size,
        frames=self.frames,
        start_s=item.start / records.FPS if is_part else None,
        end_s=item.stop / records.FPS if is_part else None,
        antialias=self.image_size < video.REFERENCE_PIXELS,
      )
    return clips.record(
      item,
      motion_TF,
      joints_TJ3,
      source=self.source,
      licence=self.licence,
      frames=frames,
    )

  def identity(self) -> dict[str, Any]:
    """What decides the content; the folder may move, its files must stay."""
    return {
      'source': self.source,
      'licence': self.licence,
      'image_size': self.image_size,
      'frames': self.frames,
      'bodies': [body.checksum() for body in self._bodies()],
      'min_frames': self.min_frames,
      'content': self.find().digest(),
    }

  def find(self) -> found.Found:
    """What there is, a split without clips or not; see `look`.

    Videos are a note of theirs: a clip without one is a clip still.
    """
    self._bodies()  # Now, and not some hours into a build.
    there, videos = look(self.path, min_frames=self.min_frames)
    note = f'videos of these: {videos.summary()}'
    return dataclasses.replace(there, notes=(note,))

  def survey(self, there: found.Found | None = None) -> survey.Survey:
    """Counts what `find` finds, or what is given."""
    return survey.of_clips(self.source, there or self.find())

  def cut(self, item: clips.Clip) -> kin.Cut:
    """The frames that a clip shows, of a trial that other data sets know."""
    return cut(item.member, start=item.start, stop=item.stop)

  def _bodies(self) -> list[body_model.BodyModel]:
    if not self.body_models:
      return []
    return [body_model.find(self.body_models, 'neutral')]


def cut(name: str, *, start: float, stop: float) -> kin.Cut:
  """Which recording a clip is of, by its name.

      humanml/M000820                        HumanML3D's clip 000820
      GRAB/s7/cup_drink_1                    AMASS's trial of that name
      EgoBody/recording_.../body_idx_0/003   the recording, of two people
      music/subset_0002/Play_Bass_clip_58    all clips of that title

  Clips of one title may be of one video or of several; the name does not tell.

  Args:
    name: as in the split files.
    start: first frame of the clip, at 20 per second.
    stop: the one after the last.
  """
  subset, *folders, last = name.split('/')
  if subset == 'humanml':
    return kin.humanml3d(last, start=start, stop=stop)
  if subset == 'GRAB':
    return kin.Cut(PUBLISHED, name, kin.trial(name), start, stop)
  if subset == 'EgoBody' and folders:
    trial = '/'.join((PUBLISHED, subset, folders[0]))
  else:
    trial = '/'.join((PUBLISHED, subset, *folders, motionx_files.title(last)))
  return kin.Cut(PUBLISHED, name, trial, start, stop, part=name)


def look(
  path: str | os.PathLike, *, min_frames: int = records.MIN_MOTION_FRAMES
) -> tuple[found.Found, found.Found]:
  """Clips that split files name and that have a motion and a caption.

  Every motion is read once, some milliseconds each, of every video the first
  frame; this process remembers both.

  Returns:
    The clips, and of these the ones that have a video.

  Raises:
    ValueError: no split files, no clip at all, captions that are not text, or
      bodies of which most do not stand along y, in all or in one subset.
  """
  root = pathlib.Path(path)
  named = sources.listed(root)
  mirrors = {name: _mirror_of(name) for _, name in named}
  sources.check_mirrors(root, named, mirrors)
  faults = {}  # of videos

  def look_at(split: str, name: str) -> clips.Clip | found.LeftOut:
    file = f'{motionx_files.MOTIONS}/{name}.npy'
    if not (root / file).is_file():
      return found.LeftOut(split, name, 'missing', f'no {file}')
    motion = motionx_files.look(root / file)
    if motion.error:
      return found.LeftOut(split, name, 'unreadable', f'{file}: {motion.error}')
    if motion.is_damaged:
      return found.LeftOut(split, name, 'damaged')
    watched = motionx_files.find_video(root, name)
    fault = motionx_files.fault(root / watched) if watched else ''
    faults[name] = fault
    return clips.Clip(
      id=name,
      split=split,
      root=os.fspath(root),
      file=file,
      member=name,
      start=0,
      stop=motion.rows,
      captions=(),
      mirror_of=mirrors[name],
      video=watched if not fault else '',
    )

  splits, left_out = clips.gather(
    named,
    lambda name: motionx_files.read_captions(root, name),
    look_at,
    texts=motionx_files.TEXTS[0],
    min_frames=min_frames,
  )
  checksums, with_video, without = {}, {}, []
  standing = collections.defaultdict(collections.Counter)
  for split, some in splits.items():
    for clip in some:
      if clip.file not in checksums:  # And not a part of one that was.
        motion = motionx_files.look(root / clip.file)
        checksums[clip.file] = motion.checksum
        for folder in ('', clip.member.split('/')[0]):
          standing[folder][motion.standing] += 1
      if clip.video:
        with_video.setdefault(split, []).append(clip)
        checksums[clip.video] = motion_files.checksum(root / clip.video)
        continue
      fault = faults[clip.member]
      reason = 'unreadable' if fault else 'missing'
      without.append(found.LeftOut(split, clip.id, reason, fault))
  there = found.Found(splits, checksums, tuple(left_out))
  if not splits:
    raise ValueError(
      f'Expected clips with {motionx_files.MOTIONS} and '
      f'{motionx_files.TEXTS[0]} in {root}, found '
      f"{there.summary()}; give Motion-X's folder, with its split files in it."
    )
  for folder, counts in standing.items():
    if not folder or counts.total() >= _MANY:
      sources.check_up(root / motionx_files.MOTIONS / folder, counts)
  return there, found.Found(with_video, {}, tuple(without))


def _mirror_of(name: str) -> str:
  """The clip whose mirror image one of `humanml/` is, listed or not."""
  folder, _, last = name.rpartition('/')
  is_mirrored = folder == 'humanml' and last.startswith('M')
  return f'{folder}/{last[1:]}' if is_mirrored else ''
