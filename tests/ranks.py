"""``torchrun tests/ranks.py REQUEST...``: each request trained by these ranks, one after another, so that what they import is
paid for once.
"""

import sys
from pathlib import Path

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ft_assets.worker import train
from ft_assets.worker.job import Job

if __name__ == "__main__":
    for request in sys.argv[1:]:
        unset_hf_deepspeed_config()  # of the request before
        train.run(Job.read(Path(request)))
