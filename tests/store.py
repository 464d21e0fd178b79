"""What tests of buckets share: files of the folder that gs:// is."""


def put(path, content='x'):
  """Writes a file, and its folders."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content)


def contents(folder):
  """Text by path."""
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in folder.rglob('*')
    if path.is_file()
  }


def noted(folder, what):
  """What was read or written since the last call."""
  path = folder / f'.{what}'
  lines = path.read_text().splitlines() if path.exists() else []
  path.unlink(missing_ok=True)
  return lines
