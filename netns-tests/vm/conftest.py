"""What needs a kernel of Debian's, and so runs in the machine of `machine.py` only: `make test-vm`.

The fixtures are those of the namespace tests; everything takes longer here, to start above all.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for `lines`, as for `observe` one floor up

collect_ignore_glob = [] if os.environ.get("BONDVPN_VM") else ["test_*.py"]
