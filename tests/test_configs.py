"""What the presets promise that no code checks for them."""

import collections
import math

import numpy as np
import presets
import pytest

from vimonet_jax import corpus, sharding
from vimonet_jax.data import text, tokenizer, views
from vimonet_jax.synthetic import world
from vimonet_jax.train import stages


@pytest.fixture(scope='module')
def layout(tmp_path_factory):
  """Of the tiny preset, whose tokenizer takes a second to train."""
  config = presets.load('tiny')
  said = corpus._said(config, world.World().text_record, 0)
  made = corpus._tokenizer(config, str(tmp_path_factory.mktemp('tiny')), said)
  return text.Layout(
    made,
    text.TEMPLATES[config.text.template],
    video_tokens=corpus.model(config, vocab_size=1).video_tokens,
  )


@pytest.fixture(scope='module')
def clips():
  return [world.World().make_record('train', i) for i in range(60)]


@pytest.mark.parametrize('stage', ['language', 'video', 'align', 'instruct'])
def test_rows_of_the_tiny_preset_are_long_enough(stage, layout, clips):
  """What does not fit is left out, and nobody would learn the long ones."""
  config = presets.load('tiny')[stage]
  for name, mix in config.mixes.items():
    view = views.View(
      media=mix.media,
      caption_share=mix.caption_share,
      max_turns=mix.max_turns,
      domain_weights=mix.get('domain_weights', {}),
    )
    rng = np.random.default_rng(0)
    shown = clips
    if config.get('stand_in'):
      shown = [world.World().text_record('train', i) for i in range(200)]
    lengths = [
      len(text.encode_dialog(view(record, rng), layout)['tokens'])
      for record in shown
    ]
    assert np.mean(np.array(lengths) > mix.length) < 0.02, (name, lengths)


@pytest.mark.parametrize('name', ['tiny', 'mocap'])
def test_smoke_has_a_folder_of_its_own_and_others_are_refused(name):
  assert presets.load(name).workdir != presets.load(name, 'smoke').workdir
  with pytest.raises(ValueError, match=f'configs/{name}.py:smoke, found'):
    presets.load(name, 'big')


def test_smoke_is_the_same_road():
  whole, smoke = presets.load('tiny'), presets.load('tiny', 'smoke')
  assert smoke.stage_names == whole.stage_names
  for stage in whole.stage_names:
    assert smoke[stage].trainable == whole[stage].trainable
    assert set(smoke[stage].mixes) == set(whole[stage].mixes)
    assert smoke[stage].steps < whole[stage].steps / 10


@pytest.mark.parametrize(
  'name', ['mocap', 'vicuna7b', 'vimos', 'studies/ablation']
)
def test_what_no_model_matters_for_can_be_done_with_every_preset(name):
  assert presets.load(name).annotate == presets.load('tiny').annotate


@pytest.mark.parametrize('arg', ['', 'motion'])
def test_the_paper_preset_has_the_published_sizes(arg):
  config = presets.load('vicuna7b', arg)
  model = corpus.model(config, vocab_size=32000, adapters=config.instruct.lora)
  made = stages.make('instruct', config.instruct, model)
  sizes = collections.Counter()
  for path, x in sharding.unbox(made.abstract()[0]).items():
    part = 'lora' if '/lora_' in path else path.split('/')[0]
    if part == 'translators':
      part = path.split('/')[1] + ' translator'
    sizes[part] += math.prod(x.shape)
  wanted = {
    'llm': 6_738_415_616,
    'lora': 33_554_432,
    'motion': 9_587_200,
    'motion translator': 2_101_248,
  }
  if arg != 'motion':
    wanted['video translator'] = 20_979_712
    # Of 404,187,136: without the last block and the norm after it.
    wanted['video'] = 404_187_136 - 16_804_864 - 2 * 1024
  assert sizes == wanted
  assert model.video_tokens == 2048
  assert model.motion_tokens == 49
  assert model.llm.lora.scale == 0.25


@pytest.mark.parametrize('stage', ['align', 'instruct'])
def test_rows_of_the_paper_preset_are_long_enough(stage, clips, shared_data):
  config = presets.load('vicuna7b')
  model = corpus.model(config, vocab_size=32000)
  pieces = tokenizer.Tokenizer.load(
    str(shared_data / 'tokenizer' / 'tokenizer.model')
  )
  paper = corpus.layout(config, pieces)
  assert paper.video_tokens == model.video_tokens
  for mix in config[stage].mixes.values():
    view = views.View(
      media=mix.media,
      caption_share=mix.caption_share,
      max_turns=mix.max_turns,
    )
    rng = np.random.default_rng(0)
    for record in clips[:20]:
      row = text.encode_dialog(view(record, rng), paper)
      assert len(row['tokens']) <= mix.length
