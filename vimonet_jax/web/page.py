"""What is on the page, and which handler each part of it calls.

.---------------.---------------------.
| stage.js      | transcript.py       |
| body, frames  | question and        |
| files         | answers             |
| examples      | [ask] [compare]     |
'---------------'---------------------'
|  usage policy                       |
'-------------------------------------'
"""

import pathlib
from collections.abc import Mapping, Sequence

import gradio as gr

from vimonet_jax import page as parts
from vimonet_jax.apps import uploads
from vimonet_jax.web import clip as clips
from vimonet_jax.web import handlers, talk

_FOLDER = pathlib.Path(__file__).parent
# None of them is for others than the page; its own signs say what it does.
_OWN = {'api_visibility': 'private', 'show_progress': 'hidden'}


# Of what is longer than a question may be its length is sent, not all of it: a
# request that is longer than site.py lets in would end without a sentence. The
# blanks around it do not count.
_COUNTED = f"""(question, ...others) => {{
  const letters = Array.from(question.trim());
  const sent = letters.slice(0, {handlers.MOST_LETTERS + 1}).join('');
  return [sent, ...others.slice(0, -1), letters.length];
}}"""


def build(
  does: handlers.Handlers,
  *,
  about: str,
  endings: Mapping[str, Sequence[str]],
  most_bytes: Mapping[str, int],
) -> gr.Blocks:
  """The page.

  Args:
    does: what happens on it.
    about: the model in a few words.
    endings: medium -> endings of the files that can be given.
    most_bytes: medium -> of such a file.
  """
  with gr.Blocks(
    title='ViMoNet', analytics_enabled=False, fill_width=True
  ) as blocks:
    _html(f'<h1>ViMoNet</h1><p>{parts.escape(about)}</p>', 'head')
    _live('server')
    with gr.Row(elem_id='sides'):
      stage = _stage(does.examples, endings, most_bytes)
      with gr.Column(elem_id='chat'):
        log = _html(handlers.HINT, 'log')
        question = gr.Textbox(
          label='Question',
          show_label=False,
          placeholder='Ask a question',
          max_lines=4,
          submit_btn='Ask',
          elem_id='question',
        )
        told = _live('told', handlers.QUIET)
        # Of the question, as the page counts them.
        letters = gr.Number(0, visible=False)
        with gr.Row(elem_id='switches'):
          compare = gr.Checkbox(
            label='Compare', elem_id='compare', container=False
          )
          stop = gr.Button('Stop', size='sm', scale=0, min_width=60)
          anew = gr.Button('Start over', size='sm', scale=0, min_width=90)
    with gr.Column(elem_id='policy'):
      agrees = _policy(does)
    shown = [stage, question, log, told]
    # Two files that are dropped together are read one after the other.
    stage.given(
      does.give,
      None,
      shown,
      trigger_mode='multiple',
      concurrency_limit=1,
      **_OWN,
    )
    stage.removed(does.remove, None, shown, **_OWN)
    stage.example(does.choose, None, shown, **_OWN)
    anew.click(does.begin_anew, None, shown, **_OWN)
    question.submit(
      does.ask,
      [question, compare, agrees, letters],
      [log, question, told],
      js=_COUNTED,
      concurrency_limit=None,
      **_OWN,
    )
    # Past the queue it would take another route, which is not there.
    stop.click(does.stop, None, None, concurrency_limit=None, **_OWN)
    blocks.unload(does.leave)
  # The scheduler has a queue of its own, in which places are shown.
  blocks.queue(api_open=False, default_concurrency_limit=8, max_size=1024)
  return blocks


def _stage(
  examples: Sequence[clips.Clip],
  endings: Mapping[str, Sequence[str]],
  most_bytes: Mapping[str, int],
) -> gr.HTML:
  return gr.HTML(
    clips.as_shown(clips.NOTHING),
    html_template=_read('stage.html'),
    js_on_load=_read('body.js') + _read('stage.js'),
    apply_default_css=False,
    elem_id='stage',
    endings={medium: list(some) for medium, some in endings.items()},
    most_bytes=dict(most_bytes),
    pair=[uploads.ANGLES, uploads.BODY],
    examples=[
      {'kind': talk.names(clips.media(clip)), 'question': clip.question}
      for clip in examples
    ],
  )


def _policy(does: handlers.Handlers) -> gr.Checkbox:
  """The text, open where it has to be accepted, and a box to do so."""
  is_open = 'open' if does.policy.required else ''
  _html(
    f'<details {is_open}><summary>Usage policy</summary>'
    f'<pre>{parts.escape(does.policy.text)}</pre></details>'
  )
  return gr.Checkbox(
    label='I have read the usage policy and agree to it.',
    visible=does.policy.required,
    container=False,
  )


def _live(name: str, value: Mapping[str, str] | None = None) -> gr.HTML:
  """A part that a script of its own fills."""
  return gr.HTML(
    value,
    html_template=_read(f'{name}.html'),
    js_on_load=_read(f'{name}.js'),
    apply_default_css=False,
    elem_id=name,
  )


def _html(text: str, name: str | None = None) -> gr.HTML:
  return gr.HTML(text, elem_id=name, apply_default_css=False, js_on_load=None)


def theme() -> gr.themes.Base:
  """Quiet, and with the system's letters: none are fetched."""
  return gr.themes.Base(
    primary_hue='teal',
    neutral_hue='stone',
    font=('system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif'),
    font_mono=('ui-monospace', 'monospace'),
  ).set(
    # Gradio's own grey has a contrast of 2.5 on white; 4.5 are needed.
    body_text_color_subdued='*neutral_500',
    input_placeholder_color='*neutral_500',
    input_placeholder_color_dark='*neutral_400',
  )


def style() -> str:
  """Style sheet of the whole page."""
  return _read('page.css')


def _read(name: str) -> str:
  return (_FOLDER / name).read_text(encoding='utf-8')
