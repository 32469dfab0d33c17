"""What it costs to read a stranger's file in a process of its own.

    python tests/benchmarks/uploads.py --motion=FILE --video=FILE

Processor time, which others at work on the same cores change little: of a
start, and of reading each file as `uploads` does and as `inputs` does.
"""

import argparse
import pathlib
import resource
import time

from vimonet_jax.apps import inputs, uploads
from vimonet_jax.models import clip_video

# One process, which is given all the time that it takes.
_LIMITS = uploads.Limits(at_once=1, timeout_s=600)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for medium in uploads.ENDINGS:
    parser.add_argument(f'--{medium}', help=f'a {medium} file')
  parser.add_argument('--repeats', type=int, default=20)
  args = parser.parse_args()
  tower = clip_video.Config.languagebind()
  start_s = _spent(tower, {}, 0)
  print(f'start    {start_s:.2f} s')
  for medium in uploads.ENDINGS:
    if not getattr(args, medium):
      continue
    path = pathlib.Path(getattr(args, medium))
    sent = {medium: uploads.File(path.name, path.read_bytes())}
    apart_s = (_spent(tower, sent, args.repeats) - start_s) / args.repeats
    began = time.process_time()
    for _ in range(args.repeats):
      inputs.read(tower, **{medium: str(path)})
    direct_s = (time.process_time() - began) / args.repeats
    print(f'{medium:8} {1e3 * apart_s:.1f} ms, {1e3 * direct_s:.1f} without')


def _spent(tower, sent, repeats: int) -> float:
  """Seconds of this process and of the one that reads, from start to end."""
  began = _used()
  with uploads.Uploads(tower, _LIMITS) as reading:
    for _ in range(repeats):
      reading.read(**sent)
  return _used() - began


def _used() -> float:
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return time.process_time() + usage.ru_utime + usage.ru_stime


if __name__ == '__main__':
  main()
