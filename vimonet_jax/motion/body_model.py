"""Where the joints of a body are at rest, from a file of the SMPL family.

SMPL, SMPL-H and SMPL-X put a joint where a mix of the skin's vertices is, and
the skin moves with the shape of the body. How joints then move needs nothing
else of the model (Loper et al. 2015, section 3): no skinning, no pose blends.
Users get the files under their own licences; none of their numbers is here.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib

import numpy as np

from vimonet_jax.motion import skeleton, smpl

NUM_BETAS = 10  # HumanML3D and Motion-X use ten
_GENDERS = ('male', 'female', 'neutral')
_KEYS = ('v_template', 'shapedirs', 'J_regressor')


@dataclasses.dataclass(frozen=True)
class BodyModel:
  """What of a body model decides where joints are.

  Attributes:
    mean_J3: joints of the mean body, metres.
    shapes_J3K: how far each shape parameter moves them.
  """

  mean_J3: np.ndarray
  shapes_J3K: np.ndarray

  def rest(self, betas: np.ndarray) -> np.ndarray:
    """Joints [22, 3] at rest of the body with these shape parameters [K].

    More parameters than the model is read with count as zero.
    """
    betas_K = np.asarray(betas, np.float64)[: self.shapes_J3K.shape[-1]]
    shapes_J3K = self.shapes_J3K[..., : len(betas_K)]
    return self.mean_J3 + shapes_J3K @ betas_K

  def checksum(self) -> str:
    """A word that changes with the model."""
    content = self.mean_J3.tobytes() + self.shapes_J3K.tobytes()
    return hashlib.blake2s(content, digest_size=8).hexdigest()


def find(folder: str | os.PathLike, gender: str) -> BodyModel:
  """The model of a gender, `male`, `female` or `neutral`.

  Args:
    folder: holds `<gender>/model.npz` (SMPL-H) or `SMPLX_<GENDER>.npz`.
    gender: of the body.

  Raises:
    ValueError: another gender, no file, or one that is no body model.
  """
  if gender not in _GENDERS:
    raise ValueError(
      f'Expected a gender of {", ".join(_GENDERS)}, found {gender!r}.'
    )
  folder = pathlib.Path(folder)
  places = f'{gender}/model.npz', f'SMPLX_{gender.upper()}.npz'
  for path in (folder / place for place in places):
    if path.is_file():
      return _read(path, os.stat(path).st_mtime_ns)
  raise ValueError(
    f'{folder}: expected {" or ".join(places)}, found neither; get the body '
    'model under its licence, or give no folder of body models, to move '
    "HumanML3D's body."
  )


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, changed_ns: int) -> BodyModel:
  """A model; SMPL-X's file takes seconds to read, so it is kept."""
  del changed_ns
  arrays = smpl.load(path)
  if missing := [key for key in _KEYS if key not in arrays]:
    raise ValueError(
      f'{path}: expected the arrays {", ".join(_KEYS)} of a body model, found '
      f'none for {" and ".join(missing)}; get the .npz of SMPL-H or SMPL-X.'
    )
  template_V3, shapes_V3K, regressor_JV = (
    np.asarray(arrays[key], np.float64) for key in _KEYS
  )
  num_vertices = len(template_V3)
  if (
    template_V3.shape[1:] != (3,)
    or shapes_V3K.shape[:2] != (num_vertices, 3)
    or regressor_JV.ndim != 2
    or regressor_JV.shape[1] != num_vertices
    or len(regressor_JV) < skeleton.NUM_JOINTS
  ):
    raise ValueError(
      f'{path}: expected v_template [V, 3], shapedirs [V, 3, K] and '
      f'J_regressor [22 or more, V], found {list(template_V3.shape)}, '
      f'{list(shapes_V3K.shape)} and {list(regressor_JV.shape)}; get the file '
      'again.'
    )
  regressor_JV = regressor_JV[: skeleton.NUM_JOINTS]
  return BodyModel(
    regressor_JV @ template_V3,
    np.einsum('jv,vck->jck', regressor_JV, shapes_V3K[..., :NUM_BETAS]),
  )
