"""Uses the web page of a finished work folder as a visitor would, and looks.

    pip install -e '.[demo]' playwright
    python tests/benchmarks/demo_in_browser.py --workdir=workdir/tiny \\
      --motion=walk.bvh --video=walk.mp4 --output=shots

An example, a motion file and a video, played, asked about twice each, stopped,
and compared, on a desk and on a phone, in light and dark. It fails on a request
to anywhere else, on an error in the browser, and on an answer that does not
come. One answer is written at a time, so that one that is not stopped is in the
way; a small model's are soon over, so it is enough to be in time on one screen.
Pictures of each step are for somebody to look at. `--browser` is a Chromium or
Chrome to use in place of Playwright's own.
"""

import argparse
import pathlib
import re
import signal
import subprocess
import sys
import time

from playwright import sync_api

ROOT = pathlib.Path(__file__).parents[2]
# Width, height, and whether it is a phone.
SCREENS = {'desk': (1280, 800, False), 'phone': (390, 844, True)}
# How often an answer may be over before somebody can stop it.
_TRIES = 5
# Stops an answer as soon as there is something of it.
_STOP = """() => {
  const log = document.querySelector('#log');
  const stop = [...document.querySelectorAll('#switches button')].find(
    (button) => button.textContent.trim() === 'Stop');
  new MutationObserver((_, watching) => {
    const said = [...log.querySelectorAll('.said:has(.caret)')].pop();
    if (!said?.textContent) return;
    watching.disconnect();
    stop.click();
  }).observe(log, {childList: true, subtree: true, characterData: true});
}"""
# What a first answer may take, its program being compiled.
_PATIENCE_S = 180.0


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True, help='of a finished run')
  parser.add_argument('--config', default='configs/tiny.py', help='of the run')
  parser.add_argument('--motion', required=True, help='a motion file')
  parser.add_argument('--video', required=True, help='a video file')
  parser.add_argument('--output', required=True, help='folder of pictures')
  parser.add_argument('--browser', help='a Chromium')
  args = parser.parse_args()
  pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  server, url = _started(args)
  print(f'{url} is ready after {time.monotonic() - start:.1f} s')
  try:
    with sync_api.sync_playwright() as playwright:
      browser = playwright.chromium.launch(
        executable_path=args.browser, args=['--no-sandbox']
      )
      has_stopped = False
      for name, (width, height, is_phone) in SCREENS.items():
        for scheme in ('light', 'dark'):
          context = browser.new_context(
            viewport={'width': width, 'height': height},
            has_touch=is_phone,
            color_scheme=scheme,
          )
          shots = pathlib.Path(args.output, f'{name}-{scheme}')
          visitor = _Visitor(context, url, shots)
          visitor.go_through(args)
          has_stopped |= visitor.has_stopped
          context.close()
      browser.close()
  finally:
    server.send_signal(signal.SIGINT)
    ended = server.wait(timeout=60)
  if ended:
    sys.exit(f'Expected a quiet end after Ctrl-C, found exit code {ended}.')
  if not has_stopped:
    sys.exit('Expected to stop an answer, found all of them over before that.')
  print('All of it works, and nothing was asked of anybody else.')


