"""The trials of AMASS as HumanML3D's `raw_pose_processing` reads them.

Every `int(fps / 20)`th frame of a trial is taken, a known lead-in cut off, and
z up turned to y up.

Where joints are depends on the body. With SMPL-H's model files they are where
HumanML3D has them. Without, HumanML3D's body moves (see `motion.smpl`), whose
bones start from other directions: 97 degrees from hip to hip where four real
clips have 69 to 74, 131 from hip to spine where they have 139 to 143. Rotations
that were fitted to it as well as can be still miss these clips by 2 to 3 cm in
the hips and collars and by 0.1 std in positions and rotations; rotations of
SMPL's own body by 0.3 std. A path is off by what the legs differ in length.

"SMPL-X G" files (`_stageii.npz`) are taken where there are no others. Some of
them state another frame rate than the index was made for (Motion-X issue 43): a
cut that ends behind its trial is left out and named, for so it shows.
"""

import dataclasses
import functools
import math
import os
import pathlib

import numpy as np

from vimonet_jax.data import kin, motion_files
from vimonet_jax.motion import body_model, readers, skeleton, smpl

# Lead-ins that HumanML3D cuts off, in frames at 20 per second: somebody stands
# with their arms out.
TRIMS = {
  'Eyes_Japan_Dataset': 60,
  'MPI_HDM05': 60,
  'MPI_Limits': 20,
  'TotalCapture': 20,
  'Transitions_mocap': 10,
}
HUMANACT12 = 'humanact12'


@dataclasses.dataclass(frozen=True)
class Trial:
  """What has to be known of a trial before a build.

  Attributes:
    error: a sentence, where it cannot be read.
    frames: how many there are at 20 per second, without the lead-in.
    bad: those that are not finite, counted likewise.
    checksum: of the file.
  """

  error: str = ''
  frames: int = 0
  bad: tuple[int, ...] = ()
  checksum: str = ''


def find(root: pathlib.Path, source_path: str) -> str | None:
  """The file of a trial, relative to `root`; None where there is none.

  Args:
    root: AMASS's folders by HumanML3D's names of them, or by those of today.
    source_path: as in `index.csv`, `./pose_data/KIT/3/..._poses.npy`.
  """
  # From the folder of the subset on.
  parts = pathlib.PurePosixPath(source_path).parts
  subset, *folders, name = [part for part in parts if part != 'pose_data']
  stem = name.removesuffix('.npy')
  new = kin.SUBSETS.get(subset, subset)
  tops = dict.fromkeys((subset, f'{new}/{subset}', new))
  files = [f'{stem}.npy']
  if subset != HUMANACT12:
    stem = stem.removesuffix('_poses')
    files = [f'{stem}_poses.npz', f'{stem}_poses.npy', f'{stem}_stageii.npz']
  for top in tops:
    for file in files:
      path = '/'.join((top, *folders, file))
      # The release of SMPL-X has no blanks in its names.
      for found_path in dict.fromkeys((path, path.replace(' ', '_'))):
        if (root / found_path).is_file():
          return found_path
  return None


def read(
  root: pathlib.Path, file: str, *, first: int, last: int, body_models: str = ''
) -> np.ndarray:
  """Joints [last - first, 22, 3] at 20 fps, metres, y up, as the subject moved.

  Args:
    root: AMASS's folders.
    file: as `find` found it.
    first: of the frames at 20 per second, after the lead-in.
    last: the frame after the last.
    body_models: folder of SMPL-H's `male/model.npz` and `female/model.npz`;
      empty to move HumanML3D's body.

  Raises:
    ValueError: the file cannot be read, or there is no model of the body.
  """
  try:
    arrays, step = _load(root / file)
    lead_in = _lead_in(file)
    rows = slice((lead_in + first) * step, (lead_in + last) * step, step)
    if 'poses' in arrays:
      part = {
        'poses': arrays['poses'][rows, : 3 * skeleton.NUM_JOINTS],
        'trans': arrays['trans'][rows],
      }
      rest_J3 = _rest(arrays, body_models) if body_models else None
      joints_TJ3 = smpl.from_poses(part, rest_J3=rest_J3).joints_TJ3
      return joints_TJ3 @ readers.TO_Y_UP['z'].T
  except ValueError as e:
    raise ValueError(f'{root / file}: {e}') from e
  joints_TJ3 = arrays[''][rows, : skeleton.NUM_JOINTS].astype(np.float64)
  # HumanML3D has exchanged y and z when it saves these, and no more; those of
  # HumanAct12 are as it wants them.
  return joints_TJ3 * ([1, 1, 1] if file.startswith(HUMANACT12) else [-1, 1, 1])


