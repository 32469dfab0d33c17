import pathlib
import sys

import pytest
import samples

from vimonet_jax.data import beam, builder, dataset


def test_without_a_runner_nothing_is_asked_of_beam():
  assert beam.options('', ('--project=p',)) == {}
  with pytest.raises(ValueError, match="'dataflow', found 'spark'; correct it"):
    beam.options('spark', ())


def test_a_missing_package_is_named_before_anything_is_made(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'apache_beam.options', None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[beam\]'"):
    builder.build(samples.Fake(), tmp_path / 'data', beam='direct')
  assert not (tmp_path / 'data').exists()


def _beam():
  pytest.importorskip('apache_beam', reason='needs the package apache-beam')


def test_options_are_passed_through():
  _beam()
  from apache_beam.options import pipeline_options

  flags = ('--project=p', '--temp_location=gs://b', '--region=r')
  found = beam.options('dataflow', flags)
  assert found['beam_runner'] == 'DataflowRunner'
  cloud = found['beam_options'].view_as(pipeline_options.GoogleCloudOptions)
  assert (cloud.project, cloud.region) == ('p', 'r')


def test_beam_makes_the_same_records_in_the_same_order(tmp_path, built):
  _beam()
  builder.build(samples.Fake(), tmp_path, progress=False, beam='direct')
  for split in ('train', 'val'):
    found = [r.id for r in dataset.open(tmp_path, split)]
    assert found == [r.id for r in dataset.open(built, split)]
  assert not list(pathlib.Path(tmp_path).rglob('items.*'))


def test_beam_names_who_fails(tmp_path):
  _beam()
  source = samples.Fake(failing=(2, 5))
  with pytest.raises(ValueError, match='at most 1 records .* found 2'):
    builder.build(source, tmp_path, progress=False, beam='direct', max_failed=1)
  builder.build(source, tmp_path, progress=False, beam='direct', max_failed=2)
  ids = [record.id for record in dataset.open(tmp_path, 'train')]
  assert ids == [f'train-{i}' for i in range(11) if i not in (2, 5)]
  failed = (tmp_path / 'vimos' / 'synthetic' / builder.FAILED).read_text()
  assert failed.splitlines() == [
    "('train', 2): a file is broken.", "('train', 5): a file is broken."
  ]  # fmt: skip