def _started(args: argparse.Namespace) -> tuple[subprocess.Popen, str]:
  """The server, and where it is."""
  server = subprocess.Popen(
    [
      sys.executable, '-m', 'vimonet_jax.main', f'--config={args.config}',
      '--task=demo', f'--workdir={args.workdir}', '--config.demo.port=0',
      '--config.demo.rows=1',
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )  # fmt: skip
  for line in server.stdout:
    if found := re.match(r'(http://\S+) is ready', line):
      return server, found[1]
  sys.exit(f'Expected a server, found exit code {server.wait()}.')


class _Visitor:
  """Somebody with a browser.

  Attributes:
    has_stopped: an answer, before it was over.
  """

  def __init__(self, context, url: str, shots: pathlib.Path):
    self.has_stopped = False
    self._url, self._shots, self._number = url, shots, 0
    self._page = context.new_page()
    self._page.set_default_timeout(1000 * _PATIENCE_S)
    self._page.on('request', self._check_request)
    self._page.on('response', self._check_response)
    self._page.on('console', self._check_console)
    self._page.on('pageerror', lambda error: self._fail(f'error: {error}'))
    self._wrong: list[str] = []

  def go_through(self, args: argparse.Namespace) -> None:
    """Everything, once; ends the program with what was wrong."""
    try:
      self._do_all(args)
    except sync_api.Error as error:
      self._look('stuck')
      self._fail(str(error))
    if self._wrong:
      sys.exit('\n'.join(self._wrong))

  def _do_all(self, args: argparse.Namespace) -> None:
    page, start = self._page, time.monotonic()
    page.goto(self._url)
    page.wait_for_selector('.examples button')
    self._look(f'opened in {time.monotonic() - start:.1f} s')
    self._ask('What is this?', expect='#told .failed:not(:empty)')
    self._ask('x' * 3_000_000, expect='#told .failed:text("found 3000000")')
    self._look('too long')
    page.click('.examples button:has(small:text-is("motion"))')
    page.wait_for_selector('.view.motion')
    self._play()
    self._ask(page.input_value('#question textarea'))
    self._ask('And then?')
    self._look('example')
    for kind, path in (('motion', args.motion), ('video', args.video)):
      self._give(kind, path)
      self._ask('What does the person do first?')
      self._ask('And then?')
      self._look(kind)
    self._stop()
    page.check('#compare input')
    for question in ('Where is this, and what is done first?', 'Who is it?'):
      self._ask(question, answers=4)
      self._look('compare')
    self._give('motion', __file__, fails=True)
    self._look('refused')
    page.click('.chip button >> nth=0')
    page.wait_for_selector('.view.video:not(.motion)')
    self._look('one is taken back')
    self._start_again()

  def _play(self) -> None:
    """With hands and with keys; what is drawn has to change."""
    page = self._page
    clock = page.locator('.clock')
    before = clock.text_content()
    page.wait_for_function(
      'before => document.querySelector(".clock").textContent != before',
      arg=before,
    )
    canvas = page.locator('canvas')
    canvas.focus()
    page.keyboard.press('Space')
    for key in ('Home', 'ArrowRight', 'Shift+ArrowRight', '+'):
      drawn = canvas.evaluate('x => x.toDataURL()')
      page.keyboard.press(key)
      if canvas.evaluate('x => x.toDataURL()') == drawn:
        self._fail(f'{key} changes nothing')
    drawn, box = canvas.evaluate('x => x.toDataURL()'), canvas.bounding_box()
    middle = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 20)
    page.mouse.up()
    if canvas.evaluate('x => x.toDataURL()') == drawn:
      self._fail('pulling the body turns nothing')
    self._look('turned')

  def _stop(self) -> None:
    """In the middle of an answer: it ends there, and the next one comes."""
    page = self._page
    for _ in range(_TRIES):
      before = page.locator('.turn').count()
      page.evaluate(_STOP)
      self._ask('What does the person do from the beginning to the end?')
      if 'stopped' in page.locator('.how').nth(before).text_content():
        self.has_stopped = True
        self._look('stopped')
        self._ask('And before that?')
        return

  def _start_again(self) -> None:
    """The server says that it is another one; the page has to tell."""
    page, where = self._page, '**/gradio_api/app_id'
    page.route(where, lambda route: route.fulfill(json={'app_id': 1}))
    page.wait_for_selector('.notice button')
    self._look('another server')
    page.unroute(where)
    page.click('.notice button')
    page.wait_for_selector('.view .empty:visible')
    page.wait_for_selector('.notice', state='hidden')

  def _give(self, kind: str, path: str, *, fails: bool = False) -> None:
    page = self._page
    with page.expect_file_chooser() as chooser:
      page.click(f'.pick[data-kind={kind}]')
    chooser.value.set_files(path)
    if fails:
      page.wait_for_selector('.stage .failed:not(:empty)')
    else:
      page.wait_for_selector(f'.chip:has-text("{pathlib.Path(path).name}")')
      page.wait_for_selector(f'.view.{kind}')

  def _ask(self, question: str, *, answers: int = 1, expect: str = '') -> None:
    """Waits for whole answers, or for something else on the page."""
    page = self._page
    before, start = page.locator('.turn').count(), time.monotonic()
    page.fill('#question textarea', question)
    page.keyboard.press('Enter')
    if expect:
      page.wait_for_selector(expect)
      return
    turn = page.locator('.turn').nth(before)
    turn.wait_for()
    page.wait_for_function(
      """([before, answers]) => {
        const turn = document.querySelectorAll('.turn')[before];
        const said = turn.querySelectorAll('.said:not(:has(.caret))');
        return said.length === answers;
      }""",
      arg=[before, answers],
    )
    print(f'{question} {time.monotonic() - start:.1f} s')
    for line in turn.locator('.how').all_text_contents():
      if 'tokens read in' not in line:
        self._fail(f'{question} ended with {line!r}')
    aloud = page.locator('#told .aloud').text_content()
    said = turn.locator('.said').all_text_contents()
    if not all(text in aloud for text in said):
      self._fail(f'{question} is read out as {aloud!r}, found {said}')

  def _look(self, what: str) -> None:
    """A picture, and whether all fits in the width."""
    self._number += 1
    name = re.sub(r'\W+', '-', what)
    path = f'{self._shots}-{self._number:02d}-{name}.png'
    self._page.screenshot(path=path, full_page=True)
    print(path)
    # Its end is where it begins to scroll.
    left = self._page.locator('#log').evaluate('x => -x.scrollTop')
    if left > 2:
      self._fail(f'{what}: the last {left} pixels of the talk are not seen')
    wide, there = self._page.evaluate(
      '[document.documentElement.scrollWidth, innerWidth]'
    )
    if wide > there:
      self._fail(f'{what} is {wide} pixels wide, the screen {there}')

  def _check_request(self, request) -> None:
    if not request.url.startswith((self._url, 'data:', 'blob:')):
      self._fail(f'asks for {request.url}')

  def _check_response(self, response) -> None:
    # But for the file that is none.
    if response.status >= 400 and '/clip?' not in response.url:
      self._fail(f'{response.url} is answered with {response.status}')

  def _check_console(self, message) -> None:
    if (
      message.type == 'error' and 'Failed to load resource' not in message.text
    ):
      self._fail(f'console: {message.text}')

  def _fail(self, what: str) -> None:
    self._wrong.append(f'{self._shots.name}: {what}')


if __name__ == '__main__':
  main()
