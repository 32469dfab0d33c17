"""What parity is measured against has to be right itself."""

import json

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs torch')

import torch_models  # noqa: E402

from vimonet_jax.train import losses  # noqa: E402

VIDEO = {
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 3,
  'num_attention_heads': 2,
  'image_size': 12,
  'patch_size': 4,
  'num_frames': 3,
}
MOTION = {'width': 8, 'code_dim': 6, 'nb_code': 10, 'depth': 2}
CLIPS = torch.from_numpy(
  np.random.default_rng(0).normal(size=(2, 3, 3, 12, 12)).astype(np.float32)
)
HEADS = {'every head its own': 4, 'two heads share': 2}


@pytest.fixture
def parity(shared_data):
  return shared_data / 'parity'


def _arrays(path):
  return {name: torch.from_numpy(x) for name, x in np.load(path).items()}


def _near(found, wanted, **tolerance):
  torch.testing.assert_close(
    found.detach(), wanted, **{'rtol': 1e-5, 'atol': 1e-5, **tolerance}
  )


def _random(module, deviation=0.3):
  """Fresh parameters would hide mistakes: norms are the identity."""
  generator = torch.Generator().manual_seed(1)
  for name, x in sorted(module.named_parameters()):
    around = float('norm' in name and name.endswith('weight'))
    x.data.normal_(around, deviation, generator=generator)
  return module.eval()


def _vqvae(parity):
  model = torch_models.Vqvae(**json.loads(_read(parity, 'config'))['vqvae'])
  checkpoint = torch.load(parity / 'vqvae.pth', weights_only=True)
  model.load_state_dict(checkpoint['net'], strict=True)
  return model.eval()


def _read(folder, name):
  return (folder / f'{name}.json').read_text()


def test_the_video_tower_is_the_original(parity):
  load = pytest.importorskip('safetensors.torch', reason='needs safetensors')
  fields = json.loads(_read(parity, 'video_tower_config'))['vision_config']
  tower = torch_models.VideoTower(**fields).eval()
  tensors = load.load_file(parity / 'video_tower.safetensors')
  tower.load_state_dict(tensors, strict=True)
  io = _arrays(parity / 'video_tower_io.npz')
  states = tower(io['pixel_values'])
  assert len(states) == 1 + len(tower.layers)
  _near(states[0], io['hidden_first'])
  _near(states[-2], io['hidden_selected'])
  _near(states[-1], io['hidden_last'])
  _near(tower.tokens(io['pixel_values']), io['tokens'])
  for layer, before, after in zip(
    tower.layers, states[:-1], states[1:], strict=True
  ):
    _near(layer(before), after, rtol=0, atol=0)


def test_the_video_projector_is_the_original(parity):
  io = _arrays(parity / 'video_projector_io.npz')
  model = torch_models.video_projector(64, 64)
  model.load_state_dict(
    torch.load(parity / 'video_projector.pth', weights_only=True), strict=True
  )
  _near(model(io['features']), io['output'])


def test_the_vqvae_is_the_original(parity):
  io = _arrays(parity / 'vqvae_io.npz')
  model = _vqvae(parity)
  lengths = [int(name[7:]) for name in io if name.startswith('motion_')]
  assert sorted(lengths) == [40, 41, 42, 43, 100, 196, 199]
  for length in lengths:
    motion = io[f'motion_{length}']
    latents = model.encode(motion)
    _near(latents[0], io[f'encoder_{length}'])
    codes = model.codes(latents)
    assert torch.equal(codes, io[f'codes_{length}'])
    if f'recon_{length}' in io:
      _near(model.decode(model.vectors(codes)), io[f'recon_{length}'])
      decoded, found = model(motion)
      _near(decoded, io[f'recon_{length}'])
      assert torch.equal(found.codes, codes)


def test_the_codebook_follows_as_the_original_does(parity):
  io = _arrays(parity / 'quantiser_training.npz')
  model = torch_models.Quantizer(48, 64).train()
  for i in range(4):
    found = model(io[f'latents_{i}'].transpose(1, 2))
    for ours, theirs in (
      (found.quantised.transpose(1, 2), 'quantised'),
      (found.commitment, 'commit'),
      (found.perplexity, 'perplexity'),
      (model.codebook, 'codebook'),
      (model.total, 'sum'),
      (model.count, 'count'),
    ):
      _near(ours, io[f'{theirs}_{i}'], msg=lambda m, n=theirs: f'{n}: {m}')
  # Neither sums nor counts are in the original's file.
  assert set(model.state_dict()) == {'codebook'}
  before = model.codebook.clone()
  model.eval()(io['latents_0'].transpose(1, 2))
  assert torch.equal(model.codebook, before)


