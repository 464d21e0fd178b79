"""What the tests of the verbs begin with."""

import pytest
import slices


@pytest.fixture
def cloud(tmp_path):
  return slices.Cloud(tmp_path)
