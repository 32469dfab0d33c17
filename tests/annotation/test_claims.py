import pytest

from vimonet_jax.annotation import claims


def _read(text: str) -> str:
  return ' '.join(f'{c.kind} {c.value}' for c in claims.read(text))


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('A person waves with the left hand.', 'arm left'),
    ('a man raises his right arm', 'arm right'),
    ('the left arm is swinging', 'arm left'),
    ('his left arm swings', 'arm left'),
    ('moves slowly to the right', 'side right'),
    ('someone kicks with the right foot', 'leg right'),
    ('He lifts up his left leg.', 'leg left'),
    ('Someone is hopping on the left leg.', 'stance left'),
    ('she balances shakily on her right foot', 'stance right'),
    ('the man turns to his left', 'turn left'),
    ('makes a sharp right turn', 'turn right'),
    ('walks in a counter-clockwise circle', 'turn left'),
    ('spins around clockwise', 'turn right'),
    ('steps sideways to the right', 'side right'),
    ('sidesteps left', 'side left'),
    ('a person walks slowly backwards', 'way backward'),
    ('a person falls to the left', 'fall left'),
    ('falling forward', 'fall forward'),
    (
      'walks forward, then turns right and waves with the left hand',
      'way forward turn right arm left',
    ),
    ('punches with the left fist and then the right arm waves',
     'arm left arm right'),
  ],
)  # fmt: skip
def test_what_is_plainly_said_is_read(text, expected):
  assert _read(text) == expected


@pytest.mark.parametrize(
  'text',
  [
    # Denied, left open, or guessed.
    'He does not raise the left arm.',
    'a person raises the left or the right arm',
    'perhaps the left hand waves',
    'waves with both hands, the left one higher than usual',
    # Held, touched, stood by: none of them has to move.
    'holds the left hand up',
    'walks with the right hand raised',
    'the left arm is raised',
    'moves the box to the right',
    # Of two arms, one is read; who knows what the other does meanwhile.
    'raises the left arm with the right arm on the hip',
    'the right hand touches the left knee',
    'poses with the right leg out',
    'looks over the left shoulder',
    'stands to the left of a chair',
    # Other things that turn, and other rights.
    'turns the head to the left',
    'rotates the torso to the right',
    'turns right around',
    'walks to the right hand side',
    'everything is all right',
    # Here and there.
    'walks forward, backward and sideways',
    'moves to the left and to the right',
    # Arms go forward, the body does not.
    'bends forward while swinging the arms',
    'walks back to the start',
  ],
)
def test_what_is_not_plainly_said_is_not_read(text):
  assert _read(text) == ''


def test_only_what_is_told_in_order_is_in_order():
  told = 'turns left, then turns right'
  assert all(claim.is_ordered for claim in claims.read(told))
  for told in (
    'before she turns left, she turns right',
    'turns left after turning right',
    'turns left while turning right',
  ):
    assert not any(claim.is_ordered for claim in claims.read(told)), told


@pytest.mark.parametrize(
  ('question', 'answer', 'expected'),
  [
    ('Which arm does he raise?', 'The left one.', 'arm left'),
    ('Which arm is raised?', 'The left one.', ''),
    ('Which hand is waving?', 'Left.', 'arm left'),
    ('Is he waving with the left or the right arm?', 'It is the left arm.',
     'arm left'),
    ('Does she turn to her left or to her right?', 'Right.', 'turn right'),
    ('Does she turn left or right?', 'First right, then left.', ''),
    ('Which leg kicks? A) left B) right', 'B) right', 'leg right'),
    ('The man turns to his left.', 'True.', 'turn left'),
    ('The man turns to his left.', 'True, he turns to his left.',
     'turn left turn left'),
    ('The man turns to his left.', 'False, he turns to his right.',
     'turn right'),
    ('The man turns to his left.', 'False.', ''),
    ('Does the man turn left?', 'No.', ''),
    ('Does he raise the left arm?', 'Yes, he raises the left arm.',
     'arm left'),
    ('Which hand holds the cup?', 'The left one.', ''),
    ('Which arm is waving?', 'Neither the left nor the right one.', ''),
    ('Which arm is waving?', 'First the left, then the right one.', ''),
    ('Which side is the chair on?', 'The left.', ''),
  ],
)  # fmt: skip
def test_an_answer_is_read_with_its_question(question, answer, expected):
  found = claims.read_turn(question, answer)
  assert ' '.join(f'{c.kind} {c.value}' for c in found) == expected