def test_few_latents_fill_the_codebook_with_noise_between_them():
  model = torch_models.Quantizer(10, 6).train()
  latents = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
  model(latents)
  away = (model.codebook - latents[0].repeat(3, 1)[:10]).abs()
  assert 1e-3 < away.max() < 0.1


def test_gradients_pass_straight_through_the_codebook():
  model = torch_models.Quantizer(10, 6).eval()
  generator = torch.Generator().manual_seed(0)
  model.codebook.normal_(generator=generator)
  latents = torch.randn(2, 3, 6, generator=generator, requires_grad=True)
  weights = torch.randn(2, 3, 6, generator=generator)
  found = model(latents)
  (through,) = torch.autograd.grad((found.quantised * weights).sum(), latents)
  assert torch.equal(through, weights)
  (pull,) = torch.autograd.grad(found.commitment, latents)
  _near(pull, 2 * (latents - found.quantised).detach() / latents.numel())


def _clip(tower):
  """A stock CLIP with the tower's weights but those over time."""
  transformers = pytest.importorskip(
    'transformers', reason='needs transformers'
  )
  fields = {name: n for name, n in VIDEO.items() if name != 'num_frames'}
  config = transformers.CLIPVisionConfig(**fields, hidden_act='gelu')
  clip = transformers.CLIPVisionModel(config).eval()
  # Some versions of transformers have the level `vision_model`, others not.
  prefix = '' if hasattr(clip, 'embeddings') else 'vision_model.'
  tensors = {
    prefix + name.removeprefix('vision_model.'): x
    for name, x in tower.state_dict().items()
    if 'temporal' not in name
  }
  missing, unexpected = clip.load_state_dict(tensors, strict=False)
  assert not unexpected
  assert all('position_ids' in name for name in missing)
  return clip


def test_without_its_temporal_parts_the_tower_is_a_stock_clip():
  tower = _random(torch_models.VideoTower(**VIDEO))
  clip = _clip(tower)

  def compare():
    frames = CLIPS.transpose(1, 2).flatten(0, 1)
    wanted = clip(frames, output_hidden_states=True).hidden_states
    found = tower(CLIPS)
    assert len(found) == len(wanted) == 4
    return [
      float((ours.flatten(0, 1) - theirs).abs().max())
      for ours, theirs in zip(found, wanted, strict=True)
    ]

  with torch.no_grad():
    assert compare()[-1] > 0.1
    for layer in tower.layers:
      layer.temporal_embedding.zero_()
      layer.temporal_attn.out_proj.weight.zero_()
      layer.temporal_attn.out_proj.bias.zero_()
    assert max(compare()) < 1e-5


@torch.no_grad()
def test_frames_meet_at_each_position_alone():
  tower = _random(torch_models.VideoTower(**VIDEO))
  x = tower.embed(CLIPS)
  layer = tower.layers[0]
  layer.self_attn.out_proj.weight.zero_()
  other = x.clone()
  other[0, 1, 4, 0] += 1.0
  moved = (layer(x) - layer(other)).abs().amax(-1) > 1e-4
  wanted = torch.zeros_like(moved)
  wanted[0, :, 4] = True
  assert torch.equal(moved, wanted)


@torch.no_grad()
def test_class_tokens_stand_first_in_their_frames_or_are_dropped():
  tower = _random(torch_models.VideoTower(**VIDEO))
  state = tower(CLIPS)[1]
  kept = tower.tokens(CLIPS, select_layer=1, keep_class_token=True)
  assert torch.equal(kept.unflatten(1, (3, 10)), state)
  dropped = tower.tokens(CLIPS, select_layer=1)
  assert torch.equal(dropped.unflatten(1, (3, 9)), state[:, :, 1:])


def test_a_whole_languagebind_file_loads_and_a_wrong_one_does_not():
  tower = torch_models.VideoTower(**VIDEO)
  whole = tower.state_dict() | {
    'vision_model.embeddings.position_ids': torch.arange(10)[None],
    'text_model.final_layer_norm.weight': torch.ones(4),
    'logit_scale': torch.ones(()),
  }
  tower.load_state_dict(whole, strict=True)
  assert 'logit_scale' in whole
  whole['vision_model.encoder.layers.3.temporal_embedding'] = torch.ones(1)
  with pytest.raises(RuntimeError, match='Unexpected.*layers.3.temporal_embed'):
    tower.load_state_dict(whole, strict=True)


def test_what_the_tower_does_not_compute_is_refused():
  with pytest.raises(ValueError, match="'gelu'.*found 'quick_gelu'"):
    torch_models.VideoTower(**VIDEO, hidden_act='quick_gelu')
  tower = torch_models.VideoTower(**VIDEO)
  with pytest.raises(ValueError, match=r'\[B, 3, 3, 12, 12\].*\[2, 3, 2, 12'):
    tower(CLIPS[:, :, :2])