def look(root: pathlib.Path, file: str) -> Trial:
  """Reads a trial once, 10 to 100 ms, and remembers what a build must know."""
  # With the time, so that a file that was replaced is read anew.
  changed_ns = os.stat(root / file).st_mtime_ns
  return _look_at(root / file, _lead_in(file), changed_ns)


@functools.cache
def _look_at(path: pathlib.Path, lead_in: int, changed_ns: int) -> Trial:
  del changed_ns
  try:
    arrays, step = _load(path)
  except (ValueError, OSError) as e:
    return Trial(error=str(e).rstrip('.'))
  if 'poses' in arrays:
    columns = 3 * skeleton.NUM_JOINTS
    moves = np.concatenate(
      [arrays['poses'][::step, :columns], arrays['trans'][::step]], axis=1
    )
  else:
    moves = arrays[''][:, : skeleton.NUM_JOINTS].reshape(len(arrays['']), -1)
  is_bad_T = ~np.isfinite(moves[lead_in:]).all(axis=1)
  return Trial(
    frames=len(is_bad_T),
    bad=tuple(np.flatnonzero(is_bad_T).tolist()),
    checksum=motion_files.checksum(path),
  )


def _load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], int]:
  """The arrays of a trial, and which of its frames to take: every nth.

  Raises:
    ValueError: one sentence about what is wrong with the file.
  """
  arrays = smpl.load(path)
  if '' in arrays:
    shape, numbers = arrays[''].shape, arrays[''].dtype.kind in 'fiu'
    if shape[2:] != (3,) or shape[1] < skeleton.NUM_JOINTS or not numbers:
      raise ValueError(
        'expected joints [T, 22 or more, 3] at 20 fps, as HumanML3D saves '
        f'them, found {arrays[""].dtype} {list(shape)}; make or get it again.'
      )
    return arrays, 1
  if 'poses' not in arrays:
    raise ValueError(
      f'expected poses and trans, found {", ".join(sorted(arrays))}; get the '
      '"SMPL+H G" file of AMASS.'
    )
  smpl.check_poses(arrays)
  fps = smpl.frame_rate(arrays)
  if fps is None or not math.isfinite(fps) or fps < readers.FPS:
    raise ValueError(
      f'expected mocap_framerate, 20 or more, found {fps}; get the file again.'
    )
  betas = arrays.get('betas', np.zeros(0))
  if betas.dtype.kind not in 'fiu' or not np.isfinite(betas).all():
    raise ValueError(
      f'expected betas of finite numbers, found {betas.dtype} '
      f'{list(betas.shape)} with others; get the file again.'
    )
  # HumanML3D cuts the fraction off, and its index counts frames so.
  return arrays, int(fps / readers.FPS)


def _rest(arrays: dict[str, np.ndarray], body_models: str) -> np.ndarray:
  """Where the subject's joints [22, 3] are at rest."""
  gender = arrays.get('gender', np.array('')).reshape(-1).astype(str).tolist()
  # HumanML3D: whoever is not marked male has the female body.
  model = body_model.find(
    body_models, 'male' if gender == ['male'] else 'female'
  )
  return model.rest(arrays.get('betas', np.zeros(0)).reshape(-1))


def _lead_in(file: str) -> int:
  return TRIMS.get(kin.trial(file).split('/')[0], 0)
