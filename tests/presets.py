"""The configurations in configs/, for tests that start from one."""

import pathlib
import runpy

import ml_collections

_FOLDER = pathlib.Path(__file__).parents[1] / 'configs'


def load(name: str, arg: str = '', **changes) -> ml_collections.ConfigDict:
  """A preset with other values for dotted names, whose dots are `__` here."""
  config = runpy.run_path(str(_FOLDER / f'{name}.py'))['get_config'](arg)
  config.update_from_flattened_dict(
    {field.replace('__', '.'): value for field, value in changes.items()}
  )
  return config