def test_projectors_have_the_names_of_the_originals():
  def shapes(model):
    return {name: tuple(x.shape) for name, x in model.state_dict().items()}

  assert shapes(torch_models.motion_projector(6, 5)) == {
    'linear_proj.weight': (5, 6),
    'linear_proj.bias': (5,),
  }
  assert shapes(torch_models.video_projector(6, 5)) == {
    '0.weight': (5, 6),
    '0.bias': (5,),
    '2.weight': (5, 5),
    '2.bias': (5,),
  }


def test_the_published_networks_have_their_parameters():
  with torch.device('meta'):
    tower = torch_models.VideoTower(
      hidden_size=1024,
      intermediate_size=4096,
      num_hidden_layers=24,
      num_attention_heads=16,
      image_size=224,
      patch_size=14,
    )
    vqvae = torch_models.Vqvae()
  assert _size(tower) == 404_187_136
  assert _size(vqvae.vqvae['encoder']) == 9_587_200
  assert _size(vqvae.vqvae['decoder']) == 9_849_607
  assert vqvae.vqvae['quantizer'].codebook.numel() == 262_144


def _size(model):
  return sum(x.numel() for x in model.parameters())


def _llama(kv_heads, **changes):
  transformers = pytest.importorskip(
    'transformers', reason='needs transformers'
  )
  config = transformers.LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=kv_heads,
    rms_norm_eps=1e-5,
    **{'attn_implementation': 'eager', **changes},
  )
  return _random(transformers.LlamaForCausalLM(config))


def _rows(*lengths, length=12, media=(), seed=0):
  """Two rows of the same packed segments, on the left, with other words."""
  generator = torch.Generator().manual_seed(seed)
  made = {
    'tokens': torch.randint(0, 32, (2, length), generator=generator),
    'positions': torch.zeros(2, length, dtype=torch.int64),
    'segment_ids': torch.zeros(2, length, dtype=torch.int64),
    'media_index': torch.full((2, length), -1),
  }
  start = 0
  for number, size in enumerate(lengths, 1):
    made['positions'][:, start : start + size] = torch.arange(size)
    made['segment_ids'][:, start : start + size] = number
    start += size
  made['tokens'][:, start:] = 0
  for place, row in media:
    made['media_index'][:, place] = row
  return made


def _bank(rows=3):
  return torch.randn(2, rows, 16, generator=torch.Generator().manual_seed(5))


def _splice(model, rows, bank=None):
  return torch_models.splice_forward(model, *rows.values(), bank)


@pytest.mark.parametrize('kv_heads', HEADS.values(), ids=list(HEADS))
@torch.no_grad()
def test_one_segment_is_what_the_model_makes_of_it_plainly(kv_heads):
  model = _llama(kv_heads)
  rows = _rows(9)
  found = _splice(model, rows)
  assert found.shape == (2, 12, 32)
  assert torch.isfinite(found).all()  # Padding, too.
  _near(found[:, :9], model(rows['tokens'][:, :9]).logits)


@pytest.mark.parametrize('kv_heads', HEADS.values(), ids=list(HEADS))
@torch.no_grad()
def test_packed_segments_are_what_they_are_alone(kv_heads):
  model = _llama(kv_heads)
  rows = _rows(5, 4)
  found = _splice(model, rows)
  for part in (slice(0, 5), slice(5, 9)):
    _near(found[:, part], model(rows['tokens'][:, part]).logits)
  # Unpacked, the second would have seen the first.
  joined = model(rows['tokens'][:, :9]).logits
  assert (found[:, 5:9] - joined[:, 5:]).abs().max() > 0.1


@torch.no_grad()
def test_positions_are_the_rows_own():
  model, rows = _llama(4), _rows(9)
  near = _splice(model, rows)[:, :9]
  rows['positions'] *= 3
  wanted = model(
    rows['tokens'][:, :9], position_ids=rows['positions'][:, :9]
  ).logits
  _near(_splice(model, rows)[:, :9], wanted)
  assert (near - wanted).abs().max() > 0.1


@torch.no_grad()
def test_the_banks_rows_stand_where_they_are_asked_for():
  model, bank = _llama(4), _bank()
  rows = _rows(5, 4, media=[(1, 2), (2, 0), (6, 1)])
  x = model.get_input_embeddings()(rows['tokens'])
  x[:, 1], x[:, 2], x[:, 6] = bank[:, 2], bank[:, 0], bank[:, 1]
  found = _splice(model, rows, bank)
  for part in (slice(0, 5), slice(5, 9)):
    _near(found[:, part], model(inputs_embeds=x[:, part]).logits)
  # Words under media are nobody's business, nor are rows that none asks for.
  rows['tokens'][:, [1, 2, 6]] = 7
  more = torch.cat([bank, torch.full((2, 1, 16), float('nan'))], 1)
  assert torch.equal(found, _splice(model, rows, more))


