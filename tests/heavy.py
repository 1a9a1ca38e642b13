"""Reads files in this process and tells of each, as a line of JSON, what came of it and what it took.

``python tests/heavy.py FILE...``: the records' positions and reasons, seconds, and the most memory so far in MiB, of this
process and of its children. (The kernel's ``ru_maxrss`` of a process begins with that of the one that started it.)
"""

import json
import re
import resource
import sys
import time
from pathlib import Path

from ft_assets.core.read import read_records


def own_peak() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def peak_of_children() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


for name in sys.argv[1:]:
    began = time.monotonic()
    rows, kept, faults = 0, 0, []
    for record in read_records(Path(name), name):
        rows += 1
        kept += record.fault is None
        if record.fault is not None and len(faults) < 10:
            faults.append([record.position, record.fault.reason.value, str(record.fault)])
    told = {"rows": rows, "kept": kept, "faults": faults, "seconds": time.monotonic() - began}
    print(json.dumps({**told, "mib": own_peak(), "child_mib": peak_of_children()}))
