"""``python -m ft_assets.recipes.demo_data [FOLDER]`` writes the bundled sources (default: beside this file)."""

import sys
from pathlib import Path

from ft_assets.recipes.demo_data.generate import write

for path in write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
    print(path)