@torch.no_grad()
def test_adapters_around_the_decoder_are_used():
  peft = pytest.importorskip('peft', reason='needs peft')
  plain, rows = _splice(_llama(4), _rows(5, 4)), _rows(5, 4)
  config = peft.LoraConfig(r=2, target_modules=['q_proj', 'v_proj'])
  model = peft.get_peft_model(_llama(4), config).eval()
  _near(_splice(model, rows), plain)  # They begin as nothing.
  for name, x in model.named_parameters():
    if 'lora_B' in name:
      x.fill_(0.5)
  adapted = _splice(model, rows)
  assert (adapted - plain).abs().max() > 0.1
  _near(adapted[:, :5], model(rows['tokens'][:, :5]).logits)


def test_another_attention_is_refused():
  model = _llama(4, attn_implementation='sdpa')
  with pytest.raises(ValueError, match="'eager', found 'sdpa'"):
    _splice(model, _rows(5))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_gradients_reach_every_parameter(dtype):
  tower = _random(torch_models.VideoTower(**VIDEO)).to(dtype)
  vqvae = _random(torch_models.Vqvae(**MOTION)).to(dtype).train()
  video = torch_models.video_projector(16, 16).to(dtype)
  motion = torch_models.motion_projector(6, 16).to(dtype)
  llama = _llama(2).to(dtype)
  clips = torch.randn(2, 8, 263, generator=torch.Generator().manual_seed(2))
  decoded, found = vqvae(clips)
  assert (decoded.dtype, vqvae.codes(found.quantised).shape) == (dtype, (2, 2))
  bank = torch.cat(
    [motion(vqvae.encode(clips)), video(tower.tokens(CLIPS, select_layer=-1))],
    dim=1,
  )
  assert bank.dtype == dtype
  rows = _rows(10, media=[(place, place) for place in range(1, 8)])
  logits = _splice(llama, rows, bank)
  assert logits.dtype == torch.float32
  mask = rows['positions'] > 7
  loss = torch_models.token_loss(
    logits, rows['tokens'], mask, rows['segment_ids']
  )
  (
    loss.loss_sum + found.commitment + decoded.float().square().mean()
  ).backward()
  for model in (tower, vqvae, video, motion, llama):
    for name, x in model.named_parameters():
      if 'post_layernorm' in name:
        assert x.grad is None
      else:
        assert torch.isfinite(x.grad).all(), name
        # A key's bias moves all scores of a query alike.
        assert x.grad.any() or 'k_proj.bias' in name, name


def test_the_codebook_stays_float32():
  model = torch_models.Vqvae(**MOTION)
  model.vqvae['quantizer'].codebook += 1 / 3
  before = model.vectors(torch.arange(10))
  model.to(torch.bfloat16)
  assert torch.equal(model.vectors(torch.arange(10)), before)
  assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize('with_positions', [True, False])
def test_the_loss_is_that_of_training(with_positions):
  rows = _rows(1, 5, 4, seed=3)
  if with_positions:
    rows['segment_ids'][:, 6:10] = 2  # Two neighbours of one number.
  generator = torch.Generator().manual_seed(4)
  rows['loss_mask'] = torch.rand(2, 12, generator=generator) < 0.7
  rows['loss_mask'][:, [0, 1, 6, 10]] = True  # None of these is a target.
  logits = 3 * torch.randn(2, 12, 32, generator=generator)
  targets = rows['tokens'][:, 1:].clone()
  logits[0, :-1].scatter_(1, targets[:1].T, 20.0)  # A row that is all right.
  found = torch_models.token_loss(
    logits,
    rows['tokens'],
    rows['loss_mask'],
    rows['segment_ids'],
    rows['positions'] if with_positions else None,
  )
  batch = {name: x.numpy() for name, x in rows.items()}
  wanted = losses.token_loss(logits.numpy(), lambda x: x, batch, chunk=12)
  assert 0 < float(found.correct) < float(found.count)
  for name in wanted._fields:
    ours, theirs = float(getattr(found, name)), float(getattr(wanted, name))
    assert ours == pytest.approx(theirs, rel=1e-5), name
  nothing = torch.zeros_like(rows['loss_mask'])
  empty = torch_models.token_loss(
    logits, rows['tokens'], nothing, rows['segment_ids']
  )
  assert [float(x) for x in empty] == [0.0, 0.0, 0.0]
