import sys

from td_flax import extras


def test_what_is_not_drawn_without_matplotlib_is_one_line(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)  # cannot be imported
  assert extras.pyplot('runs/x: plots') is None
  assert capsys.readouterr().err == (
    'runs/x: plots: not drawn; that needs the extra `plot`: '
    "pip install 'td_flax[plot]'\n"
  )
