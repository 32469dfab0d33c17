"""Eight frames of a video file against OpenCV and decord.

    pip install decord opencv-python-headless
    python tests/benchmarks/video_reading.py --videos=DIR

From a file to uint8 [8, 224, 224, 3]: the same frames, spread over the clip,
short side to 224 pixels, middle cut out. Nobody uses more than one core, since
a loader has a reader on each; what is counted is processor time. OpenCV goes to
each frame and decodes from the key frame before it, as loaders that use it do;
ours and decord's decode what they need and no more than once. In a long video
with many key frames that is little of it; `--only` reads one file alone.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
import race

PRESETS = {'files': {'frames': 8, 'size': 224, 'rounds': 5}}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  race.add_flags(parser, PRESETS)
  parser.add_argument('--videos', required=True, help='a folder of videos')
  parser.add_argument('--only', default='', help='one file of the folder')
  args = race.parse(parser, PRESETS)
  readers = {'ours': _ours, 'opencv': _opencv, 'decord': _decord}
  if args.side:
    _serve(args, readers[args.side])
    return
  found = race.run(
    {name: race.side(name) for name in readers}, rounds=args.rounds
  )
  race.show(
    f'{args.frames} frames of {args.size} pixels, {args.only or "all files"}, '
    'seconds of a processor',
    found,
    unit='clips',
    ours='ours',
    path=args.json,
    settings=vars(args),
  )


def _serve(args: argparse.Namespace, read) -> None:
  files = sorted(
    path
    for path in pathlib.Path(args.videos).iterdir()
    if path.suffix in ('.mp4', '.avi', '.mkv', '.webm')
    and args.only in ('', path.name)
  )
  if not files:
    sys.exit(f'Expected videos in {args.videos}, found none.')

  def repeat():
    start = time.process_time()
    for path in files:
      clip = read(path, args.frames, args.size)
      assert clip.shape == (args.frames, args.size, args.size, 3), path
    return {'seconds': time.process_time() - start, 'work': len(files)}

  race.serve(repeat, on=race.host(), warm_up=1)


def _ours(path, frames: int, size: int) -> np.ndarray:
  from vimonet_jax.data import video

  return video.read_clip(path, size=size, frames=frames)


def _opencv(path, frames: int, size: int) -> np.ndarray:
  import cv2

  cv2.setNumThreads(1)
  threads = [cv2.CAP_PROP_N_THREADS, 1]
  capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)
  number = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
  if number < 1:  # The head of the file does not know.
    while capture.grab():
      number += 1
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)
  images = []
  for index in np.linspace(0, number - 1, frames).astype(int):
    capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
    is_there, image = capture.read()
    if is_there:
      images.append(_square(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size))
    else:  # Its index counts frames that it cannot decode.
      images.append(images[-1])
  capture.release()
  return np.stack(images)


def _decord(path, frames: int, size: int) -> np.ndarray:
  import decord

  reader = decord.VideoReader(str(path), num_threads=1)
  indices = np.linspace(0, len(reader) - 1, frames).astype(int)
  images = reader.get_batch(indices).asnumpy()
  return np.stack([_square(image, size) for image in images])


def _square(image, size: int) -> np.ndarray:
  import cv2

  cv2.setNumThreads(1)
  height, width = image.shape[:2]
  scale = size / min(height, width)
  wide, high = max(size, int(width * scale)), max(size, int(height * scale))
  image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR)
  top, left = (high - size) // 2, (wide - size) // 2
  return image[top : top + size, left : left + size]


if __name__ == '__main__':
  main()
