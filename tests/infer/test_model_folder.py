import json
import shutil

import pytest

from vimonet_jax.infer import engine, model_folder


def test_a_folder_without_a_finished_model_is_named(tiny_model, tmp_path):
  with pytest.raises(FileNotFoundError, match='found no such folder; run'):
    engine.Engine.load(str(tmp_path / 'none'))
  with pytest.raises(FileNotFoundError, match='found no config.json in it'):
    engine.Engine.load(str(tmp_path))
  folder = tmp_path / 'model'
  shutil.copytree(f'{tiny_model.workdir}/model', folder)
  fields = json.loads((folder / 'config.json').read_text())
  del fields['model']['llm']['width']
  for content in ('{"model": ', '{}', json.dumps(fields)):
    (folder / 'config.json').write_text(content)
    with pytest.raises(ValueError, match='a finished run writes.*again'):
      engine.Engine.load(str(folder))


def test_a_killed_save_leaves_no_finished_model(tiny_model, tmp_path):
  folder = str(tmp_path / 'model')
  shutil.copytree(f'{tiny_model.workdir}/model', folder)

  class Killed:
    def save(self, path):
      raise KeyboardInterrupt

  bundle = tiny_model.bundle._replace(statistics=Killed())
  with pytest.raises(KeyboardInterrupt):
    model_folder.save(folder, bundle, tiny_model.params)
  with pytest.raises(FileNotFoundError, match='finished model'):
    engine.Engine.load(folder)
