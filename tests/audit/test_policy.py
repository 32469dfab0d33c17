import ml_collections
import pytest

from vimonet_jax.audit import policy


def _config(**settings):
  return ml_collections.ConfigDict({'policy': settings})


def test_the_policy_that_comes_along_says_what_it_is_not_for():
  found = policy.read(ml_collections.ConfigDict())
  assert not found.required
  for said in ('medical', 'who somebody is', 'wrong', 'responsible'):
    assert said in found.text


def test_an_own_text_has_a_version_of_its_own(tmp_path):
  path = tmp_path / 'policy.txt'
  path.write_text('Be kind.\n')
  found = policy.read(_config(file=str(path), required=True))
  assert found.text == 'Be kind.\n'
  assert found.version != policy.read(_config()).version
  path.write_text('Be very kind.\n')
  assert policy.read(_config(file=str(path))).version != found.version


def test_nothing_is_asked_where_nothing_is_required():
  policy.check(policy.read(_config()), None)


@pytest.mark.parametrize('accepted', [None, '', 'yes', 'a' * 500])
def test_who_has_not_accepted_it_is_told_what_to_send(accepted):
  found = policy.read(_config(required=True))
  with pytest.raises(policy.NotAcceptedError) as info:
    policy.check(found, accepted)
  assert f'X-Usage-Policy: {found.version}' in str(info.value)
  assert len(str(info.value)) < 300
  policy.check(found, found.version)


def test_a_file_without_a_text_is_one_sentence(tmp_path):
  path = tmp_path / 'policy.txt'
  path.write_text(' \n')
  with pytest.raises(ValueError, match='found it empty; write it'):
    policy.read(_config(file=str(path)))
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(ValueError, match='no UTF-8; save it'):
    policy.read(_config(file=str(path)))
