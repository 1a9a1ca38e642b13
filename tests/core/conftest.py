"""What tests of reading share."""

import containers as box
import pytest

from ft_assets.core.read import read_records


@pytest.fixture
def read(tmp_path):
    def run(name, data):
        return list(read_records(box.written(tmp_path, name, data), name))

    return run
