from vimonet_jax import page


def test_pictures_are_inside_and_words_are_escaped():
  assert page.image('gif', b'abc', 'a "b"') == (
    '<img class="gif" alt="a &quot;b&quot;" src="data:image/gif;base64,YWJj">'
  )
  assert '<script>' not in page.document('<script>', '')
  assert '&lt;b&gt;' in page.missing('<b>')


def test_a_bar_is_as_long_as_its_share():
  text = page.bars([('both', 0.75, 0.7, 0.8)])
  assert 'width:75.0%' in text
  assert 'left:70.0%;width:10.0%' in text
  assert '>75.0<' in text


def test_a_block_title_spans_its_table_and_notes_are_numbered():
  assert 'colspan="4"' in page.block('Measured', 4)
  assert page.footnotes([]) == ''
  assert page.footnotes(['<a>']) == (
    '<ol class="notes"><li>&lt;a&gt;</li></ol>'
  )
  assert page.footnotes(['a'], is_numbered=False).startswith('<ul')
