"""Imports go down the floors, never up and never in a circle.

The table below is the package's map (floor 0 at the bottom). A module may
import lower floors and modules listed before it in its own group.
"""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / 'vimonet_jax'

# One list per floor; each floor is a list of groups that do not see each
# other; inside a group, later modules may import earlier ones.
FLOORS = (
  (
    'motion.skeleton motion.features motion.bvh motion.amc motion.smpl '
    'motion.body_model motion.readers motion.checks motion.corrupt motion.draw',
    'chat_cache chat_messages chat_sender chat_api',
  ),
  (
    'data.records '
    'synthetic.body synthetic.gaits synthetic.gestures synthetic.mishaps '
    'synthetic.actions synthetic.recordings '
    'synthetic.raster synthetic.figures synthetic.places synthetic.things '
    'synthetic.scene synthetic.language synthetic.question '
    'synthetic.asked_of_order synthetic.asked_of_motion '
    'synthetic.asked_of_video synthetic.asked_of_both synthetic.contrasts '
    'synthetic.questions synthetic.world synthetic.people '
    'data.tokenizer data.text data.video_file data.video data.windows '
    'data.long_motion data.captions '
    'data.motion_files data.found data.survey data.clips data.kin data.sources '
    'data.conversations data.caption_folders data.qa_layouts data.qa_files '
    'data.attached data.amass_files data.amass data.motionx_files data.motionx '
    'data.video_folder data.video_sets data.babel_questions '
    'data.babel_segments data.babel_sets data.joined data.dataset '
    'data.examples data.beam data.builder data.contents data.views '
    'data.augment data.packing data.skipped data.batches',
    'models.dtypes models.quantize models.lora models.attention '
    'models.llama models.clip_video models.motion_vqvae '
    'models.translators models.vimonet',
  ),
  (
    'allocator cluster compiled disk locks sharding fingerprint checkpoint '
    'weight_files weight_writer convert.files convert.mapping '
    'convert.decoder_tables convert.encoder_tables convert.source_config '
    'convert.statistics_files',
  ),
  (
    'train.losses train.optimizer train.stages train.step train.log '
    'train.loop',
    'infer.generate infer.model_folder infer.engine infer.likelihood '
    'infer.conversation infer.pieces infer.clips infer.slots '
    'infer.scheduler infer.warming',
  ),
  (
    'page curves eval.judge eval.changes eval.benchmarks eval.own_items '
    'eval.caption_baselines eval.media '
    'eval.vimonet_bench eval.activitynet_qa eval.mv_bench eval.scores '
    'eval.babel_qa '
    'eval.judge_replies eval.asking eval.llm_judge eval.predictions_file '
    'eval.humanml3d_captions eval.embedder eval.retrieval eval.bertscore '
    'eval.published eval.run eval.text_baseline eval.scoring eval.tables '
    'eval.verdicts_file '
    'eval.examples eval.paper_rows eval.paper_tables eval.paper_layout '
    'eval.robustness eval.studies eval.study_claims eval.study_tables '
    'annotation.clips annotation.key_frames annotation.claims '
    'annotation.contradictions annotation.prompts annotation.replies '
    'annotation.results annotation.batch_files annotate audit.watermark '
    'audit.signature audit.provenance audit.policy audit.privacy audit.log '
    'audit.verify audit.compared audit.chance audit.bias audit.wording '
    'audit.attributes audit.bias_page care.geometry care.evidence care.events '
    'care.detectors care.calibration care.figure care.timeline '
    'plan.chips plan.flops plan.traffic '
    'plan.cost plan.search plan.words report card audit.model_card',
    'parity.work_folder parity.jax_side parity.torch_networks '
    'parity.torch_side parity.handout parity.sides parity.verdicts '
    'parity.plots parity.report',
  ),
  (
    'apps.inputs apps.confined apps.uploads apps.listening apps.show apps.chat '
    'apps.answer apps.detect apps.features apps.completions web.clip web.noted '
    'web.talk web.transcript web.handlers web.page web.site apps.demo '
    'apps.service apps.serve apps.given apps.monitor',
  ),
  (
    'base claim named_sources corpus importing outcome exporting suite '
    'judging captioning evaluation auditing pipeline study comparison '
    'plan.steps planning outputs signing main',
  ),
)
# Neither sees the other: `main` builds a Stage and hands it to the loop.
FORBIDDEN = {
  ('train.stages', 'train.loop'),
  ('train.loop', 'train.stages'),
}


def _places() -> dict[str, tuple[int, int, int]]:
  return {
    module: (floor, group, place)
    for floor, groups in enumerate(FLOORS)
    for group, names in enumerate(groups)
    for place, module in enumerate(names.split())
  }


def _modules() -> dict[str, pathlib.Path]:
  return {
    '.'.join(path.relative_to(PACKAGE).with_suffix('').parts): path
    for path in PACKAGE.rglob('*.py')
    if path.name != '__init__.py'
  }


def _imports(path: pathlib.Path) -> set[str]:
  """Modules of this package that a file imports anywhere, as dotted names."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return {
    name.removeprefix('vimonet_jax.')
    for name in found
    if name.startswith('vimonet_jax.')
  }


def violations(imports: dict[str, set[str]]) -> list[str]:
  """What in `imports` (module -> imported modules) breaks the map."""
  places = _places()
  found = []
  for module, targets in sorted(imports.items()):
    if module not in places:
      found.append(f'{module} has no floor: add it to FLOORS')
      continue
    for target in sorted(targets):
      if target not in places:
        found.append(
          f'{module} imports {target}: import modules, not names, and add '
          'new modules to FLOORS'
        )
        continue
      floor, group, place = places[module]
      to_floor, to_group, to_place = places[target]
      down = to_floor < floor
      beside = (to_floor, to_group) == (floor, group) and to_place < place
      if not (down or beside) or (module, target) in FORBIDDEN:
        found.append(f'{module} must not import {target}')
  return found


def test_every_import_goes_down():
  assert not violations(
    {name: _imports(path) for name, path in _modules().items()}
  )


def test_an_upward_import_is_found():
  assert violations({'motion.features': {'data.records'}})
  assert violations({'models.llama': {'data.text'}})
  assert violations({'train.loop': {'train.stages'}})
  assert violations({'data.records': {'data.text'}})
  assert violations({'a.new.file': set()})


def test_init_files_are_empty():
  for path in PACKAGE.rglob('__init__.py'):
    assert not path.read_text().strip(), f'{path} must stay empty'
