"""Damaged records are counted, by however many threads at once."""

import concurrent.futures
import json
import time

import pytest

from vimonet_jax.data import batches, records, skipped


def _error(number):
  return records.CorruptError(f'train:{number}', 'hash mismatch')


def _source(damaged, length=6):
  """Numbers, of which some are damaged."""

  def make(number):
    if number in damaged:
      raise _error(number)
    return number

  return batches.FunctionSource(make, length)


def test_threads_that_read_shares_of_the_data_count_together(
  tmp_path, monkeypatch
):
  write = records.write_json_lines

  def slowly(path, rows):
    def paused():
      for row in rows:
        time.sleep(0.002)
        yield row

    write(path, paused())

  monkeypatch.setattr(records, 'write_json_lines', slowly)
  path = tmp_path / 'motion' / 'skipped-0.jsonl'
  counted = skipped.Skipped(16, str(path))
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(counted.add, map(_error, range(16))))
  named = [json.loads(line)['where'] for line in path.read_text().splitlines()]
  assert sorted(named) == sorted(f'train:{i}' for i in range(16))
  assert list(path.parent.iterdir()) == [path]


def test_damaged_records_are_told_by_number_and_the_others_stay_in_order():
  source, counted = _source({1, 4}), skipped.Skipped(2)
  assert counted.damaged(source) == [1, 4]
  assert list(counted.sound(source)) == [0, 2, 3, 5]
  rest = batches.without(source, [1, 4])
  assert [rest[i] for i in range(len(rest))] == [0, 2, 3, 5]
  with pytest.raises(ValueError, match='at most 2 damaged records, found 3'):
    counted.damaged(_source({0}))
